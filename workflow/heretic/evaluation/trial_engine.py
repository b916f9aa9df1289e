"""Interface of trial engines."""

from collections.abc import Sequence
from typing import Protocol

from heretic.ablation.plan import Edit
from heretic.evaluation.scorers.panel import Panel
from heretic.evaluation.scorers.score import ScoredPrompts
from heretic.evaluation.trial_scores import Limits, TrialScores
from heretic.model.loading import Model
from heretic.stages import StageClock


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
    def panel(self) -> Panel:
        """The computed scores."""

    @property
    def prompts(self) -> ScoredPrompts:
        """The evaluation prompts."""

    def score(
        self, trials: Sequence[Sequence[Edit]], limits: Limits, clock: StageClock
    ) -> list[TrialScores]:
        """Score each trial independently, in order.

        Args:
            trials: edits of each trial, empty for the original; at most `trial_batch_size` trials.
            limits: limits beyond which no answers are generated.
            clock: times the stages.
        """

    def restore(self) -> None:
        """Restore the original model, bit for bit."""
