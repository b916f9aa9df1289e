"""Row of a model in the held-out table, in the format of `evaluation.json`."""

from typing import Any

from heretic.evaluation.holdout import HoldoutProtocol
from heretic.evaluation.intervals import mean_with_interval, rate, require_finite
from heretic.evaluation.measurement import Columns, Measurement
from heretic.scoring.base import Score


def summarize(measurement: Measurement, protocol: HoldoutProtocol) -> dict[str, Any]:
    """Return the row of a model, with requested scores in `scores`.

    Raises:
        HereticError: a divergence or a score is not finite.
    """
    columns = _complete(measurement.columns)
    row = {name: _interval(score, protocol) for name, score in columns.items()}
    further = _complete(measurement.further)
    scores = {name: _with_direction(score, protocol) for name, score in further.items()}
    return {**row, "scores": scores} if scores else row


def _complete(columns: Columns) -> dict[str, Score]:
    return {name: column.score for name, column in columns.items() if column.complete}


def _interval(score: Score, protocol: HoldoutProtocol) -> dict[str, Any]:
    """Return a count as a rate, any other score as a mean, with its interval."""
    if score.counts:
        return rate([detail > 0 for detail in score.details])
    return mean_with_interval(score.details, protocol.bootstrap_samples, protocol.seed)


def _with_direction(score: Score, protocol: HoldoutProtocol) -> dict[str, Any]:
    """Return a requested score: a mean as its value, with an interval only if it is a mean."""
    found = _interval(score, protocol)
    if score.counts:
        return {**found, "direction": score.direction}
    require_finite([score.value])
    whole = {"value": score.value, "direction": score.direction}
    return {**whole, "interval": found["interval"]} if score.value == found["mean"] else whole
