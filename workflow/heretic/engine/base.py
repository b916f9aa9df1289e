"""Interface of trial engines."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from heretic.ablation.plan import Edit
from heretic.metrics import KL, LOG_ODDS
from heretic.model.loading import Model
from heretic.scoring.base import Score, ScoredPrompts, finite_or_none
from heretic.scoring.scorer_set import ScorerSet
from heretic.timing import StageTimer

# Numbers by name; None if nothing was generated for a score or it is not finite. Only the KL may be
# non-finite, which indicates that weights overflow.
TrialScores = Mapping[str, Any]


@dataclass(frozen=True)
class FeasibilityLimits:
    """Limits beyond which a trial is infeasible and its prompts are not answered.

    Attributes:
        max_kl: limit of the first token's KL, in nats; None for no limit.
        max_refusal_log_odds: limit of the bad prompts' mean; None for no limit.
    """

    max_kl: float | None = None
    max_refusal_log_odds: float | None = None

    @property
    def reads_bad_prompts(self) -> bool:
        """Return whether a limit depends on the first tokens of the bad prompts."""
        return self.max_refusal_log_odds is not None

    def excess(self, scores: Mapping[str, float | None]) -> dict[str, float]:
        """Return the excess of scores over each limit that is set; negative within it.

        NaN exceeds every limit. A limit of a score that is missing or None does not apply.
        """
        return {name: value - end for name, (value, end) in self._limited(scores).items()}

    def exceeded(self, scores: Mapping[str, float | None]) -> str:
        """Return the exceeded limits, such as "max_kl: 0.62 > 0.5"; empty if there are none."""
        limited = self._limited(scores).items()
        return ", ".join(
            f"{name}: {value:.4g} > {end:g}" if math.isfinite(value) else f"{name}: not finite"
            for name, (value, end) in limited
            if not value <= end
        )

    def _limited(self, scores: Mapping[str, float | None]) -> dict[str, tuple[float, float]]:
        """Values with their limits, by the setting of the limit."""
        found = {
            "max_kl": (scores.get(KL), self.max_kl),
            "max_refusal_log_odds": (scores.get(LOG_ODDS), self.max_refusal_log_odds),
        }
        return {
            name: (value, end)
            for name, (value, end) in found.items()
            if value is not None and end is not None
        }

    def allow(self, scores: Mapping[str, float | None]) -> bool:
        """Return whether scores satisfy all limits."""
        # Written so that NaN, from overflowing weights, exceeds the limits too.
        return all(excess <= 0 for excess in self.excess(scores).values())


def values(scores: Mapping[str, Score]) -> dict[str, float | None]:
    """Return the values of scores by name."""
    return {name: score.value for name, score in scores.items()}


def trial_scores(
    scorer_set: ScorerSet,
    prompts: ScoredPrompts,
    measured: Mapping[str, Score],
    answers: tuple[Sequence[str], Sequence[str]] | None,
) -> TrialScores:
    """Return all scores of a scorer set, in its order.

    Args:
        scorer_set: scorers of the study.
        prompts: prompts that were answered.
        measured: scores of first tokens and of scorers with their own passes, by name.
        answers: answers to the good and the bad prompts, each possibly truncated where
            `ScorerSet.settled` allows; None if nothing was generated.
    """
    found = values(measured)
    if answers is not None:
        found |= values(scorer_set.judge(prompts, *answers))
    finite = {name: finite_or_none(found.get(name)) for name in scorer_set.names(prompts)}
    return {**finite, KL: found[KL]}


class TrialEngine(Protocol):
    """Engine that scores edits of one model, several together if that is faster."""

    @property
    def model(self) -> Model:
        """The edited model."""

    @property
    def name(self) -> str:
        """Name of the edit method and of the source of answers."""

    @property
    def trial_batch_size(self) -> int:
        """Maximum number of trials scored together."""

    @property
    def scorer_set(self) -> ScorerSet:
        """The computed scores."""

    @property
    def prompts(self) -> ScoredPrompts:
        """The evaluation prompts."""

    def score(
        self, trials: Sequence[Sequence[Edit]], limits: FeasibilityLimits, clock: StageTimer
    ) -> list[TrialScores]:
        """Score each trial independently, in order.

        Args:
            trials: edits of each trial, empty for the original; at most `trial_batch_size` trials.
            limits: limits beyond which no answers are generated.
            clock: times the stages.
        """

    def restore(self) -> None:
        """Restore the original model, bit for bit."""
