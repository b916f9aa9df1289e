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
from heretic.scoring.thoughts import ends_in_thoughts, without_thoughts

__all__ = [
    "AnswerScorer",
    "Direction",
    "Measure",
    "ModelScorer",
    "Score",
    "ScoreRange",
    "ScoredPrompts",
    "Side",
    "ends_in_thoughts",
    "without_thoughts",
]
