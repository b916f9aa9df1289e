"""Split expressions such as `train[:400]`, with the semantics of `datasets`.

They are parsed here as well because files and streams support slices too, and to detect typos
before any import or download.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from heretic.errors import PromptError

_PART = re.compile(
    r"\s*(?P<split>\w+(?:\.\w+)*)"
    r"(?:\[(?P<start>-?\d{1,15}%?)?:(?P<stop>-?\d{1,15}%?)?\])?\s*"
)


@dataclass(frozen=True)
class Part:
    """Slice of a split; `start` and `stop` as written: `5`, `-5`, `5%` or None."""

    split: str
    start: str | None
    stop: str | None

    def rows(self, count: int) -> range:
        """Return the rows that the part selects from a split of `count` rows."""
        start, stop, _ = slice(_row(self.start, count), _row(self.stop, count)).indices(count)
        return range(start, max(start, stop))


def parse_split(expression: str) -> list[Part]:
    """Parse parts joined by `+`.

    Raises:
        PromptError: the expression is malformed, or a percentage is above 100.
    """
    parts = []
    for piece in expression.split("+"):
        match = _PART.fullmatch(piece)
        if match is None or any(_too_large(match[side]) for side in ("start", "stop")):
            raise PromptError(
                f"split {expression!r} is not valid; use the form train, train[:400], "
                "train[10%:20%] or train+test"
            )
        parts.append(Part(match["split"], match["start"], match["stop"]))
    return parts


def choose_rows(expression: str, sizes: Mapping[str, int], where: str) -> list[tuple[str, range]]:
    """Return the rows that a split expression selects from each split.

    Args:
        expression: split expression.
        sizes: number of rows of each available split.
        where: name of the dataset in messages.

    Raises:
        PromptError: the expression is malformed or names an unknown split.
    """
    parts = parse_split(expression)
    for part in parts:
        require_split(part.split, list(sizes), where)
    return [(part.split, part.rows(sizes[part.split])) for part in parts]


def require_split(split: str, splits: Sequence[str], where: str) -> None:
    """Reject a split that does not exist.

    Raises:
        PromptError: the split does not exist; the message lists the available ones.
    """
    if split not in splits:
        raise PromptError(f"{where} has no split {split!r}; it has {', '.join(splits)}")


def stream_bounds(expression: str, where: str) -> tuple[str, int, int]:
    """Return split, first row and row after the last of a slice that a stream can read.

    A stream does not know its length, so slices cannot count from the end.

    Raises:
        PromptError: the expression is malformed or is not a single slice with absolute bounds.
    """
    parts = parse_split(expression)
    start, stop = parts[0].start or "0", parts[0].stop or ""
    if len(parts) != 1 or not start.isdecimal() or not stop.isdecimal():
        raise PromptError(
            f"{where} is streamed, so its split must specify the rows to read, like "
            f"{parts[0].split}[:200], not {expression!r}"
        )
    return parts[0].split, int(start), int(stop)


def _row(bound: str | None, count: int) -> int | None:
    if bound is None:
        return None
    return round(int(bound[:-1]) * count / 100.0) if bound.endswith("%") else int(bound)


def _too_large(bound: str | None) -> bool:
    return bound is not None and bound.endswith("%") and abs(int(bound[:-1])) > 100
