"""Finished trials as values: for the table, for the choice, for other programs."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

from heretic.ablation.parameters import AblationParameters
from heretic.optimization.pareto import Candidate, Scales, pareto_front, select
from heretic.stages import STAGES, mean_seconds


@dataclass(frozen=True)
class TrialRecord:
    """A finished trial.

    Attributes:
        number: Optuna's trial number, which never changes.
        parameters: the edit.
        sampled: what the sampler chose, by name.
        scores: scores by name; those of answers are None when nothing was generated.
        feasible: whether the KL stayed under `max_kl`.
        seconds: wall time; of trials that were scored together each one's equal share.
        stages: these seconds by stage, keys `STAGES`; empty in a record of an earlier version.
    """

    number: int
    parameters: AblationParameters
    sampled: Mapping[str, Any]
    scores: Mapping[str, Any]
    feasible: bool
    seconds: float
    stages: Mapping[str, float] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Plain values that `from_dict` reads back."""
        return {**vars(self), "parameters": self.parameters.to_dict()}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Inverse of `to_dict`."""
        parameters = AblationParameters.from_dict(values["parameters"])
        return cls(**{**values, "parameters": parameters})


def candidates(records: Sequence[TrialRecord]) -> list[Candidate]:
    """The feasible trials with their objectives."""
    return [
        Candidate(r.number, r.scores["kl_first_token"], r.scores["unanswered"])
        for r in records
        if r.feasible
    ]


def trial_rows(records: Sequence[TrialRecord]) -> list[dict[str, Any]]:
    """Rows of `trials.csv`."""
    on_front = {candidate.number for candidate in pareto_front(candidates(records))}
    return [
        {
            "trial": r.number,
            "state": "complete" if r.feasible else "infeasible",
            **r.scores,
            "pareto": int(r.number in on_front),
            "seconds": round(r.seconds, 4),
            **{f"seconds_{name}": _rounded(r.stages.get(name)) for name in STAGES},
            **r.sampled,
        }
        for r in records
    ]


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 4)


def mean_stages(records: Sequence[TrialRecord]) -> dict[str, float]:
    """Mean seconds by stage of the feasible trials that know them; empty if none does."""
    return mean_seconds([r.stages for r in records if r.feasible and r.stages])


def choose(
    records: Sequence[TrialRecord], rule: str, max_kl: float, scales: Scales
) -> tuple[TrialRecord, str]:
    """The trial that `rule` selects, and why; see `heretic.optimization.pareto.select`.

    Raises:
        StudyError: no trial can be chosen.
    """
    chosen, reason = select(candidates(records), rule, max_kl, scales)
    return next(record for record in records if record.number == chosen.number), reason
