"""Held-out table: original, edited and control models on prompts unseen by the search."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from torch import Tensor

from heretic.errors import HereticError
from heretic.evaluation.verdicts import AnswerLabels, rate
from heretic.model.decoding import decode, forced_log_probabilities, generate
from heretic.model.loading import Model
from heretic.prompts.prompt import Prompt
from heretic.scoring.base import Measure, Score, ScoredPrompts
from heretic.scoring.kl_divergence import first_token_kl, teacher_forced_kl
from heretic.scoring.scorer_set import ScorerSet, make_scorer_set

BAD_SET, GOOD_SET = "bad_holdout_prompts", "good_holdout_prompts"


@dataclass(frozen=True)
class HoldoutSets:
    """Two held-out prompt sets, and plain texts for the scores that need them."""

    good: list[Prompt]
    bad: list[Prompt]
    texts: list[Prompt] = field(default_factory=list)

    @property
    def all(self) -> list[Prompt]:
        """Bad prompts followed by good ones."""
        return self.bad + self.good

    def indices(self, name: str) -> range:
        """Return the indices of the named set among all prompts."""
        n_bad = len(self.bad)
        return range(n_bad) if name == BAD_SET else range(n_bad, n_bad + len(self.good))


@dataclass(frozen=True)
class HoldoutProtocol:
    """Comparison protocol; fields match the settings of the same names, plus the scorers."""

    max_response_length: int
    kl_tokens: int
    bootstrap_samples: int
    seed: int
    scorer_set: ScorerSet = field(default_factory=make_scorer_set, compare=False)

    @classmethod
    def from_settings(cls, settings: Mapping[str, Any]) -> "HoldoutProtocol":
        """Create the protocol and its scorers from the settings, which may include others.

        Raises:
            SettingsError: a scorer cannot be created.
        """
        names = cls.__dataclass_fields__.keys() - {"scorer_set"}
        scorer_set = make_scorer_set(settings["refusal_markers"], settings["scorers"])
        return cls(**{name: settings[name] for name in names}, scorer_set=scorer_set)

    def further(
        self,
        model: Model,
        measures: Sequence[Measure],
        sets: HoldoutSets,
        answers: Sequence[str],
        *,
        same_tokens: bool = True,
    ) -> dict[str, Score]:
        """Compute the additional scores of a model and its answers to `HoldoutSets.all`.

        If its tokens differ from the original's, scores that compare predictions are left out.
        """
        found = {
            scorer.name: scorer.score(measure, model)
            for scorer, measure in zip(self.scorer_set.passes, measures, strict=True)
            if same_tokens or not scorer.needs_same_tokens
        }
        for scorer in self.scorer_set.further:
            places = sets.indices(BAD_SET if scorer.side == "bad" else GOOD_SET)
            prompts = [sets.all[place] for place in places]
            if scorer.applies(prompts):
                judged = [answers[place] for place in places]
                found[scorer.name] = scorer.score(prompts, judged)
        return found


@dataclass(frozen=True)
class Original:
    """Results of the original model, the reference for every other model.

    Attributes:
        tokens: greedy answers to `HoldoutSets.all`.
        forced: first tokens of the answers to the good prompts.
        log_probabilities: distributions before each of those tokens, [tokens, vocabulary] per
            prompt.
        measures: measures of the scorer set's scorers by passes.
        further: the model's own scores by these and by additional scorers.
    """

    tokens: list[list[int]]
    forced: list[list[int]]
    log_probabilities: list[Tensor]
    measures: list[Measure]
    further: dict[str, Score]


@dataclass(frozen=True)
class Measurement:
    """Answers and divergences of one model on the held-out sets.

    Attributes:
        tokens: greedy answers to `HoldoutSets.all`.
        answers: texts of the answers.
        kl_first_token: nats for each good prompt; None if not comparable because the models have
            different tokens.
        kl_teacher_forced: the same, as the mean over the first tokens of the original's answer.
        further: scores by the scorers named in the settings.
    """

    tokens: list[list[int]]
    answers: list[str]
    kl_first_token: list[float] | None
    kl_teacher_forced: list[float] | None
    further: dict[str, Score] = field(default_factory=dict)


def record_original(model: Model, sets: HoldoutSets, protocol: HoldoutProtocol) -> Original:
    """Record the answers and distributions of the original model."""
    tokens = generate(model, sets.all, protocol.max_response_length, "Responses of the original")
    forced = [answer[: protocol.kl_tokens] for answer in tokens[len(sets.bad) :]]
    prompts = ScoredPrompts(sets.good, sets.bad, sets.texts)
    measures = [scorer.prepare(model, prompts) for scorer in protocol.scorer_set.passes]
    return Original(
        tokens,
        forced,
        forced_log_probabilities(model, sets.good, forced),
        measures,
        protocol.further(model, measures, sets, decode(model, tokens)),
    )


def measure(
    model: Model,
    sets: HoldoutSets,
    original: Original,
    protocol: HoldoutProtocol,
    name: str,
    *,
    same_tokens: bool = True,
) -> Measurement:
    """Measure the answers of the model in memory and its divergence from the original.

    Args:
        model: model to measure.
        sets: held-out prompts.
        original: reference results.
        protocol: length of an answer, and additional scorers.
        name: name of the model in the log.
        same_tokens: whether both models have the same tokens; otherwise there are no divergences.
    """
    tokens = generate(model, sets.all, protocol.max_response_length, f"Responses of the {name}")
    answers = decode(model, tokens)
    further = protocol.further(model, original.measures, sets, answers, same_tokens=same_tokens)
    if not same_tokens:
        return Measurement(tokens, answers, None, None, further)
    log_probabilities = forced_log_probabilities(model, sets.good, original.forced)
    return Measurement(
        tokens,
        answers,
        first_token_kl(original.log_probabilities, log_probabilities),
        teacher_forced_kl(original.log_probabilities, log_probabilities),
        further,
    )


def unchanged(model: Model, original: Original) -> Measurement:
    """Return the original as its own measurement: its answers, and zero divergence."""
    zeros = [0.0] * len(original.log_probabilities)
    answers = decode(model, original.tokens)
    return Measurement(original.tokens, answers, zeros, zeros, original.further)


def summarize(
    measurement: Measurement, sets: HoldoutSets, protocol: HoldoutProtocol
) -> dict[str, Any]:
    """Return a row of the table in the format of `evaluation.json`, with `scores`.

    Raises:
        HereticError: a divergence or a score is not finite.
    """
    samples, seed = protocol.bootstrap_samples, protocol.seed
    verdicts = AnswerLabels.of(sets.all, measurement.answers, protocol.scorer_set.markers)
    flags = verdicts.by_measure(len(sets.bad))
    row = {name: rate(found) for name, found in flags.items()}
    divergences = {
        "kl_first_token": measurement.kl_first_token,
        "kl_teacher_forced": measurement.kl_teacher_forced,
    }
    for name, values in divergences.items():
        row |= {} if values is None else {name: mean_with_interval(values, samples, seed)}
    scores = {name: _shown(score, samples, seed) for name, score in measurement.further.items()}
    return {**row, "scores": scores} if scores else row


def _shown(score: Score, samples: int, seed: int) -> dict[str, Any]:
    """Return a count as a rate, any other score as a value, with an interval if it is a mean."""
    if score.counts:
        return {**rate([detail > 0 for detail in score.details]), "direction": score.direction}
    mean = mean_with_interval([*score.details], samples, seed)
    require_finite([score.value])
    whole = {"value": score.value, "direction": score.direction}
    return {**whole, "interval": mean["interval"]} if score.value == mean["mean"] else whole


def require_finite(values: Sequence[float]) -> None:
    """Reject values that a table cannot contain.

    Raises:
        HereticError: a value is not finite.
    """
    if not all(math.isfinite(value) for value in values):
        raise HereticError(
            "a model produced non-finite logits; choose a weaker edit with `select`, or "
            "dtype=bfloat16 or dtype=float32"
        )


def mean_with_interval(values: Sequence[float], samples: int, seed: int) -> dict[str, Any]:
    """Return the mean and its 95% percentile bootstrap interval (Efron 1979).

    The interval is computed from `samples` resamples.

    Raises:
        HereticError: there are no values, or one is not finite.
    """
    if not values:
        raise HereticError("a mean needs at least one value; use a larger prompt set")
    require_finite(values)
    data = np.asarray(values, dtype=np.float64)
    draws = np.random.default_rng(seed).integers(0, len(data), size=(samples, len(data)))
    interval = np.quantile(data[draws].mean(axis=1), [0.025, 0.975])
    return {"mean": sum(values) / len(values), "interval": interval.tolist()}
