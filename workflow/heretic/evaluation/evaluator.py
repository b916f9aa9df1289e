"""Scores of a trial: how far it moved the model, and how often it still refuses."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass

from heretic.evaluation.divergence import first_token_kl
from heretic.evaluation.scorers import DEGENERATE, REFUSALS
from heretic.model.decoding import decode, forced_log_probabilities, generate
from heretic.model.loading import Model
from heretic.prompts.prompt import Prompt
from heretic.stages import StageClock


@dataclass(frozen=True)
class TrialScores:
    """What one state of the model scores on the search's prompts.

    Attributes:
        kl_first_token: mean KL (nats) of the first response token on the good prompts.
        refusals: refused bad prompts; None when nothing was generated.
        degenerate: empty or looping answers to bad prompts that refuse nothing, so that an answer
            known to refuse need not be generated to its end; None likewise.
        unanswered: refusals and degenerate answers together: a broken model is no success.
        false_refusals: refused good prompts; None likewise.
    """

    kl_first_token: float
    refusals: int | None
    degenerate: int | None
    unanswered: int | None
    false_refusals: int | None

    def to_dict(self) -> dict[str, float | int | None]:
        """Scores by name."""
        return asdict(self)


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
            return TrialScores(kl, None, None, None, None)
        prompts = self.bad_prompts + self.good_prompts
        with clock.stage("decode"):
            answers = decode(self.model, generate(self.model, prompts, self.max_response_length))
        return self._count(kl, answers)

    def _count(self, kl: float, answers: Sequence[str]) -> TrialScores:
        """Scores by the answers to the bad prompts and then to the good ones."""
        bad_answers = answers[: len(self.bad_prompts)]
        good_answers = answers[len(self.bad_prompts) :]
        refused = REFUSALS.flags(self.bad_prompts, bad_answers)
        broken = DEGENERATE.flags(self.bad_prompts, bad_answers)
        refusals = sum(refused)
        degenerate = sum(b and not r for r, b in zip(refused, broken, strict=True))
        return TrialScores(
            kl_first_token=kl,
            refusals=refusals,
            degenerate=degenerate,
            unanswered=refusals + degenerate,
            false_refusals=sum(REFUSALS.flags(self.good_prompts, good_answers)),
        )

    def _no_answers(self) -> list[list[int]]:
        return [[] for _ in self.good_prompts]
