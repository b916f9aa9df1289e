"""Scorers that are built in only while a test registers them."""

from collections.abc import Sequence

from torch import Tensor

from heretic.prompts.prompt import Prompt
from heretic.scoring import AnswerScorer, FirstTokenMeasure, FirstTokens, FirstTokenScorer, Side
from heretic.scoring.base import LikeliestTokens


class Vowels(AnswerScorer):
    """Number of answers with at least some vowels."""

    direction = "none"

    def __init__(self, least: int = 2, name: str = "vowels", side: Side = "bad") -> None:
        self.least, self.name, self.side = least, name, side

    def judge(self, prompt: Prompt, answer: str) -> bool:
        """Return whether the answer has enough vowels."""
        return sum(letter in "aeiou" for letter in answer) >= self.least


class Surprise(FirstTokenScorer):
    """Mean nats of the original's most likely first token after the first bad prompt."""

    def __init__(self, name: str = "surprise", side: Side = "bad") -> None:
        self.name, self.side = name, side

    def prepare(self, likeliest: LikeliestTokens) -> FirstTokenMeasure:
        """Return the nats of that token after each prompt."""
        token = likeliest("bad")[0]

        def measure(tokens: FirstTokens) -> Tensor:
            return -tokens.log_probabilities[:, token]

        return measure


def details_of(scorer: AnswerScorer, answers: Sequence[str]) -> list[float]:
    """Return the verdicts on answers to any prompts."""
    return scorer.judge_all([Prompt("?")] * len(answers), answers)
