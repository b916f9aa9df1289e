"""Rows of named columns, and validation of the columns that a prompt set needs."""

from collections.abc import Iterable, Sequence
from typing import Any

from heretic.errors import PromptError

# Only column of a plain text file.
TEXT_COLUMN = "text"
MOST_SHOWN = 2000

Row = dict[str, Any]


def require_columns(columns: Iterable[str], found: Sequence[str], where: str) -> None:
    """Reject columns that do not exist.

    Raises:
        PromptError: a column does not exist; the message names a column that differs only in case
            or blanks, or lists the available ones.
    """
    for column in columns:
        if column in found:
            continue
        similar = next((name for name in found if plain_name(name) == plain_name(column)), None)
        if similar is not None:
            raise PromptError(
                f"{where} has no column {column!r}, but a column {similar!r}; names are "
                f"case-sensitive, so use {similar!r} in the prompt set"
            )
        known = ", ".join(found)[:MOST_SHOWN] or "none"
        raise PromptError(
            f"{where} has no column {column!r}; its columns are: {known}; set `column` (or "
            "`answer_column`, `choices_column`, `category_column`) of the prompt set"
        )


def plain_name(name: str) -> str:
    """Return the name of a column without differences in case and surrounding blanks."""
    return name.strip("\ufeff \t\"'").casefold()
