"""What a study is searched for: scores by name, each with a direction and a span."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, Self

from heretic.errors import SettingsError, StudyError
from heretic.evaluation.scorers.panel import Panel
from heretic.evaluation.scorers.score import ScoredPrompts, Span
from heretic.evaluation.trial_scores import TrialScores

Way = Literal["minimize", "maximize"]


@dataclass(frozen=True)
class Objective:
    """A score that a search makes small or large.

    Attributes:
        name: of the score.
        direction: in which it is better.
        best, worst: values that count as the ends of its scale.
    """

    name: str
    direction: Way
    best: float
    worst: float

    def share(self, value: float) -> float:
        """The value on its scale: 0 at the best, 1 at the worst, to be small in any case."""
        return Span(self.best, self.worst).share(value)

    def value(self, scores: TrialScores) -> float:
        """The score of a trial, and the worst value where it has none."""
        found = scores[self.name]
        return self.worst if found is None else float(found)

    def to_dict(self) -> dict[str, Any]:
        """Plain values that `from_dict` reads back."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Inverse of `to_dict`."""
        return cls(**values)


def directions_of(panel: Panel, names: Sequence[str]) -> dict[str, Way]:
    """Direction of each objective by name.

    Raises:
        SettingsError: there is no such score, or it is only reported.
    """
    found: dict[str, Way] = {}
    for name in names:
        direction = panel.direction(name)
        if direction == "none":
            raise SettingsError(
                f"{name} has no direction, so it is no objective; leave it out of `objectives`"
            )
        found[name] = direction
    return found


def make_objectives(
    panel: Panel,
    names: Sequence[str],
    prompts: ScoredPrompts,
    original: TrialScores,
    max_kl: float,
) -> list[Objective]:
    """The objectives of a study.

    Args:
        panel: of scorers.
        names: of the scores.
        prompts: that are scored on.
        original: scores of the original model.
        max_kl: nats that count as the worst divergence.

    Raises:
        SettingsError: see `directions_of`.
        StudyError: the original has no such score, since the prompts lack what it needs.
    """
    found = []
    for name, direction in directions_of(panel, names).items():
        value = original.get(name)
        if value is None:
            raise StudyError(
                f"the objective {name} cannot be measured on these prompts: right answers need an "
                "answer_column, and log-odds first tokens that tell refusals; name other objectives"
            )
        span = panel.span(name, value, max_kl, prompts)
        found.append(Objective(name, direction, span.best, span.worst))
    return found
