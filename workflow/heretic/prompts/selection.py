"""Row selection of a source: subjects, distinct prompts, then slices."""

from collections.abc import Callable, Collection, Mapping, Sequence

from heretic.errors import PromptError
from heretic.prompts.files import Row
from heretic.prompts.limits import require_prompts, require_rows
from heretic.prompts.overlap import identity
from heretic.prompts.rows import prompt_of
from heretic.prompts.splits import choose_rows, parse_split, require_split
from heretic.settings.prompt_sources import PromptSource

SUBJECT_COLUMN = "subject"
SHOWN = 12

Read = Callable[[str, Sequence[int]], list[Row]]
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
