"""Queue of trial rows between prefill and decoding."""

from collections import deque
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass

import torch

from heretic.ablation.editors import Editor
from heretic.engine.decode_batch import DecodeBatch, RowKey
from heretic.engine.kv_cache import KeyValues
from heretic.engine.prefill import Prefilled
from heretic.engine.study_prompts import StudyBatch, StudyPrompts
from heretic.scorer_registry import Side
from heretic.scoring.base import FirstTokens, Score
from heretic.scoring.first_token_scores import FirstTokenScorers, FirstTokenScores
from heretic.timing import StageTimer


@dataclass
class _Item:
    """Batch of a trial to be answered.

    Attributes:
        trial: index of the trial.
        batch: prompts of the batch.
        rows: rows of the batch if it is already prefilled.
        measured: whether the first tokens of the batch are scored.
    """

    trial: int
    batch: StudyBatch
    rows: DecodeBatch | None = None
    measured: bool = True


class TrialScheduler:
    """Queue that prefills batches, each in its trial's state, when there is room for their rows."""

    def __init__(
        self,
        editor: Editor,
        prompts: StudyPrompts,
        first_changed: Sequence[int],
        most_kept: int,
        longest: int,
        first_token_scorers: FirstTokenScorers,
        clock: StageTimer,
        *,
        by_row: bool,
    ) -> None:
        """Create an empty queue.

        Args:
            editor: editor with the edits of the trials.
            prompts: prompts of the study.
            first_changed: index of the first layer that each trial edits.
            most_kept: maximum number of rows whose keys and values are kept while they wait.
            longest: maximum number of tokens per answer.
            first_token_scorers: scorers of the prompts' first tokens.
            clock: times prefills between answers.
            by_row: whether to assign a trial to each row even if all rows share one, so that a
                compiled step always has the same inputs.
        """
        self._editor, self._prompts, self._clock = editor, prompts, clock
        self._first_changed, self._by_row = first_changed, by_row
        self._prefixes: dict[int, KeyValues | None] = {}
        self._compared: list[_Item] = []
        self._items: deque[_Item] = deque()
        self._scores = [FirstTokenScores(first_token_scorers) for _ in first_changed]
        self._room_to_keep, self._longest = most_kept, longest

    def compare(self, trial: int) -> None:
        """Score the first response tokens of the good prompts."""
        self._editor.assign(trial)
        self._prefixes[trial] = self._prompts.prefix_key_values(self._first_changed[trial])
        self._compared = []
        self._compare(trial, "good", self._prompts.good)

    def look_ahead(self, trial: int) -> None:
        """Score the first tokens of the bad prompts of the last compared trial immediately."""
        self._compare(trial, "bad", self._prompts.bad)

    def scores(self, trial: int) -> dict[str, Score]:
        """Return a trial's scores of first tokens, as far as their prompts are prefilled."""
        return self._scores[trial].scores()

    def _compare(self, trial: int, side: Side, batches: Sequence[StudyBatch]) -> None:
        for batch in batches:
            prefilled = self._prefill(trial, batch)
            self._measure(trial, side, batch, prefilled)
            self._compared.append(_Item(trial, batch, self._kept(trial, batch, prefilled)))

    def _prefill(self, trial: int, batch: StudyBatch) -> Prefilled:
        return self._prompts.prefill(batch, self._first_changed[trial], self._prefixes[trial])

    def _kept(self, trial: int, batch: StudyBatch, prefilled: Prefilled) -> DecodeBatch | None:
        """Return the rows if there is room to keep them."""
        if len(batch.prompts) > self._room_to_keep:
            return None
        self._room_to_keep -= len(batch.prompts)
        return DecodeBatch.of(prefilled, batch.prompts, trial, self._longest)

    def _measure(self, trial: int, side: Side, batch: StudyBatch, prefilled: Prefilled) -> None:
        indices = self._prompts.indices(side, batch)
        self._scores[trial].add(side, indices, FirstTokens(prefilled.logits, batch.original))

    def reject(self) -> None:
        """Discard the rows of the last compared trial."""
        self._room_to_keep += sum(len(item.rows) for item in self._compared if item.rows)
        self._compared = []

    def add(self, trial: int) -> None:
        """Enqueue all prompts in the state of the last compared trial."""
        self._items.extend(self._compared)
        if len(self._compared) == len(self._prompts.good):
            self._items.extend(_Item(trial, batch, measured=False) for batch in self._prompts.bad)
        self._compared = []

    def take(self, room: int) -> DecodeBatch | None:
        """Return the next rows, if there are any and they fit in `room`."""
        if not self._items or len(self._items[0].batch.prompts) > room:
            return None
        item = self._items.popleft()
        if item.rows is not None:
            return item.rows
        with self._clock.stage("prefill"):
            self._editor.assign(item.trial)
            prefilled = self._prefill(item.trial, item.batch)
            if not item.measured:
                self._measure(item.trial, "bad", item.batch, prefilled)
        return DecodeBatch.of(prefilled, item.batch.prompts, item.trial, self._longest)

    def assign(self, owners: Sequence[RowKey]) -> None:
        """Assign the rows of the next passes to trials in the editor."""
        trials = [owner.trial for owner in owners]
        if self._by_row or len(set(trials)) > 1:
            self._editor.assign(torch.tensor(trials, device=self._editor.model.device))
        else:
            self._editor.assign(trials[0])

    def passing(
        self, rows: DecodeBatch, guesses: Sequence[Sequence[int]]
    ) -> AbstractContextManager[None] | None:
        """Start passes over the rows and some draft tokens at the first edited layer."""
        states = self._prompts.answer_states
        if states is None:
            return None
        first = min(self._first_changed[owner.trial] for owner in rows.owners)
        return states.passing(rows, guesses, first)
