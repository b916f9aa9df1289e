"""Plain trial engine: one trial at a time, the reference for the faster ones."""

from collections.abc import Sequence
from dataclasses import dataclass

from heretic.ablation.editors import Editor
from heretic.ablation.plan import Edit
from heretic.engine.base import FeasibilityLimits, TrialScores
from heretic.engine.evaluator import Evaluator
from heretic.model.loading import Model
from heretic.scoring.base import ScoredPrompts
from heretic.scoring.scorer_set import ScorerSet
from heretic.timing import StageTimer


@dataclass(frozen=True)
class ReferenceEngine:
    """`TrialEngine` that edits the model for each trial, then evaluates it.

    Attributes:
        editor: editor of a model that was in its original state when the evaluator was created.
        evaluator: evaluator of the same model.
    """

    editor: Editor
    evaluator: Evaluator

    @property
    def model(self) -> Model:
        """The edited model."""
        return self.editor.model

    @property
    def name(self) -> str:
        """Name of the edit method and of the generation method."""
        return f"{self.editor.name}, responses from model.generate"

    @property
    def trial_batch_size(self) -> int:
        """Always 1, as there is one model."""
        return 1

    @property
    def scorer_set(self) -> ScorerSet:
        """The computed scores."""
        return self.evaluator.scorer_set

    @property
    def prompts(self) -> ScoredPrompts:
        """The evaluation prompts."""
        return self.evaluator.prompts

    def score(
        self, trials: Sequence[Sequence[Edit]], limits: FeasibilityLimits, clock: StageTimer
    ) -> list[TrialScores]:
        """Score each trial in order; see `TrialEngine.score`."""
        scores = []
        for edits in trials:
            self.editor.load([edits], clock)
            scores.append(self.evaluator.evaluate(limits, clock))
        return scores

    def restore(self) -> None:
        """Restore the original model, bit for bit."""
        self.editor.restore()
