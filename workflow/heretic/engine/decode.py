"""Greedy decoding of many rows with continuous batching."""

from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol

from heretic.engine.decode_batch import DecodeBatch, RowKey, join
from heretic.engine.speculative import DraftCache, Guess
from heretic.engine.steps import StepRunner
from heretic.model.loading import Model

# Decoding the whole text takes as long as a step of a small network; with this interval, a settled
# answer is detected at most one token late.
TOKENS_BETWEEN_LOOKS = 2


class RowSource(Protocol):
    """Source of rows, and context of their passes."""

    def take(self, room: int) -> DecodeBatch | None:
        """Return the next rows, at most `room`, if there are any."""

    def assign(self, owners: Sequence[RowKey]) -> None:
        """Assign the rows of the next passes to trials."""

    def passing(
        self, rows: DecodeBatch, guesses: Sequence[Sequence[int]]
    ) -> AbstractContextManager[None] | None:
        """Return the context that shortens a pass over the rows and some draft tokens, if any."""


@dataclass(frozen=True)
class StopCriteria:
    """Condition that ends an answer.

    Attributes:
        tokens: end tokens, which are not part of the answer.
        longest: maximum number of answer tokens.
        settled: for partial answers, whether further tokens no longer matter.
    """

    tokens: Collection[int]
    longest: int
    settled: Callable[[Sequence[str]], Sequence[bool]]


def decode_rows(
    model: Model,
    steps: StepRunner,
    source: RowSource,
    most_rows: int,
    ending: StopCriteria,
    drafts: DraftCache | None = None,
) -> Mapping[RowKey, list[int]]:
    """Return greedy answers of all waiting rows, as far as needed.

    Args:
        model: model with the edits of all trials whose rows are waiting.
        steps: decoding steps of this model.
        source: source of new rows, used whenever there is room.
        most_rows: maximum number of concurrent rows.
        ending: end condition of answers.
        drafts: earlier answers, from which tokens are drafted and to which answers are added.

    Returns:
        Tokens of each answer without the end token: those of plain greedy decoding, up to the point
        where the answer was settled.
    """
    decoding = _Decoding(model, steps, source, ending, drafts)
    rows: DecodeBatch | None = None
    while (rows := _filled(rows, source, most_rows)) is not None:
        rows = decoding.run(rows)
    return decoding.answers


def _filled(rows: DecodeBatch | None, source: RowSource, most_rows: int) -> DecodeBatch | None:
    parts = [] if rows is None else [rows]
    room = most_rows - sum(map(len, parts))
    while room > 0 and (new := source.take(room)) is not None:
        new.read()
        parts.append(new)
        room -= len(new)
    return join(parts) if parts else None


@dataclass
class _Progress:
    """State of a row's answer: positions searched for an end and for settled text."""

    scanned: int = 0
    looked: int = 0


class _Decoding:
    """Decodes rows until they are done; arguments and result are those of `decode_rows`."""

    def __init__(
        self,
        model: Model,
        steps: StepRunner,
        source: RowSource,
        ending: StopCriteria,
        drafts: DraftCache | None,
    ) -> None:
        self._model, self._steps, self._source = model, steps, source
        self._ending, self._drafts = ending, drafts
        self._progress: dict[RowKey, _Progress] = {}
        self.answers: dict[RowKey, list[int]] = {}

    def run(self, rows: DecodeBatch) -> DecodeBatch | None:
        """Step until rows are worth removing; return the remaining rows, or None."""
        steps = self._steps
        self._source.assign(
            [*rows.owners, *rows.owners[-1:] * (steps.n_computed(rows) - len(rows))]
        )
        steps.begin(rows)
        open_rows = self._close(rows, range(len(rows)))
        while open_rows and len(rows) - len(open_rows) < steps.share_worth_taking_out * len(rows):
            guesses = self._guesses(rows, open_rows)
            if self._drafts is not None and any(guess.tokens for guess in guesses):
                groups = self._drafts.groups(guesses, open_rows)
                if len(groups) > 1:
                    return self._verify_apart(rows, guesses, groups)
                self._verify(rows, guesses)
            else:
                for _ in range(steps.between_reads):
                    steps.step(rows)
                rows.read()
            open_rows = self._close(rows, open_rows)
        steps.end(rows)
        return rows.select(open_rows) if open_rows else None

    def _guesses(self, rows: DecodeBatch, open_rows: Sequence[int]) -> list[Guess]:
        if self._drafts is None:
            return []
        ends = [0] * len(rows)
        for row in open_rows:
            # The last token of an answer need not be processed.
            ends[row] = self._ending.longest - 1
        return self._drafts.propose(rows.owners, rows.answers, ends, rows.room)

    def _verify(self, rows: DecodeBatch, guesses: Sequence[Guess]) -> None:
        tokens = [guess.tokens for guess in guesses]
        right = rows.verify(self._model, tokens, self._source.passing(rows, tokens))
        if self._drafts is not None:
            self._drafts.judge(guesses, right)

    def _verify_apart(
        self, rows: DecodeBatch, guesses: Sequence[Guess], groups: Sequence[Sequence[int]]
    ) -> DecodeBatch | None:
        """Run a pass per group of rows with similar draft lengths; return the remaining rows."""
        self._steps.end(rows)
        left = []
        for group in groups:
            part = rows.select(group)
            self._source.assign(part.owners)
            self._verify(part, [guesses[row] for row in group])
            open_rows = self._close(part, range(len(part)))
            if open_rows:
                left.append(part.select(open_rows) if len(open_rows) < len(part) else part)
        return join(left) if left else None

    def _close(self, rows: DecodeBatch, open_rows: Sequence[int]) -> list[int]:
        """Store the answers of rows that are done or need no further tokens.

        Returns:
            The open rows that are not done.
        """
        look: list[int] = []
        done: set[int] = set()
        for row in open_rows:
            answer = rows.answers[row]
            progress = self._progress.setdefault(rows.owners[row], _Progress())
            new, progress.scanned = range(progress.scanned, len(answer)), len(answer)
            end = next((i for i in new if answer[i] in self._ending.tokens), None)
            if end is not None and end < self._ending.longest:
                self._keep(rows.owners[row], answer[:end], [answer[end]])
            elif len(answer) >= self._ending.longest:
                self._keep(rows.owners[row], answer[: self._ending.longest])
            else:
                if len(answer) - progress.looked >= TOKENS_BETWEEN_LOOKS:
                    progress.looked = len(answer)
                    look.append(row)
                continue
            done.add(row)
        if look:
            texts = self._model.chat.decode_all([rows.answers[row] for row in look])
            for row, settled in zip(look, self._ending.settled(texts), strict=True):
                if settled:
                    self._keep(rows.owners[row], list(rows.answers[row]))
                    done.add(row)
        return [row for row in open_rows if row not in done]

    def _keep(self, owner: RowKey, answer: list[int], end: Sequence[int] = ()) -> None:
        self.answers[owner] = answer
        if self._drafts is not None:
            self._drafts.learn(owner.prompt, [*answer, *end])
