"""Scores of a model's answers and states, and the base classes for custom scorers."""

from heretic.metrics import ScoreRange
from heretic.scoring.base import (
    AnswerScorer,
    Direction,
    Measure,
    ModelScorer,
    Score,
    ScoredPrompts,
    Side,
)

__all__ = [
    "AnswerScorer",
    "Direction",
    "Measure",
    "ModelScorer",
    "Score",
    "ScoreRange",
    "ScoredPrompts",
    "Side",
]
