"""Scores the state of the model in memory plainly: passes over whole batches, and `generate`."""

from collections.abc import Sequence

from heretic.evaluation.divergence import first_token_kl
from heretic.evaluation.trial_scores import TrialScores
from heretic.model.decoding import decode, forced_log_probabilities, generate
from heretic.model.loading import Model
from heretic.prompts.prompt import Prompt
from heretic.stages import StageClock


class Evaluator:
    """Compares the model in memory with its original state, which it must have at the start."""

    def __init__(
        self,
        model: Model,
        good_prompts: Sequence[Prompt],
        bad_prompts: Sequence[Prompt],
        max_response_length: int,
    ) -> None:
        self.model = model
        self.good_prompts, self.bad_prompts = list(good_prompts), list(bad_prompts)
        self.max_response_length = max_response_length
        self._original = forced_log_probabilities(model, self.good_prompts, self._no_answers())

    def evaluate(self, max_kl: float | None = None, clock: StageClock | None = None) -> TrialScores:
        """Score the model's present state; above `max_kl` no answers are generated.

        Args:
            max_kl: nats; None generates in any case.
            clock: counts the divergence as `prefill` and the answers as `decode`.
        """
        clock = clock or StageClock()
        with clock.stage("prefill"):
            edited = forced_log_probabilities(self.model, self.good_prompts, self._no_answers())
            divergences = first_token_kl(self._original, edited)
        kl = sum(divergences) / len(divergences)
        # Written so that a NaN, from weights that overflow, is too far as well.
        if max_kl is not None and not kl <= max_kl:
            return TrialScores(kl)
        prompts = self.bad_prompts + self.good_prompts
        with clock.stage("decode"):
            answers = decode(self.model, generate(self.model, prompts, self.max_response_length))
        n_bad = len(self.bad_prompts)
        return TrialScores.of_answers(
            kl, self.bad_prompts, answers[:n_bad], self.good_prompts, answers[n_bad:]
        )

    def _no_answers(self) -> list[list[int]]:
        return [[] for _ in self.good_prompts]
