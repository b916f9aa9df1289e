"""Files of a run as the report reads them: strictly, blaming the file by its name."""

import csv
import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from heretic.errors import HereticError


@contextmanager
def blaming(path: Path) -> Iterator[None]:
    """Turn whatever a file's content makes go wrong into one line that names the file."""
    try:
        yield
    except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError) as error:
        what = f"{error.args[0]!r} is missing" if isinstance(error, KeyError) else str(error)
        raise HereticError(f"{path} is damaged: {what}; delete it and run again") from error


def read_rows(path: Path, columns: tuple[str, ...]) -> list[dict[str, str]]:
    """Rows of a CSV file with a header, each as long as the header.

    Raises:
        HereticError: it is missing, has no rows, lacks one of `columns` or is cut short.
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
    """The number in a cell; None for an empty cell and for what is no finite number.

    Raises:
        ValueError: the cell holds something else.
    """
    value = float(text) if text.strip() else math.nan
    return value if math.isfinite(value) else None
