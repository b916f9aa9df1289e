"""Equivalence checks of fast passes against plain ones.

Architectures may keep states other than keys and values, derive positions from columns, or pass
data between layers outside the stream. Instead of a list of such architectures, a few prompts are
answered both ways before a study begins.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

from heretic.engine.decode_batch import DecodeBatch, join
from heretic.engine.steps import CompiledStepRunner, PlainStepRunner, StepRunner
from heretic.engine.study_prompts import StudyPrompts
from heretic.errors import one_line
from heretic.model.decoding import forward, pad_left
from heretic.model.loading import Model
from heretic.model.stream_writers.layers import text_config

STEPS = 2
MESSAGE = 200
# Tolerated difference of logits, in roundings of the largest one, or as a multiple of the
# difference between batches of plain passes.
ROUNDINGS = {torch.float32: 256, torch.float64: 256}
HALF_ROUNDINGS, TIMES_NOISE = 4, 4
# Errors that unusual architectures may raise for unexpected arguments.
REFUSALS = (RuntimeError, ValueError, TypeError, LookupError, AttributeError, NotImplementedError)


def why_no_rows(model: Model) -> str | None:
    """Return why rows of the network's cache cannot be rearranged, or None."""
    try:
        layers = DynamicCache(config=text_config(model.network)).layers
    except REFUSALS as error:
        return f"transformers creates no cache for it ({type(error).__name__})"
    others = [
        layer for layer in layers if type(layer) not in (DynamicLayer, DynamicSlidingWindowLayer)
    ]
    if others:
        return f"its cache has more than keys and values ({type(others[0]).__name__})"
    return None


def smallest_window(model: Model) -> int | None:
    """Return the smallest sliding window in tokens; None if all layers attend to everything."""
    layers: Sequence[Any] = DynamicCache(config=text_config(model.network)).layers
    windows = [layer.sliding_window for layer in layers if layer.is_sliding]
    return min(windows, default=None)


@dataclass(frozen=True)
class EquivalenceCheck:
    """A few prompts, answered in the same way as a study's.

    Attributes:
        model: model in its original state.
        good: token ids of good prompts.
        bad: token ids of bad prompts.
        prefix: number of tokens shared by all prompts.
        gigabytes: memory for recordings of the unedited network.
    """

    model: Model
    good: Sequence[Sequence[int]]
    bad: Sequence[Sequence[int]]
    prefix: int
    gigabytes: float

    def disagreement(self, *, fixed_places: bool, guessed: bool) -> str | None:
        """Return why answers differ from those of plain passes, or None.

        Args:
            fixed_places: whether keys and values must keep their memory, as compiled steps require.
            guessed: whether draft tokens are used.
        """
        try:
            prompts = self.prompts()
            kept = sorted(prompts.good[0].recording.inputs)
            for first in dict.fromkeys([0, *kept[:1], *kept[-1:]]):
                rows, reason = self._stepped(prompts, first, fixed_places)
                if reason is not None:
                    return f"in forward passes from layer {first}: {reason}"
            reason = self._guessed(prompts, rows) if guessed else None
            if reason is not None:
                return f"after draft tokens: {reason}"
        except REFUSALS as error:
            return f"{type(error).__name__}: {one_line(error)[:MESSAGE]}"
        return None

    def prompts(self) -> StudyPrompts:
        """Return the prompts in batches with padding, whatever their lengths."""
        return StudyPrompts(
            self.model,
            self.good,
            self.bad,
            self.prefix,
            self.gigabytes,
            most_rows=2,
            cost_of_a_pass=sum(map(len, [*self.good, *self.bad])) * 2,
        )

    def _stepped(
        self, prompts: StudyPrompts, first: int, fixed_places: bool
    ) -> tuple[DecodeBatch, str | None]:
        """Return rows after some steps, and the error of their logits."""
        rows, logits = begin(prompts, first)
        order = list(range(len(rows)))[::-1]
        rows, seen = rows.select(order), [logits[order]]
        steps = self._steps(rows, prompts.longest, fixed_places)
        steps.begin(rows)
        seen += [steps.step(rows) for _ in range(STEPS)]
        rows.read()
        return rows, self._wrong(rows, torch.stack(seen, dim=1))

    def _guessed(self, prompts: StudyPrompts, stepped: DecodeBatch) -> str | None:
        """Return the error of a step after drafts, every other one with a wrong last token."""
        guesses = [answer[1:] for answer in stepped.answers]
        for guess in guesses[::2]:
            guess[-1] = (guess[-1] + 1) % 2
        states, reason = prompts.answer_states, None
        # The second pass runs only through the last layers.
        for _ in range(1 if states is None else 2):
            rows, _ = begin(prompts, 0)
            rows = rows.select(list(range(len(rows)))[::-1])
            passing = None
            if states is not None:
                passing = states.passing(rows, guesses, self.model.anatomy.n_layers)
            rows.verify(self.model, guesses, passing)
            logits = rows.step(self.model)
            rows.read()
            reason = reason or self._wrong(rows, logits[:, None])
        return reason

    def _wrong(self, rows: DecodeBatch, logits: Tensor) -> str | None:
        """Return why the last logits [n, few, vocabulary] of some rows are wrong, or None."""
        ids = [*self.good, *self.bad]
        whole = [
            [*ids[owner.prompt], *answer[:-1]]
            for owner, answer in zip(rows.owners, rows.answers, strict=True)
        ]
        count = logits.shape[1]
        plain = torch.cat([self._plain([row], count) for row in whole])
        noise = float((self._plain(whole, count) - plain).abs().max())
        return logits_agree(self.model, logits, plain, noise)

    def _steps(self, rows: DecodeBatch, longest: int, fixed_places: bool) -> StepRunner:
        if not fixed_places:
            return PlainStepRunner(self.model)
        return CompiledStepRunner(self.model, len(rows) + 1, longest + STEPS, lambda call: call)

    def _plain(self, rows: Sequence[Sequence[int]], count: int) -> Tensor:
        """Return logits [n, count, vocabulary] at the ends of some rows, without a cache."""
        inputs, mask = pad_left(rows, self.model)
        logits: Tensor = forward(self.model, inputs, mask, logits_to_keep=count).logits
        return logits[:, -count:].float()


def begin(prompts: StudyPrompts, first: int, trial: int = 0) -> tuple[DecodeBatch, Tensor]:
    """Return all prompts as rows of one trial, and their first logits [n, vocabulary].

    Args:
        prompts: a few prompts.
        first: layer before which the model is unedited.
        trial: trial of the rows.
    """
    prefix = prompts.prefix_key_values(first)
    parts, logits = [], []
    for batch in chain(prompts.good, prompts.bad):
        prefilled = prompts.prefill(batch, first, prefix)
        rows = DecodeBatch.of(prefilled, batch.prompts, trial, 2 * STEPS + 2)
        rows.read()
        parts.append(rows)
        logits.append(prefilled.logits)
    return join(parts), torch.cat(logits)


def logits_agree(model: Model, logits: Tensor, expected: Tensor, noise: float = 0.0) -> str | None:
    """Return by how much logits differ if that exceeds rounding, or None.

    Args:
        model: model of the logits.
        logits: logits to check.
        expected: logits of the same shape.
        noise: difference of plain passes among themselves.
    """
    precision = model.loaded_dtype
    rounding = ROUNDINGS.get(precision, HALF_ROUNDINGS) * torch.finfo(precision).eps
    real = expected.isfinite()  # some models exclude tokens
    explained = rounding * float(expected[real].abs().max())
    # Greater noise is not rounding: the network does not ignore padding.
    allowed = max(explained, min(TIMES_NOISE * noise, TIMES_NOISE * explained))
    found = float((logits.float() - expected)[real].abs().max())
    if found <= allowed:
        return None
    return f"logits differ by {found:.2g}, more than the {allowed:.2g} explained by rounding"
