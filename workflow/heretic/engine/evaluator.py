"""Plain scoring of the model in memory: full-batch forward passes and `generate`."""

from collections.abc import Sequence

import torch
from torch import Tensor

from heretic.engine.base import FeasibilityLimits, TrialScores, trial_scores
from heretic.model.decoding import decode, forced_log_probabilities, generate
from heretic.model.loading import Model
from heretic.prompts.prompt import Prompt
from heretic.scoring.base import ScoredPrompts
from heretic.scoring.kl_divergence import first_token_kl
from heretic.scoring.log_odds import RefusalTokens
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
        self._original = self._first_tokens(prompts.good)
        bad = self._first_tokens(prompts.bad)
        self._refusal_tokens = RefusalTokens.of(_likeliest(self._original), _likeliest(bad))

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
            divergences = first_token_kl(self._original, self._first_tokens(self.prompts.good))
            kl = sum(divergences) / len(divergences)
            log_odds = self._log_odds() if limits.allow(kl) else None
            passes = {
                scorer.name: scorer.score(measure, self.model).value
                for scorer, measure in self._measures
            }
        answers = None
        if limits.allow(kl, log_odds):
            with clock.stage("decode"):
                answers = self._answers()
        return trial_scores(self.scorer_set, self.prompts, kl, log_odds, passes, answers)

    def _answers(self) -> tuple[list[str], list[str]]:
        """Return the answers to the good and the bad prompts."""
        good, bad = self.prompts.good, self.prompts.bad
        tokens = generate(self.model, [*good, *bad], self.max_response_length)
        answers = decode(self.model, tokens)
        return answers[: len(good)], answers[len(good) :]

    def _log_odds(self) -> float | None:
        if not self._refusal_tokens.ids:
            return None
        rows = torch.cat(self._first_tokens(self.prompts.bad))
        return float(self._refusal_tokens.log_odds(rows).mean())

    def _first_tokens(self, prompts: Sequence[Prompt]) -> list[Tensor]:
        """Return log-probabilities [1, vocabulary] of the first response token of each prompt."""
        return forced_log_probabilities(self.model, prompts, [[] for _ in prompts])


def _likeliest(rows: Sequence[Tensor]) -> list[int]:
    return [int(row[0].argmax()) for row in rows]
