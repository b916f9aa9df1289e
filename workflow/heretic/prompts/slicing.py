"""Split expressions such as `train[:400]`, with the semantics of `datasets`, and their rows.

They are parsed here as well because files and streams support slices too, and to detect typos
before any import or download.
"""

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

from heretic.errors import PromptError
from heretic.prompts.checks import identity
from heretic.prompts.columns import Row
from heretic.prompts.limits import require_prompts, require_rows
from heretic.prompts.rows import prompt_of
from heretic.settings.prompt_sources import PromptSource

_PART = re.compile(
    r"\s*(?P<split>\w+(?:\.\w+)*)"
    r"(?:\[(?P<start>-?\d{1,15}%?)?:(?P<stop>-?\d{1,15}%?)?\])?\s*"
)
SUBJECT_COLUMN = "subject"
SHOWN = 12
Read = Callable[[str, Sequence[int]], list[Row]]


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


"""Reads the rows of a split at the given places."""


def columns_of(source: PromptSource) -> list[str]:
    """Return the columns required by a source, the prompt's column first."""
    subject = SUBJECT_COLUMN if source.subjects else None
    named = (
        *(source.column, source.answer_column, source.choices_column),
        *(source.category_column, subject),
    )
    return list(dict.fromkeys(column for column in named if column is not None))


def select_rows(
    source: PromptSource, sizes: Mapping[str, int], read: Read, where: str
) -> list[Row]:
    """Return the rows selected by a source.

    Args:
        source: definition of the selection.
        sizes: number of rows of each available split.
        read: returns rows; called for whole splits only if `distinct` or `subjects` require it.
        where: name of the dataset in messages.

    Raises:
        PromptError: a split or subject does not exist, or there are too many rows.
    """
    kept: dict[str, Sequence[int]] = {name: range(size) for name, size in sizes.items()}
    named = [part.split for part in parse_split(source.split)]
    for split in named:
        require_split(split, list(sizes), where)
    if source.subjects or source.distinct:
        require_rows(sum(sizes.values()), where)
    if source.subjects:
        kept |= _of_subjects(source, {name: kept[name] for name in named}, read, where)
    if source.distinct:
        kept = _distinct(source, kept, read, where)
    chosen = choose_rows(source.split, {name: len(rows) for name, rows in kept.items()}, where)
    require_prompts(sum(len(places) for _, places in chosen), where)
    return [
        row
        for name, places in chosen
        for row in read(name, [kept[name][place] for place in places])
    ]


def has_subject(row: Row, source: PromptSource) -> bool:
    """Return whether a row belongs to a subject of the source."""
    return not source.subjects or row.get(SUBJECT_COLUMN) in source.subjects


def _of_subjects(
    source: PromptSource, kept: Mapping[str, Sequence[int]], read: Read, where: str
) -> dict[str, Sequence[int]]:
    found: dict[str, Sequence[int]] = {}
    known: set[str] = set()
    for name, places in kept.items():
        rows = read(name, places)
        known |= {str(row.get(SUBJECT_COLUMN)) for row in rows}
        found[name] = [p for p, row in zip(places, rows, strict=True) if has_subject(row, source)]
    require_subjects(source, known, where)
    return found


def require_subjects(source: PromptSource, known: Collection[str], where: str) -> None:
    """Reject subjects that do not exist.

    Raises:
        PromptError: a subject does not exist; the message lists some of the available ones.
    """
    missing = [subject for subject in source.subjects if subject not in known]
    if missing:
        shown = sorted(known)
        more = f", and {len(shown) - SHOWN} more" if len(shown) > SHOWN else ""
        raise PromptError(
            f"{where} has no row of subject {missing[0]!r}; its subjects are: "
            f"{', '.join(shown[:SHOWN])}{more}"
        )


def _distinct(
    source: PromptSource, kept: Mapping[str, Sequence[int]], read: Read, where: str
) -> dict[str, Sequence[int]]:
    """Drop the rows whose prompt occurred in an earlier row or split."""
    seen: set[tuple[str, str]] = set()
    found: dict[str, Sequence[int]] = {}
    for name, places in kept.items():
        first = []
        for place, row in zip(places, read(name, places), strict=True):
            prompt = prompt_of(row, source, f"row {place + 1} of {where}, split {name}", None)
            if prompt is None or identity(prompt) in seen:
                continue
            seen.add(identity(prompt))
            first.append(place)
        found[name] = first
    return found
