"""Records of finished trials for the table, the selection and other programs."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

from heretic.ablation.parameters import AblationParameters
from heretic.errors import StudyError
from heretic.metrics import LOG_ODDS, REFUSALS, UNANSWERED
from heretic.search.objectives import Objective
from heretic.search.pareto import Candidate, pareto_front, select
from heretic.search.stored import DAMAGED, TableTrial, require_form
from heretic.timing import STAGES, mean_seconds

SHARE_OF_A_PROMPT = 0.25


@dataclass(frozen=True)
class TrialRecord:
    """Record of a finished trial.

    Attributes:
        number: Optuna's trial number, which never changes.
        parameters: parameters of the edit.
        sampled: sampled values by parameter name.
        scores: scores by name; scores of answers are None when nothing was generated.
        feasible: whether the trial stayed within all limits, such as `max_kl`.
        seconds: wall time; trials scored together have equal shares.
        stages: the same seconds by stage, with keys from `STAGES`.
        infeasible_because: limits that the trial exceeds; empty if it is feasible.
        computation: device, data type and similar values from `heretic.search.computation`.
    """

    number: int
    parameters: AblationParameters
    sampled: Mapping[str, Any]
    scores: Mapping[str, Any]
    feasible: bool
    seconds: float
    stages: Mapping[str, float] = field(default_factory=dict)
    infeasible_because: str = ""
    computation: Mapping[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for `from_dict`."""
        return {**vars(self), "parameters": self.parameters.to_dict()}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Rebuild from the values of `to_dict`.

        Raises:
            StudyError: the values are damaged.
        """
        require_form(TableTrial, values, "a trial of the search")
        parameters = AblationParameters.from_dict(values["parameters"])
        return cls(**{**values, "parameters": parameters})


def require_scores(
    records: Sequence[TrialRecord], objectives: Sequence[Objective], place: object
) -> None:
    """Reject trials that were not searched for these objectives.

    Args:
        records: trials of the search.
        objectives: objectives of the search.
        place: name of the file in the message.

    Raises:
        StudyError: a trial lacks the score of an objective.
    """
    for record in records:
        lacking = [each.name for each in objectives if each.name not in record.scores]
        if lacking:
            raise StudyError(
                f"trial {record.number} in {place} has no score {lacking[0]}; {DAMAGED}"
            )


def candidates(records: Sequence[TrialRecord], objectives: Sequence[Objective]) -> list[Candidate]:
    """Return the feasible trials with their objectives."""
    return [
        Candidate(r.number, tuple(o.share(o.value(r.scores)) for o in objectives), r.scores)
        for r in records
        if r.feasible
    ]


def log_odds_correlation(records: Sequence[TrialRecord]) -> dict[str, Any]:
    """Measure how well the refusal log-odds, which need no answers, predict the refusal count.

    Returns:
        `trials`, the number of trials with both, and their rank correlation `spearman`, which is
        None with fewer than three trials or if either is constant.
    """
    both = [
        (r.scores[LOG_ODDS], r.scores[REFUSALS])
        for r in records
        if r.scores.get(LOG_ODDS) is not None and r.scores.get(REFUSALS) is not None
    ]
    columns = [set(column) for column in zip(*both, strict=True)]
    known = len(both) > 2 and min(map(len, columns)) > 1
    from scipy.stats import spearmanr  # slow to load, and other readers of records do not need it

    correlation = float(spearmanr(both).statistic) if known else None
    return {"trials": len(both), "spearman": correlation}


def trial_rows(
    records: Sequence[TrialRecord], objectives: Sequence[Objective]
) -> list[dict[str, Any]]:
    """Return the rows of `trials.csv`."""
    on_front = {found.number for found in pareto_front(candidates(records, objectives))}
    return [
        {
            "trial": r.number,
            "state": "complete" if r.feasible else "infeasible",
            **r.scores,
            "pareto": int(r.number in on_front),
            "infeasible_because": r.infeasible_because,
            "seconds": round(r.seconds, 4),
            **{f"seconds_{name}": _rounded(r.stages.get(name)) for name in STAGES},
            **r.sampled,
            **{f"computed_{name}": value for name, value in r.computation.items()},
        }
        for r in records
    ]


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 4)


def mean_stages(records: Sequence[TrialRecord]) -> dict[str, float]:
    """Return mean seconds by stage over the feasible trials with timings, if any."""
    return mean_seconds([r.stages for r in records if r.feasible and r.stages])


def resolution_of(objectives: Sequence[Objective]) -> float:
    """Return the resolution of distances: a quarter of the weight of one prompt.

    It is 0 if no objective counts refusals.
    """
    totals = [o.worst for o in objectives if o.name in (REFUSALS, UNANSWERED)]
    return SHARE_OF_A_PROMPT / max(totals) if totals else 0.0


def choose(
    records: Sequence[TrialRecord], rule: str, max_kl: float, objectives: Sequence[Objective]
) -> tuple[TrialRecord, str]:
    """Return the trial selected by `rule`, and why; see `heretic.search.pareto.select`.

    Raises:
        StudyError: no trial can be selected.
    """
    found = candidates(records, objectives)
    chosen, reason = select(found, rule, max_kl, resolution_of(objectives))
    return next(record for record in records if record.number == chosen.number), reason
