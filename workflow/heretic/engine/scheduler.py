"""Queue of trial rows between prefill and decoding."""

from collections import defaultdict, deque
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import log_softmax

from heretic.ablation.editors import Editor
from heretic.engine.decode_batch import DecodeBatch, RowKey
from heretic.engine.kv_cache import KeyValues
from heretic.engine.prefill import Prefilled
from heretic.engine.study_prompts import StudyBatch, StudyPrompts
from heretic.scoring.kl_divergence import kl_divergence
from heretic.scoring.log_odds import RefusalTokens
from heretic.timing import StageTimer


@dataclass
class _Item:
    """Batch of a trial to be answered.

    Attributes:
        trial: index of the trial.
        batch: prompts of the batch.
        rows: rows of the batch if it is already prefilled.
        measured: whether the log-odds of a bad batch are known.
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
        refusal_tokens: RefusalTokens,
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
            refusal_tokens: tokens whose log-odds are measured on bad prompts.
            clock: times prefills between answers.
            by_row: whether to assign a trial to each row even if all rows share one, so that a
                compiled step always has the same inputs.
        """
        self._editor, self._prompts, self._clock = editor, prompts, clock
        self._first_changed, self._by_row = first_changed, by_row
        self._prefixes: dict[int, KeyValues | None] = {}
        self._compared: list[_Item] = []
        self._items: deque[_Item] = deque()
        self._refusal_tokens, self._log_odds = refusal_tokens, defaultdict[int, list[Tensor]](list)
        self._room_to_keep, self._longest = most_kept, longest

    def compare(self, trial: int) -> float:
        """Compute the mean KL (nats) of good prompts' first response token, original to trial."""
        self._editor.assign(trial)
        self._prefixes[trial] = self._prompts.prefix_key_values(self._first_changed[trial])
        self._compared = []
        divergences: list[float] = []
        for batch in self._prompts.good:
            prefilled = self._prefill(trial, batch)
            assert batch.original is not None  # always set for good prompts
            with torch.inference_mode():
                edited = log_softmax(prefilled.logits.float(), dim=-1)
                divergences += kl_divergence(batch.original, edited).tolist()
            self._compared.append(_Item(trial, batch, self._kept(trial, batch, prefilled)))
        return sum(divergences) / len(divergences)

    def look_ahead(self, trial: int) -> float | None:
        """Return the log-odds of the last compared trial, measured immediately; see `log_odds`."""
        for batch in self._prompts.bad:
            prefilled = self._prefill(trial, batch)
            self._measure(trial, prefilled)
            self._compared.append(_Item(trial, batch, self._kept(trial, batch, prefilled)))
        return self.log_odds(trial)

    def log_odds(self, trial: int) -> float | None:
        """Compute the mean refusal log-odds (nats) of the trial's prefilled bad prompts.

        Return None if there are no refusal tokens, or the trial's prompts were not answered.
        """
        measured = self._log_odds[trial]
        return float(torch.cat(measured).mean()) if measured else None

    def _prefill(self, trial: int, batch: StudyBatch) -> Prefilled:
        return self._prompts.prefill(batch, self._first_changed[trial], self._prefixes[trial])

    def _kept(self, trial: int, batch: StudyBatch, prefilled: Prefilled) -> DecodeBatch | None:
        """Return the rows if there is room to keep them."""
        if len(batch.prompts) > self._room_to_keep:
            return None
        self._room_to_keep -= len(batch.prompts)
        return DecodeBatch.of(prefilled, batch.prompts, trial, self._longest)

    def _measure(self, trial: int, prefilled: Prefilled) -> None:
        if self._refusal_tokens.ids:
            with torch.inference_mode():
                self._log_odds[trial].append(self._refusal_tokens.log_odds(prefilled.logits))

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
                self._measure(item.trial, prefilled)
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
