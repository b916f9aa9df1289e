"""Greedy decoding of many rows: finished ones leave, waiting ones take their place."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from heretic.inference.rows import Owner, Rows, join
from heretic.inference.steps import STEPS_BETWEEN_READS, Steps
from heretic.model.loading import Model

# Text is decoded again as a whole, so not for each token.
TOKENS_BETWEEN_LOOKS = 4


class Waiting(Protocol):
    """Rows that have not begun yet."""

    def take(self, room: int) -> Rows | None:
        """The next rows, if there are any and not more than `room`."""


@dataclass(frozen=True)
class Ending:
    """When an answer ends.

    Attributes:
        tokens: that end it, and are no part of it.
        longest: most tokens of an answer.
        settled: of some answers so far, whether what follows can no longer matter.
    """

    tokens: Collection[int]
    longest: int
    settled: Callable[[Sequence[str]], Sequence[bool]]


def decode_rows(
    model: Model,
    steps: Steps,
    waiting: Waiting,
    most_rows: int,
    ending: Ending,
    assign: Callable[[Sequence[Owner]], None],
) -> Mapping[Owner, list[int]]:
    """Greedy answers of all waiting rows, as far as they were needed.

    Args:
        model: holds the edits of all trials whose rows are waiting.
        steps: of this model.
        waiting: where new rows come from whenever there is room.
        most_rows: at once.
        ending: of answers.
        assign: tells the model to which trials the rows of the next passes belong.

    Returns:
        Tokens of each answer without the end token: those of plain greedy decoding, up to the point
        where the answer was settled.
    """
    answers: dict[Owner, list[int]] = {}
    rows: Rows | None = None
    while True:
        rows = _filled(rows, waiting, most_rows)
        if rows is None:
            return answers
        added = steps.n_computed(rows) - len(rows)
        assign([*rows.owners, *rows.owners[-1:] * added])
        rows = _run(model, steps, rows, ending, answers)


def _filled(rows: Rows | None, waiting: Waiting, most_rows: int) -> Rows | None:
    parts = [] if rows is None else [rows]
    room = most_rows - sum(map(len, parts))
    while room > 0 and (new := waiting.take(room)) is not None:
        new.read()
        parts.append(new)
        room -= len(new)
    return join(parts) if parts else None


@dataclass
class _Progress:
    """How much of a row's answer has been searched for an end, and for what settles it."""

    scanned: int = 0
    looked: int = 0


def _run(
    model: Model, steps: Steps, rows: Rows, ending: Ending, answers: dict[Owner, list[int]]
) -> Rows | None:
    """Step until rows are worth taking out; those that are left, or None."""
    open_rows = {row: _Progress() for row in range(len(rows))}
    between_reads = 1 if model.device.type == "cpu" else STEPS_BETWEEN_READS
    steps.begin(rows)
    while True:
        _close(model, rows, ending, open_rows, answers)
        n_done = len(rows) - len(open_rows)
        if not open_rows or n_done >= steps.share_worth_taking_out * len(rows):
            break
        for _ in range(between_reads):
            steps.step(rows)
        rows.read()
    steps.end(rows)
    return rows.select(list(open_rows)) if open_rows else None


def _close(
    model: Model,
    rows: Rows,
    ending: Ending,
    open_rows: dict[int, _Progress],
    answers: dict[Owner, list[int]],
) -> None:
    """Move answers that are done from `open_rows` to `answers`; their rows may go on unread."""
    look: list[int] = []
    for row, progress in list(open_rows.items()):
        answer = rows.answers[row]
        new, progress.scanned = range(progress.scanned, len(answer)), len(answer)
        end = next((i for i in new if answer[i] in ending.tokens), None)
        if end is not None or len(answer) >= ending.longest:
            answers[rows.owners[row]] = answer[: ending.longest if end is None else end]
            del open_rows[row]
        elif len(answer) - progress.looked >= TOKENS_BETWEEN_LOOKS:
            progress.looked = len(answer)
            look.append(row)
    if look:
        texts = model.chat.decode_all([rows.answers[row] for row in look])
        for row, settled in zip(look, ending.settled(texts), strict=True):
            if settled:
                answers[rows.owners[row]] = list(rows.answers[row])
                del open_rows[row]
