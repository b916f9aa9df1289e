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

from heretic.evaluation.scorers.answers import Refusals, Right
from heretic.evaluation.scorers.degenerate import is_degenerate
from heretic.evaluation.scorers.markers import RefusalMarkers


class _Plain(AnswerScorer):
    name = "degenerate"
    judge = staticmethod(is_degenerate)


REFUSALS = Refusals(RefusalMarkers(), "refusals")
RIGHT = Right(RefusalMarkers(), "right")
DEGENERATE = _Plain()
