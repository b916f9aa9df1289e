"""Greedy decoding of many rows: finished ones leave, waiting ones take their place."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch

from heretic.inference.rows import Owner, Rows, join
from heretic.model.loading import Model

# An accelerator would stand still whenever it is asked for its tokens.
STEPS_BETWEEN_READS = 4
# Text is decoded again as a whole, so not for each token.
TOKENS_BETWEEN_LOOKS = 4
# Taking rows out copies those that stay.
SHARE_WORTH_TAKING_OUT = 0.125


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
    waiting: Waiting,
    most_rows: int,
    ending: Ending,
    assign: Callable[[Sequence[Owner]], None],
) -> Mapping[Owner, list[int]]:
    """Greedy answers of all waiting rows, as far as they were needed.

    Args:
        model: holds the edits of all trials whose rows are waiting.
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
        assign(rows.owners)
        rows = _run(model, rows, ending, answers)


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


def _run(model: Model, rows: Rows, ending: Ending, answers: dict[Owner, list[int]]) -> Rows | None:
    """Step until rows are worth taking out; those that are left, or None."""
    open_rows = {row: _Progress() for row in range(len(rows))}
    steps = 1 if model.device.type == "cpu" else STEPS_BETWEEN_READS
    while True:
        _close(model, rows, ending, open_rows)
        n_done = len(rows) - len(open_rows)
        if not open_rows or n_done >= SHARE_WORTH_TAKING_OUT * len(rows):
            break
        for _ in range(steps):
            rows.step(model)
        rows.read()
    for row, owner in enumerate(rows.owners):
        if row not in open_rows:
            answers[owner] = rows.answers[row]
    return rows.select(list(open_rows)) if open_rows else None


def _close(model: Model, rows: Rows, ending: Ending, open_rows: dict[int, _Progress]) -> None:
    """Take out of `open_rows` what is done, and cut those answers where they end."""
    look: list[int] = []
    for row, progress in list(open_rows.items()):
        answer = rows.answers[row]
        new, progress.scanned = range(progress.scanned, len(answer)), len(answer)
        end = next((i for i in new if answer[i] in ending.tokens), None)
        if end is not None or len(answer) >= ending.longest:
            rows.answers[row] = answer[: ending.longest if end is None else end]
            del open_rows[row]
        elif len(answer) - progress.looked >= TOKENS_BETWEEN_LOOKS:
            progress.looked = len(answer)
            look.append(row)
    if look:
        texts = model.chat.decode_all([rows.answers[row] for row in look])
        for row, settled in zip(look, ending.settled(texts), strict=True):
            if settled:
                del open_rows[row]
