"""Trials one after the other: the plain way, against which faster ones are checked."""

from collections.abc import Sequence
from dataclasses import dataclass

from heretic.ablation.engines import Editor
from heretic.ablation.plan import Edit
from heretic.evaluation.evaluator import Evaluator
from heretic.evaluation.scorers.panel import Panel
from heretic.evaluation.scorers.score import ScoredPrompts
from heretic.evaluation.trial_scores import Limits, TrialScores
from heretic.model.loading import Model
from heretic.stages import StageClock


@dataclass(frozen=True)
class PlainEngine:
    """Edits the model for each trial, then evaluates it; a `TrialEngine`.

    Attributes:
        editor: of a model that was in its original state when the evaluator was made.
        evaluator: of the same model.
    """

    editor: Editor
    evaluator: Evaluator

    @property
    def model(self) -> Model:
        """The model that is edited."""
        return self.editor.model

    @property
    def name(self) -> str:
        """How it edits, and that answers come from `generate`."""
        return f"{self.editor.name}, answers from generate"

    @property
    def trials_in_flight(self) -> int:
        """One: there is one model."""
        return 1

    @property
    def panel(self) -> Panel:
        """Which scores it gives."""
        return self.evaluator.panel

    @property
    def prompts(self) -> ScoredPrompts:
        """On which it scores."""
        return self.evaluator.prompts

    def score(
        self, trials: Sequence[Sequence[Edit]], limits: Limits, clock: StageClock
    ) -> list[TrialScores]:
        """Score each trial, in their order; see `TrialEngine.score`."""
        scores = []
        for edits in trials:
            self.editor.load([edits], clock)
            scores.append(self.evaluator.evaluate(limits, clock))
        return scores

    def restore(self) -> None:
        """Bring the original model back, bit for bit."""
        self.editor.restore()
