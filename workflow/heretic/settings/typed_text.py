"""Text settings of the command line, which Snakemake parses as YAML before the workflow reads them.

`run_name=2026_11` arrives as the number 202611, and line breaks in a response prefix are folded.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any, get_args

from heretic.errors import SettingsError, one_line
from heretic.settings.schema import Settings

QUOTES = "'\""
TEXT_TYPES = {str, type(None), list[str]}


def check_typed_text(arguments: Sequence[str], parsed: Mapping[str, Any]) -> None:
    """Reject a text setting whose value is not the text that was typed.

    Args:
        arguments: arguments of the process; the last `key=value` of a setting counts.
        parsed: values of `--config` as parsed by Snakemake.

    Raises:
        SettingsError: a value has changed; the message says how to pass the text.
    """
    for name in _text_settings():
        prefix, value = f"{name}=", parsed.get(name)
        typed = [each.removeprefix(prefix) for each in arguments if each.startswith(prefix)]
        if not typed or name not in parsed or isinstance(value, list):
            continue
        if ("" if value is None else str(value)) not in _readings(typed[-1]):
            raise SettingsError(
                f"--config {one_line(repr(prefix + typed[-1]), 80)} arrives as "
                f"{one_line(repr(value), 80)}, because Snakemake reads it as YAML; set "
                f"HERETIC_{name.upper()} or use `heretic run --{name.replace('_', '-')}`"
            )


def _readings(typed: str) -> Iterator[str]:
    """Yield the text itself and, if it is quoted, the text within the quotes."""
    yield typed
    inner = typed.strip()
    if inner[:1] and inner[0] in QUOTES:
        yield inner.strip(QUOTES)
        with suppress(ValueError, RecursionError):
            yield str(json.loads(inner))


def _text_settings() -> Iterator[str]:
    """Yield the names of the settings whose values are text, or lists of text."""
    for name, field in Settings.model_fields.items():
        kinds = set(get_args(field.annotation)) or {field.annotation}
        if str in kinds and kinds <= TEXT_TYPES:
            yield name
