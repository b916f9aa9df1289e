"""The prompts of a study, prepared for repeated passes with changed weights."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

from torch import Tensor
from torch.nn.functional import log_softmax

from heretic.engine.activation_cache import (
    ActivationCachePlan,
    CachedActivations,
    plan_recording,
    record,
)
from heretic.engine.kv_cache import KeyValues, read_key_values
from heretic.engine.prefill import (
    Prefilled,
    PromptBatch,
    prefill,
    prefix_batch,
    prompt_batches,
    tokens_of_a_pass,
)
from heretic.engine.response_cache import AnswerStates
from heretic.model.devices import execution_device
from heretic.model.loading import Model
from heretic.scorer_registry import Side

# Some answers of common lengths; further ones rarely recur, and fewer than one per prompt are
# useless.
MOST_ANSWER_TOKENS, LEAST_ANSWER_TOKENS = 512, 32


@dataclass(frozen=True)
class StudyBatch:
    """A batch of prompts with the unedited network's results.

    Attributes:
        prompts: the batch.
        recording: recording from which a pass may start.
        original: log-probabilities of the first response token [batch, vocabulary], float32; None
            if nothing is compared with them.
    """

    prompts: PromptBatch
    recording: CachedActivations = field(default_factory=CachedActivations)
    original: Tensor | None = None

    def rows(self, first: int, last: int) -> "StudyBatch":
        """Return the rows from `first` to `last` (exclusive)."""
        original = None if self.original is None else self.original[first:last]
        return StudyBatch(
            self.prompts.rows(first, last), self.recording.rows(first, last), original
        )


class StudyPrompts:
    """Good and bad prompts in batches that stay the same from trial to trial.

    Attributes:
        good, bad: batches.
        first_tokens: the original's most likely first response token of each prompt, by side.
        answer_states: states of answers, from which drafts may start; None if nothing is kept.
    """

    def __init__(
        self,
        model: Model,
        good: Sequence[Sequence[int]],
        bad: Sequence[Sequence[int]],
        prefix: int,
        gigabytes: float,
        most_rows: int,
        cost_of_a_pass: int | None = None,
        compared: Collection[Side] = (),
    ) -> None:
        """Run the passes of the unedited network.

        Args:
            model: model in its original state.
            good: token ids of the good prompts.
            bad: token ids of the bad prompts; their indices follow those of the good ones.
            prefix: number of first tokens shared by all, which are computed once; may be 0.
            gigabytes: maximum size of recordings.
            most_rows: maximum number of rows in a batch.
            cost_of_a_pass: fixed cost of a pass in tokens, by default `tokens_of_a_pass`; higher
                values lead to larger batches.
            compared: sides whose original predictions are kept.
        """
        self.model = model
        if cost_of_a_pass is None:
            cost_of_a_pass = tokens_of_a_pass(model)
        self._devices = [execution_device(layer) for layer in model.get_layers()]
        shared = prefix_batch([*good, *bad], prefix, model) if prefix else None
        batches = prompt_batches(good, prefix, most_rows, model, cost_of_a_pass)
        others = [
            batch.shifted(len(good))
            for batch in prompt_batches(bad, prefix, most_rows, model, cost_of_a_pass)
        ]
        self.n_shared, self._plan = prefix, ActivationCachePlan()
        if gigabytes > 0:
            self._plan = plan_recording(model, [*batches, *others], shared, gigabytes)
        self.prefix: StudyBatch | None = None
        key_values: KeyValues | None = None
        if shared is not None:
            prefilled, recording = record(model, shared, None, self._plan)
            self.prefix = StudyBatch(shared, recording)
            key_values = read_key_values(prefilled.cache)
        first: dict[int, int] = {}
        self.good = [
            self._recorded(batch, key_values, first, compared="good" in compared)
            for batch in batches
        ]
        self.bad = [
            self._recorded(batch, key_values, first, compared="bad" in compared) for batch in others
        ]
        in_order = [first[index] for index in range(len(first))]
        self.first_tokens: dict[Side, list[int]] = {
            "good": in_order[: len(good)],
            "bad": in_order[len(good) :],
        }
        self.answer_states: AnswerStates | None = None
        n_prompts = len(good) + len(bad)
        if self._plan.answer_tokens >= LEAST_ANSWER_TOKENS * n_prompts:
            n_outputs = self.good[0].recording.n_outputs
            most = min(self._plan.answer_tokens, MOST_ANSWER_TOKENS * n_prompts)
            self.answer_states = AnswerStates(model, self._plan.layers, n_outputs, most)

    def __str__(self) -> str:
        batches = [*self.good, *self.bad]
        tokens = sum(batch.prompts.inputs.numel() for batch in batches)
        real = sum(int(batch.prompts.mask.sum()) for batch in batches)
        real -= self.n_shared * sum(len(batch.prompts) for batch in batches)
        return (
            f"{sum(len(batch.prompts) for batch in batches)} prompts in {len(batches)} batches, "
            f"{self.n_shared} tokens shared by all, {1 - real / tokens:.0%} of the rest is "
            f"padding; {self._plan}{', and responses' * (self.answer_states is not None)}"
        )

    def _recorded(
        self,
        batch: PromptBatch,
        prefix: KeyValues | None,
        first: dict[int, int],
        *,
        compared: bool,
    ) -> StudyBatch:
        prefilled, recording = record(self.model, batch, prefix, self._plan)
        likeliest = prefilled.logits.argmax(dim=-1).tolist()
        first.update(zip(batch.indices, likeliest, strict=True))
        original = log_softmax(prefilled.logits.float(), dim=-1) if compared else None
        return StudyBatch(batch, recording, original)

    @property
    def longest(self) -> int:
        """Number of tokens of the longest prompt."""
        return max(batch.prompts.mask.shape[1] for batch in [*self.good, *self.bad])

    def indices(self, side: Side, batch: StudyBatch) -> list[int]:
        """Return the indices of a batch's prompts among those of its side."""
        offset = len(self.first_tokens["good"]) if side == "bad" else 0
        return [index - offset for index in batch.prompts.indices]

    def limit(self, most_rows: int) -> None:
        """Split batches with more than `most_rows` rows."""
        self.good = _split(self.good, most_rows)
        self.bad = _split(self.bad, most_rows)

    @property
    def has_recordings(self) -> bool:
        """Return whether any results of the unedited network are kept."""
        return any(batch.recording.inputs for batch in [*self.good, *self.bad])

    def forget_recordings(self) -> None:
        """Free the memory of recordings."""
        self.good = [StudyBatch(batch.prompts, original=batch.original) for batch in self.good]
        self.bad = [StudyBatch(batch.prompts, original=batch.original) for batch in self.bad]
        if self.prefix is not None:
            self.prefix = StudyBatch(self.prefix.prompts)
        self.answer_states = None

    def prefix_key_values(self, first_changed: int) -> KeyValues | None:
        """Return the prefix's keys and values in the model's current state; None without prefix.

        Args:
            first_changed: index of the first layer that is not in its original state.
        """
        if self.prefix is None:
            return None
        return read_key_values(self.prefill(self.prefix, first_changed, None).cache)

    def prefill(self, batch: StudyBatch, first_changed: int, prefix: KeyValues | None) -> Prefilled:
        """Run a pass over a batch in the model's current state."""
        start = batch.recording.start(first_changed, self._devices)
        return prefill(self.model, batch.prompts, prefix, start)


def _split(batches: Sequence[StudyBatch], most_rows: int) -> list[StudyBatch]:
    return [
        batch.rows(first, min(first + most_rows, len(batch.prompts)))
        for batch in batches
        for first in range(0, len(batch.prompts), most_rows)
    ]
