"""Plain scoring of the model in memory: full-batch forward passes and `generate`."""

from collections.abc import Sequence

from torch import Tensor

from heretic.engine.base import FeasibilityLimits, TrialScores, trial_scores, values
from heretic.model.decoding import decode, forced_log_probabilities, generate
from heretic.model.loading import Model
from heretic.scorer_registry import Side
from heretic.scoring.base import FirstTokens, ScoredPrompts
from heretic.scoring.first_token_scores import (
    FirstTokenScorers,
    FirstTokenScores,
    original_sides,
)
from heretic.scoring.scorer_set import ScorerSet, make_scorer_set
from heretic.timing import StageTimer


class Evaluator:
    """Compare the model in memory with its original state; it must start in that state."""

    def __init__(
        self,
        model: Model,
        prompts: ScoredPrompts,
        max_response_length: int,
        scorer_set: ScorerSet | None = None,
    ) -> None:
        self.model, self.prompts = model, prompts
        self.max_response_length = max_response_length
        self.scorer_set = scorer_set or make_scorer_set()
        self._measures = [(s, s.prepare(model, prompts)) for s in self.scorer_set.passes]
        original: dict[Side, list[Tensor]] = {
            "good": self._first_tokens("good"),
            "bad": self._first_tokens("bad"),
        }
        self._first_token_scorers = FirstTokenScorers(
            self.scorer_set.first_tokens, prompts, lambda side: _likeliest(original[side])
        )
        self._original = {
            side: original[side] for side in original_sides(self.scorer_set.first_tokens)
        }

    def evaluate(
        self, limits: FeasibilityLimits | None = None, clock: StageTimer | None = None
    ) -> TrialScores:
        """Score the model's current state; answers are generated only within the limits.

        Args:
            limits: limits of a trial; None always generates answers.
            clock: times passes as `prefill` and answers as `decode`.
        """
        clock, limits = clock or StageTimer(), limits or FeasibilityLimits()
        with clock.stage("prefill"):
            first = FirstTokenScores(self._first_token_scorers)
            self._measure("good", first)
            if limits.allow(values(first.scores())):
                self._measure("bad", first)
            measured = first.scores()
            feasible = limits.allow(values(measured))
            for scorer, measure in self._measures:
                measured[scorer.name] = scorer.score(measure, self.model)
        answers = None
        if feasible:
            with clock.stage("decode"):
                answers = self._answers()
        return trial_scores(self.scorer_set, self.prompts, measured, answers)

    def _answers(self) -> tuple[list[str], list[str]]:
        """Return the answers to the good and the bad prompts."""
        good, bad = self.prompts.good, self.prompts.bad
        tokens = generate(self.model, [*good, *bad], self.max_response_length)
        answers = decode(self.model, tokens)
        return answers[: len(good)], answers[len(good) :]

    def _measure(self, side: Side, scores: FirstTokenScores) -> None:
        """Measure the first tokens of a side's prompts, if any scorer reads them."""
        if not self._first_token_scorers.reads(side):
            return
        original = self._original.get(side)
        for index, row in enumerate(self._first_tokens(side)):
            before = None if original is None else original[index]
            scores.add(side, [index], FirstTokens(row, before, normalized=True))

    def _first_tokens(self, side: Side) -> list[Tensor]:
        """Return log-probabilities [1, vocabulary] of the first response token of each prompt."""
        prompts = self.prompts.of(side)
        return forced_log_probabilities(self.model, prompts, [[] for _ in prompts])


def _likeliest(rows: Sequence[Tensor]) -> list[int]:
    return [int(row[0].argmax()) for row in rows]
