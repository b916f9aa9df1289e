"""Greedy decoding of many rows: finished ones leave, waiting ones take their place."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from heretic.inference.drafts import DraftBook
from heretic.inference.rows import Owner, Rows, join
from heretic.inference.steps import Steps
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
    drafts: DraftBook | None = None,
) -> Mapping[Owner, list[int]]:
    """Greedy answers of all waiting rows, as far as they were needed.

    Args:
        model: holds the edits of all trials whose rows are waiting.
        steps: of this model.
        waiting: where new rows come from whenever there is room.
        most_rows: at once.
        ending: of answers.
        assign: tells the model to which trials the rows of the next passes belong.
        drafts: of earlier answers, from which tokens are guessed, and to which answers are added.

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
        rows = _run(model, steps, rows, ending, answers, drafts)


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
    model: Model,
    steps: Steps,
    rows: Rows,
    ending: Ending,
    answers: dict[Owner, list[int]],
    drafts: DraftBook | None,
) -> Rows | None:
    """Step until rows are worth taking out; those that are left, or None."""
    open_rows = {row: _Progress() for row in range(len(rows))}
    steps.begin(rows)
    while True:
        closed = _close(model, rows, ending, open_rows)
        for row, (answer, end) in closed.items():
            answers[rows.owners[row]] = answer
            if drafts is not None:
                drafts.learn(rows.owners[row].prompt, [*answer, *end])
        n_done = len(rows) - len(open_rows)
        if not open_rows or n_done >= steps.share_worth_taking_out * len(rows):
            break
        if drafts is not None:
            # The last token of an answer need not be fed.
            ends = [ending.longest - 1 if row in open_rows else 0 for row in range(len(rows))]
            guesses = drafts.propose(rows.owners, rows.answers, ends, rows.room)
            if guesses is not None:
                drafts.judge(rows.owners, guesses, rows.verify(model, guesses))
                continue
        for _ in range(steps.between_reads):
            steps.step(rows)
        rows.read()
    steps.end(rows)
    return rows.select(list(open_rows)) if open_rows else None


def _close(
    model: Model, rows: Rows, ending: Ending, open_rows: dict[int, _Progress]
) -> dict[int, tuple[list[int], list[int]]]:
    """Take rows that are done out of `open_rows`; their further tokens are of no interest.

    Returns:
        By row its answer, and the end token if there is one.
    """
    closed: dict[int, tuple[list[int], list[int]]] = {}
    look: list[int] = []
    for row, progress in open_rows.items():
        answer = rows.answers[row]
        new, progress.scanned = range(progress.scanned, len(answer)), len(answer)
        end = next((i for i in new if answer[i] in ending.tokens), None)
        if end is not None and end < ending.longest:
            closed[row] = answer[:end], [answer[end]]
        elif len(answer) >= ending.longest:
            closed[row] = answer[: ending.longest], []
        elif len(answer) - progress.looked >= TOKENS_BETWEEN_LOOKS:
            progress.looked = len(answer)
            look.append(row)
    if look:
        texts = model.chat.decode_all([rows.answers[row] for row in look])
        for row, settled in zip(look, ending.settled(texts), strict=True):
            if settled:
                closed[row] = list(rows.answers[row]), []
    for row in closed:
        del open_rows[row]
    return closed
