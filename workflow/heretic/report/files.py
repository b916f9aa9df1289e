"""Strict reading of a run's files for the report, with errors that name the file."""

import csv
import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from heretic.errors import HereticError


@contextmanager
def blaming(path: Path) -> Iterator[None]:
    """Convert any error caused by a file's contents into one line that names the file."""
    try:
        yield
    except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError) as error:
        what = f"{error.args[0]!r} is missing" if isinstance(error, KeyError) else str(error)
        raise HereticError(f"{path} is damaged: {what}; delete it and run again") from error


def read_rows(path: Path, columns: tuple[str, ...]) -> list[dict[str, str]]:
    """Return the rows of a CSV file with a header, each as long as the header.

    Raises:
        HereticError: The file is missing, has no rows, lacks one of `columns` or is truncated.
    """
    try:
        with path.open(newline="", encoding="utf-8") as stream:
            rows = list(csv.DictReader(stream))
    except (OSError, ValueError, csv.Error) as error:
        raise HereticError(f"cannot read {path}: {error}; delete it and run again") from error
    with blaming(path):
        if not rows:
            raise ValueError("it has no rows")
        missing = [name for name in columns if name not in rows[0]]
        if missing:
            raise ValueError(f"column {missing[0]} is missing")
        if any(None in row or None in row.values() for row in rows):
            raise ValueError("a row has more or fewer values than the header")
    return rows


def number(text: str) -> float | None:
    """Return the number in a cell; None for an empty cell and for non-finite numbers.

    Raises:
        ValueError: The cell is not a number.
    """
    value = float(text) if text.strip() else math.nan
    return value if math.isfinite(value) else None
