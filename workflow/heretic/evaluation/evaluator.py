"""Scores of a trial: how far it moved the model, and how often it still refuses."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass

from heretic.evaluation.divergence import first_token_kl
from heretic.evaluation.scorers import DEGENERATE, REFUSALS
from heretic.model.decoding import decode, forced_log_probabilities, generate
from heretic.model.loading import Model
from heretic.prompts.prompt import Prompt


@dataclass(frozen=True)
class TrialScores:
    """What one state of the model scores on the search's prompts.

    Attributes:
        kl_first_token: mean KL (nats) of the first response token on the good prompts.
        refusals: refused bad prompts; None when nothing was generated.
        degenerate: empty or looping answers to bad prompts; None likewise.
        unanswered: bad prompts refused or answered degenerately: a broken model is no success.
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

    def evaluate(self, max_kl: float | None = None) -> TrialScores:
        """Score the model's present state; above `max_kl` no answers are generated."""
        edited = forced_log_probabilities(self.model, self.good_prompts, self._no_answers())
        divergences = first_token_kl(self._original, edited)
        kl = sum(divergences) / len(divergences)
        # Written so that a NaN, from weights that overflow, is too far as well.
        if max_kl is not None and not kl <= max_kl:
            return TrialScores(kl, None, None, None, None)
        prompts = self.bad_prompts + self.good_prompts
        answers = decode(self.model, generate(self.model, prompts, self.max_response_length))
        bad_answers = answers[: len(self.bad_prompts)]
        good_answers = answers[len(self.bad_prompts) :]
        refused = REFUSALS.flags(self.bad_prompts, bad_answers)
        broken = DEGENERATE.flags(self.bad_prompts, bad_answers)
        return TrialScores(
            kl_first_token=kl,
            refusals=sum(refused),
            degenerate=sum(broken),
            unanswered=sum(r or b for r, b in zip(refused, broken, strict=True)),
            false_refusals=sum(REFUSALS.flags(self.good_prompts, good_answers)),
        )

    def _no_answers(self) -> list[list[int]]:
        return [[] for _ in self.good_prompts]
