"""Predictions of a model along the original's responses to the held-out prompts."""

from collections.abc import Mapping, Sequence

from torch import Tensor

from heretic.evaluation.holdout import HoldoutSets
from heretic.model.decoding import forced_log_probabilities
from heretic.model.loading import Model
from heretic.scorer_registry import Side
from heretic.scoring.base import ScoredPrompts
from heretic.scoring.teacher_forced import TeacherForcedScorer

SIDES: tuple[Side, ...] = ("bad", "good")


class Predictions:
    """Predictions of one state of a model, computed once when a scorer reads them."""

    def __init__(
        self, model: Model, prompts: ScoredPrompts, forced: Mapping[Side, Sequence[Sequence[int]]]
    ) -> None:
        """Create the predictions of the model's current state.

        Args:
            model: model.
            prompts: held-out prompts.
            forced: response tokens along which it predicts, by side; empty responses for
                predictions of first tokens only.
        """
        self._model, self._prompts, self._forced = model, prompts, forced
        self._rows: dict[Side, list[Tensor]] = {}

    def rows(self, side: Side) -> list[Tensor]:
        """Return log-probabilities before each token, [tokens or 1, vocabulary] per prompt."""
        if side not in self._rows:
            self._rows[side] = forced_log_probabilities(
                self._model, self._prompts.of(side), self._forced[side]
            )
        return self._rows[side]

    def likeliest(self, side: Side) -> list[int]:
        """Return the most likely first response token of each prompt of a side."""
        return [int(rows[0].argmax()) for rows in self.rows(side)]


def forced_responses(
    scorers: Sequence[TeacherForcedScorer], sets: HoldoutSets, tokens: Sequence[Sequence[int]]
) -> dict[Side, list[list[int]]]:
    """Return the first tokens of responses as far as scorers read them, by side.

    Args:
        scorers: scorers that share one pass.
        sets: held-out prompts.
        tokens: responses to `HoldoutSets.all`.
    """
    longest = {
        side: max((s.tokens for s in scorers if s.side in (side, "both")), default=0)
        for side in SIDES
    }
    return {
        side: [list(tokens[index][: longest[side]]) for index in sets.indices(side)]
        for side in SIDES
    }
