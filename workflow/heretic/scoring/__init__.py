"""Scores of a model's answers and states, and the base classes for custom scorers."""

from heretic.metrics import ScoreRange
from heretic.scorer_registry import Side
from heretic.scoring.base import (
    AnswerScorer,
    Direction,
    FirstTokenMeasure,
    FirstTokens,
    FirstTokenScorer,
    Measure,
    ModelScorer,
    Score,
    ScoredPrompts,
)
from heretic.scoring.thoughts import ends_in_thoughts, without_thoughts

__all__ = [
    "AnswerScorer",
    "Direction",
    "FirstTokenMeasure",
    "FirstTokenScorer",
    "FirstTokens",
    "Measure",
    "ModelScorer",
    "Score",
    "ScoreRange",
    "ScoredPrompts",
    "Side",
    "ends_in_thoughts",
    "without_thoughts",
]
