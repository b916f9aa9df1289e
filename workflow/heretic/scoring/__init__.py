"""Scores of a model's answers and states, and the base classes for custom scorers."""

from heretic.metrics import Span
from heretic.scoring.base import (
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
