"""Scores of a model's answers and states, and the base classes for custom scorers."""

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
