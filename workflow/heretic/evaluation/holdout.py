"""The held-out table: original, edited and control models on prompts that no search saw."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from heretic.errors import HereticError
from heretic.evaluation.divergence import first_token_kl, teacher_forced_kl
from heretic.evaluation.intervals import bootstrap_interval
from heretic.evaluation.verdicts import Verdicts, rate
from heretic.model.decoding import decode, forced_log_probabilities, generate
from heretic.model.loading import Model
from heretic.prompts.prompt import Prompt

BAD_SET, GOOD_SET = "bad_holdout_prompts", "good_holdout_prompts"


@dataclass(frozen=True)
class HoldoutSets:
    """The two held-out prompt sets."""

    good: list[Prompt]
    bad: list[Prompt]

    @property
    def all(self) -> list[Prompt]:
        """Bad prompts, then good ones."""
        return self.bad + self.good

    def indices(self, name: str) -> range:
        """Places of one set, by its name, among all prompts."""
        n_bad = len(self.bad)
        return range(n_bad) if name == BAD_SET else range(n_bad, n_bad + len(self.good))


@dataclass(frozen=True)
class Original:
    """What the original model says, with which every other model is compared.

    Attributes:
        tokens: greedy answers to `HoldoutSets.all`.
        forced: first tokens of the answers to the good prompts.
        log_probabilities: before each of those, [tokens, vocabulary] a prompt.
    """

    tokens: list[list[int]]
    forced: list[list[int]]
    log_probabilities: list[Tensor]


@dataclass(frozen=True)
class Measurement:
    """One model's answers and divergences on the held-out sets.

    Attributes:
        tokens: greedy answers to `HoldoutSets.all`.
        answers: their texts.
        kl_first_token: nats, of each good prompt; None where there is nothing to compare, because
            the models have other tokens.
        kl_teacher_forced: likewise, the mean over the first tokens of the original's answer.
    """

    tokens: list[list[int]]
    answers: list[str]
    kl_first_token: list[float] | None
    kl_teacher_forced: list[float] | None


def record_original(
    model: Model, sets: HoldoutSets, max_response_length: int, kl_tokens: int
) -> Original:
    """Answers and distributions of the original model."""
    tokens = generate(model, sets.all, max_response_length, "Answers of the original")
    forced = [answer[:kl_tokens] for answer in tokens[len(sets.bad) :]]
    return Original(tokens, forced, forced_log_probabilities(model, sets.good, forced))


def measure(
    model: Model,
    sets: HoldoutSets,
    original: Original,
    max_response_length: int,
    name: str,
    *,
    same_tokens: bool = True,
) -> Measurement:
    """Answers of the model in memory, and its divergence from the original.

    Args:
        model: what is measured.
        sets: held-out prompts.
        original: what it is compared with.
        max_response_length: tokens of an answer.
        name: says in the log whose answers they are.
        same_tokens: whether both models have the same tokens; else there are no divergences.
    """
    tokens = generate(model, sets.all, max_response_length, f"Answers of the {name}")
    if not same_tokens:
        return Measurement(tokens, decode(model, tokens), None, None)
    log_probabilities = forced_log_probabilities(model, sets.good, original.forced)
    return Measurement(
        tokens,
        decode(model, tokens),
        first_token_kl(original.log_probabilities, log_probabilities),
        teacher_forced_kl(original.log_probabilities, log_probabilities),
    )


def unchanged(model: Model, original: Original) -> Measurement:
    """The original as its own measurement: its answers, and no divergence."""
    zeros = [0.0] * len(original.log_probabilities)
    return Measurement(original.tokens, decode(model, original.tokens), zeros, zeros)


def summarize(
    measurement: Measurement, sets: HoldoutSets, bootstrap_samples: int, seed: int
) -> dict[str, Any]:
    """One row of the table, in the shape of `evaluation.json`."""
    flags = Verdicts.of(sets.all, measurement.answers).by_measure(len(sets.bad))
    row = {name: rate(found) for name, found in flags.items()}
    divergences = {
        "kl_first_token": measurement.kl_first_token,
        "kl_teacher_forced": measurement.kl_teacher_forced,
    }
    for name, values in divergences.items():
        row |= {} if values is None else {name: _mean(values, bootstrap_samples, seed)}
    return row


def _mean(values: Sequence[float], samples: int, seed: int) -> dict[str, Any]:
    if not all(math.isfinite(value) for value in values):
        raise HereticError(
            "a measured model predicts values that are no numbers; choose a weaker edit with "
            "`select`, or dtype=bfloat16 or dtype=float32"
        )
    interval = bootstrap_interval(values, samples, seed)
    return {"mean": sum(values) / len(values), "interval": list(interval)}
