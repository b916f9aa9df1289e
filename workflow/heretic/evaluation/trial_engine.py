"""What scores trials, whichever way it tries them."""

from collections.abc import Sequence
from typing import Protocol

from heretic.ablation.plan import Edit
from heretic.evaluation.scorers.panel import Panel
from heretic.evaluation.scorers.score import ScoredPrompts
from heretic.evaluation.trial_scores import Limits, TrialScores
from heretic.model.loading import Model
from heretic.stages import StageClock


class TrialEngine(Protocol):
    """Scores edits of one model, several together where that is faster."""

    @property
    def model(self) -> Model:
        """The model that is edited."""

    @property
    def name(self) -> str:
        """How it tries an edit, and where its answers come from."""

    @property
    def trials_in_flight(self) -> int:
        """How many trials it scores together, at most."""

    @property
    def panel(self) -> Panel:
        """Which scores it gives."""

    @property
    def prompts(self) -> ScoredPrompts:
        """On which it scores."""

    def score(
        self, trials: Sequence[Sequence[Edit]], limits: Limits, clock: StageClock
    ) -> list[TrialScores]:
        """Score each trial as if it were alone, in their order.

        Args:
            trials: the edits of each, none for the original; at most `trials_in_flight` of them.
            limits: beyond which no answers are generated.
            clock: told which stage takes how long.
        """

    def restore(self) -> None:
        """Bring the original model back, bit for bit."""
