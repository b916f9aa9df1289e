"""Objectives of a study: scores by name, each with a direction and a scale."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, Self

from heretic.artifact_types import ObjectiveFacts
from heretic.metrics import ScoreRange
from heretic.search.stored import StoredObjective, require_form

OptimizationDirection = Literal["minimize", "maximize"]


@dataclass(frozen=True)
class Objective:
    """Score that a search minimizes or maximizes.

    Attributes:
        name: name of the score.
        direction: direction in which the score improves.
        best, worst: ends of its scale.
    """

    name: str
    direction: OptimizationDirection
    best: float
    worst: float

    def share(self, value: float) -> float:
        """Return the value on a scale to be minimized, from 0 for the best to 1 for the worst."""
        return ScoreRange(self.best, self.worst).share(value)

    def value(self, scores: Mapping[str, Any]) -> float:
        """Return the score of a trial, or the worst value if it has none."""
        found = scores[self.name]
        return self.worst if found is None else float(found)

    def to_dict(self) -> ObjectiveFacts:
        """Return plain values for `from_dict`."""
        return ObjectiveFacts(
            name=self.name, direction=self.direction, best=self.best, worst=self.worst
        )

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Rebuild from the values of `to_dict`.

        Raises:
            StudyError: the values are damaged.
        """
        require_form(StoredObjective, values, "an objective of the search")
        return cls(**values)
