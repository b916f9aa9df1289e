"""Limits on the amount read from a source: sufficient for any run, with bounded memory."""

from collections.abc import Iterable, Mapping
from typing import Any

from heretic.errors import PromptError

# Text files are read completely.
MOST_FILE_BYTES = 100_000_000
# Rows read, even if a slice selects only a few of them.
MOST_ROWS = 1_000_000
# Rows selected. The states of 100,000 prompts of a 7B model would take 50 GB.
MOST_PROMPTS = 100_000
MOST_TEXT = 300_000_000
# Lists and objects of a JSON text, which take far more memory than their brackets.
MOST_JSON_VALUES = 3_000_000


def require_rows(count: int, where: str) -> None:
    """Reject reading more rows than `MOST_ROWS`.

    Raises:
        PromptError: there are too many rows; the message states their number.
    """
    if count > MOST_ROWS:
        raise PromptError(
            f"{where} has {count:,} rows, of which at most {MOST_ROWS:,} are read; split it, or "
            "use a Parquet file and a slice such as train[:400]"
        )


def require_prompts(count: int, where: str) -> None:
    """Reject selecting more prompts than `MOST_PROMPTS`.

    Raises:
        PromptError: there are too many prompts; the message states their number.
    """
    if count > MOST_PROMPTS:
        raise PromptError(
            f"{where} gives {count:,} rows, of which at most {MOST_PROMPTS:,} are used; set a "
            "slice in `split`, such as train[:400]"
        )


class TextBudget:
    """Count of the characters of rows as they are read."""

    def __init__(self, where: str) -> None:
        self._where, self._left = where, MOST_TEXT

    def spend(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Count more rows.

        Raises:
            PromptError: the text exceeds `MOST_TEXT`.
        """
        self._left -= sum(_characters(value) for row in rows for value in row.values())
        if self._left < 0:
            raise PromptError(
                f"{self._where} holds more than {MOST_TEXT:,} characters; set a smaller slice in "
                "`split`, such as train[:400]"
            )


def _characters(value: Any) -> int:
    if isinstance(value, str | bytes):
        return len(value)
    if isinstance(value, dict):
        return sum(_characters(each) for each in value.values())
    return sum(_characters(each) for each in value) if isinstance(value, list) else 1
