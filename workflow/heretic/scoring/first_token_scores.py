"""First-token scorers prepared on the original, and their values for a state of the model."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from heretic.scorer_registry import Side
from heretic.scoring.base import (
    FirstTokenMeasure,
    FirstTokens,
    FirstTokenScorer,
    LikeliestTokens,
    Score,
    ScoredPrompts,
)


class FirstTokenScorers:
    """First-token scorers that the prompts of a study allow."""

    def __init__(
        self,
        scorers: Sequence[FirstTokenScorer],
        prompts: ScoredPrompts,
        likeliest: LikeliestTokens,
    ) -> None:
        """Prepare the scorers.

        Args:
            scorers: scorers; those that the prompts do not allow are left out.
            prompts: prompts of the study.
            likeliest: the original's tokens; see `FirstTokenScorer.prepare`.
        """
        measures = [(scorer, scorer.prepare(likeliest)) for scorer in scorers]
        self.measures: list[tuple[FirstTokenScorer, FirstTokenMeasure]] = [
            (scorer, measure) for scorer, measure in measures if measure is not None
        ]
        self.prompts = prompts

    def reads(self, side: Side) -> bool:
        """Return whether any scorer reads predictions for the prompts of a side."""
        return any(_covers(scorer, side) for scorer, _ in self.measures)


class FirstTokenScores:
    """Values of first-token scorers for one state of the model, collected batch by batch."""

    def __init__(self, scorers: FirstTokenScorers) -> None:
        self._scorers = scorers
        self._values: dict[str, list[Tensor]] = defaultdict(list)
        self._indices: dict[str, list[int]] = defaultdict(list)

    def add(self, side: Side, indices: Sequence[int], tokens: FirstTokens) -> None:
        """Measure a batch of prompts.

        Args:
            side: `good` or `bad`.
            indices: indices of the prompts on their side.
            tokens: predictions for these prompts.
        """
        n_bad = len(self._scorers.prompts.bad)
        for scorer, measure in self._scorers.measures:
            if _covers(scorer, side):
                with torch.inference_mode():
                    self._values[scorer.name].append(measure(tokens))
                offset = n_bad if scorer.side == "both" and side == "good" else 0
                self._indices[scorer.name] += [index + offset for index in indices]

    def scores(self) -> dict[str, Score]:
        """Return the scores whose prompts are all measured, with details in prompt order."""
        prompts = self._scorers.prompts
        return {
            scorer.name: self._score(scorer)
            for scorer, _ in self._scorers.measures
            if len(self._indices[scorer.name]) == len(prompts.of(scorer.side))
        }

    def _score(self, scorer: FirstTokenScorer) -> Score:
        indices = self._indices[scorer.name]
        score = scorer.score(torch.cat(self._values[scorer.name]))
        order = sorted(range(len(indices)), key=indices.__getitem__)
        return replace(score, details=tuple(score.details[place] for place in order))


def original_sides(scorers: Sequence[FirstTokenScorer]) -> frozenset[Side]:
    """Return the sides whose original predictions some scorer reads."""
    sides: tuple[Side, ...] = ("bad", "good")
    return frozenset(
        side for side in sides if any(s.compares and _covers(s, side) for s in scorers)
    )


def _covers(scorer: FirstTokenScorer, side: Side) -> bool:
    return scorer.side in (side, "both")
