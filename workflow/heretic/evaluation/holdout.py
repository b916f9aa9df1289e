"""The held-out table: original, edited and control models on prompts that no search saw."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from heretic.errors import HereticError
from heretic.evaluation.divergence import first_token_kl, teacher_forced_kl
from heretic.evaluation.intervals import bootstrap_interval, wilson_interval
from heretic.evaluation.scorers import DEGENERATE, REFUSALS, RIGHT
from heretic.model.decoding import decode, forced_log_probabilities, generate
from heretic.model.loading import Model
from heretic.prompts.prompt import Prompt


@dataclass(frozen=True)
class HoldoutSets:
    """The two held-out prompt sets."""

    good: list[Prompt]
    bad: list[Prompt]

    @property
    def all(self) -> list[Prompt]:
        """Bad prompts, then good ones."""
        return self.bad + self.good


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
    """One model's answers and divergences on the held-out sets."""

    tokens: list[list[int]]
    answers: list[str]
    kl_first_token: list[float]
    kl_teacher_forced: list[float]


def record_original(
    model: Model, sets: HoldoutSets, max_response_length: int, kl_tokens: int
) -> Original:
    """Answers and distributions of the original model."""
    tokens = generate(model, sets.all, max_response_length, "Answers of the original")
    forced = [answer[:kl_tokens] for answer in tokens[len(sets.bad) :]]
    return Original(tokens, forced, forced_log_probabilities(model, sets.good, forced))


def measure(
    model: Model, sets: HoldoutSets, original: Original, max_response_length: int, name: str
) -> Measurement:
    """Answers of the model in memory, and its divergence from the original.

    `name` says in the log whose answers they are.
    """
    tokens = generate(model, sets.all, max_response_length, f"Answers of the {name}")
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
    n_bad = len(sets.bad)
    bad, good = measurement.answers[:n_bad], measurement.answers[n_bad:]
    row: dict[str, Any] = {
        "refusals": _rate(REFUSALS.judge_all(sets.bad, bad)),
        "false_refusals": _rate(REFUSALS.judge_all(sets.good, good)),
        "degenerate": _rate(DEGENERATE.judge_all(sets.all, measurement.answers)),
        "kl_first_token": _mean(measurement.kl_first_token, bootstrap_samples, seed),
        "kl_teacher_forced": _mean(measurement.kl_teacher_forced, bootstrap_samples, seed),
    }
    for name, prompts, answers in (("recovered", sets.bad, bad), ("kept", sets.good, good)):
        if all(prompt.answers for prompt in prompts):
            row[name] = _rate(RIGHT.judge_all(prompts, answers))
    return row


def samples(
    original: Measurement, edited: Measurement, sets: HoldoutSets, per_set: int
) -> list[dict[str, Any]]:
    """Answers side by side for the first prompts of each set."""
    n_bad = len(sets.bad)
    chosen: Mapping[str, Sequence[int]] = {
        "bad_holdout_prompts": range(min(per_set, n_bad)),
        "good_holdout_prompts": range(n_bad, n_bad + min(per_set, len(sets.good))),
    }
    return [
        {
            "set": name,
            "prompt": prompt.text,
            "system": prompt.system,
            "original": original.answers[index],
            "edited": edited.answers[index],
            "refused_before": REFUSALS.judge(prompt, original.answers[index]),
            "refused_after": REFUSALS.judge(prompt, edited.answers[index]),
        }
        for name, indices in chosen.items()
        for index in indices
        for prompt in [sets.all[index]]
    ]


def _rate(flags: Sequence[float]) -> dict[str, Any]:
    count, total = int(sum(flags)), len(flags)
    interval = wilson_interval(count, total)
    return {"count": count, "total": total, "rate": count / total, "interval": list(interval)}


def _mean(values: Sequence[float], samples: int, seed: int) -> dict[str, Any]:
    if not all(math.isfinite(value) for value in values):
        raise HereticError(
            "a measured model predicts values that are no numbers; choose a weaker edit with "
            "`select`, or dtype=bfloat16 or dtype=float32"
        )
    interval = bootstrap_interval(values, samples, seed)
    return {"mean": sum(values) / len(values), "interval": list(interval)}
