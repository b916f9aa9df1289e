"""Scores of a trial: how far it moved the model, and how often it still refuses."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass

from heretic.evaluation.scorers import DEGENERATE, REFUSALS
from heretic.prompts.prompt import Prompt


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
    refusals: int | None = None
    degenerate: int | None = None
    unanswered: int | None = None
    false_refusals: int | None = None

    @classmethod
    def of_answers(
        cls,
        kl: float,
        bad_prompts: Sequence[Prompt],
        bad_answers: Sequence[str],
        good_prompts: Sequence[Prompt],
        good_answers: Sequence[str],
    ) -> "TrialScores":
        """Count what the answers are; each may end where it is known to be a refusal."""
        refused = REFUSALS.flags(bad_prompts, bad_answers)
        broken = DEGENERATE.flags(bad_prompts, bad_answers)
        degenerate = sum(b and not r for r, b in zip(refused, broken, strict=True))
        return cls(
            kl_first_token=kl,
            refusals=sum(refused),
            degenerate=degenerate,
            unanswered=sum(refused) + degenerate,
            false_refusals=sum(REFUSALS.flags(good_prompts, good_answers)),
        )

    def to_dict(self) -> dict[str, float | int | None]:
        """Scores by name."""
        return asdict(self)
