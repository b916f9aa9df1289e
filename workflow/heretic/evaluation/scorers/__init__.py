"""What answers and states of a model score, and the base classes of scorers of one's own."""

from heretic.evaluation.scale import Span
from heretic.evaluation.scorers.score import (
    AnswerScorer,
    Direction,
    Measure,
    PassScorer,
    Score,
    ScoredPrompts,
    Side,
)

__all__ = [
    "AnswerScorer",
    "Direction",
    "Measure",
    "PassScorer",
    "Score",
    "ScoredPrompts",
    "Side",
    "Span",
]
