"""Rejection of implausible values, before type checks and before any message displays them."""

import math
from collections.abc import Mapping
from typing import Any

from heretic.errors import SettingsError, one_line

# Limits per setting, counting every repetition of a YAML alias.
MOST_VALUES = 10_000
MOST_DEPTH = 20
MOST_CHARACTERS = 1_000_000
# Far above any count, size or weight of a run; larger values overflow downstream.
LARGEST = 10**12
SHOWN = 100


def check_plausible(key: str, value: Any, origin: str) -> None:
    """Reject a value that is too large, too deeply nested, or not valid text.

    Args:
        key: Name of the setting.
        value: Value as read from a file, a variable or the command line.
        origin: Source of the value, for the message.

    Raises:
        SettingsError: The value is rejected; the message names the setting and its origin.
    """
    waiting, count = [(value, 0)], 0
    while waiting:
        found, depth = waiting.pop()
        count += 1
        fault = _fault(found)
        if depth > MOST_DEPTH:
            fault = f"is nested more than {MOST_DEPTH} levels deep"
        if count > MOST_VALUES:
            fault = f"holds more than {MOST_VALUES:,} values"
        if fault:
            raise SettingsError(
                f"{one_line(key, SHOWN)} ({origin}) {fault}; see config/README.md for valid values"
            )
        if isinstance(found, Mapping):
            waiting += [(inner, depth + 1) for pair in found.items() for inner in pair]
        elif isinstance(found, list | tuple | set):
            waiting += [(inner, depth + 1) for inner in found]


def shown(value: object, length: int = SHOWN) -> str:
    """Return a value for display in a message: one line of at most `length` characters."""
    return one_line(repr(value), length)


def _fault(value: object) -> str | None:
    if isinstance(value, int | float) and LARGEST < abs(value) < math.inf:
        return f"is larger than {LARGEST:.0e}"
    if isinstance(value, bytes):
        return "is binary"
    if isinstance(value, str):
        if len(value) > MOST_CHARACTERS:
            return f"has more than {MOST_CHARACTERS:,} characters"
        if "\0" in value or any("\ud800" <= character <= "\udfff" for character in value):
            return "is not text"
    return None
