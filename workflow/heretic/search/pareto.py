"""Pareto front of a study's objectives, and the selection of one of its trials."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from heretic.errors import StudyError
from heretic.metrics import KL, LOG_ODDS, UNANSWERED


@dataclass(frozen=True)
class Candidate:
    """Feasible trial.

    Attributes:
        number: Optuna's trial number.
        objectives: values on scales to be minimized, from 0 for the best to 1 for the worst. The
            scales are fixed rather than spanned by the front, so that a trial's distance from the
            origin does not depend on the other trials of the search.
        scores: scores by name, in their own units.
    """

    number: int
    objectives: tuple[float, ...]
    scores: Mapping[str, Any] = field(default_factory=dict, compare=False)

    def distance(self) -> float:
        """Return the distance from the origin of the objectives; values below 0 count as 0."""
        return math.hypot(*(max(0.0, value) for value in self.objectives))


def pareto_front(candidates: Sequence[Candidate]) -> list[Candidate]:
    """Return the trials that are not dominated by any other.

    The trials are sorted by their objectives, starting with the first objective. Of equal trials
    only the earliest is returned.
    """
    front: list[Candidate] = []
    for candidate in sorted(candidates, key=lambda c: (c.objectives, c.number)):
        # A dominated trial is dominated by one sorted before it.
        if not any(_no_worse(other, candidate) for other in front):
            front.append(candidate)
    return front


def _no_worse(one: Candidate, other: Candidate) -> bool:
    pairs = zip(one.objectives, other.objectives, strict=True)
    return all(a <= b for a, b in pairs)


def hypervolume(candidates: Sequence[Candidate]) -> float:
    """Compute the share of the objectives' unit cube that the trials dominate.

    The cube extends from the origin to the worst values, such as the largest allowed KL and no
    prompt answered. A trial at the worst value of any objective, such as the original, dominates
    nothing.
    """
    points = [
        tuple(max(0.0, value) for value in candidate.objectives)
        for candidate in pareto_front(candidates)
        if max(candidate.objectives) < 1.0
    ]
    return _volume(points) if points else 0.0


def _volume(points: Sequence[tuple[float, ...]]) -> float:
    """Compute the volume between points and (1, ..., 1), by slices along the first objective."""
    ordered = sorted(points)
    if len(ordered[0]) == 1:
        return 1.0 - ordered[0][0]
    ends = [*(point[0] for point in ordered[1:]), 1.0]
    return sum(
        (end - point[0]) * _volume([other[1:] for other in ordered[: place + 1]])
        for place, (point, end) in enumerate(zip(ordered, ends, strict=True))
        if end > point[0]
    )


def nearest(candidates: Sequence[Candidate]) -> Candidate | None:
    """Return the trial closest to the origin of the objectives; None without a trial.

    Of equal trials, return the earliest. The trial closest so far can be updated incrementally: it
    is the nearest of the previous one and the trials since.
    """
    return min(candidates, key=lambda c: (c.distance(), c.objectives, c.number), default=None)


def select(
    candidates: Sequence[Candidate], rule: str, max_kl: float, resolution: float = 0.0
) -> tuple[Candidate, str]:
    """Select a trial and explain why.

    Args:
        candidates: feasible trials.
        rule: `closest`, `knee`, `min_refusals_under_kl` or `trial=<number>`.
        max_kl: largest divergence in nats, for `min_refusals_under_kl`.
        resolution: largest difference in distance that a search cannot distinguish, for `closest`.

    Raises:
        StudyError: no trial is feasible, has this number, or is under `max_kl`.
    """
    if not candidates:
        raise StudyError("no trial is feasible; raise max_kl or n_trials, or lower max_weight")
    if rule.startswith("trial="):
        return _by_number(candidates, int(rule.removeprefix("trial=")))
    if rule == "min_refusals_under_kl":
        return _fewest_under(candidates, max_kl)
    front = pareto_front(candidates)
    if rule == "knee":
        # Rounded, so that floating-point noise does not break a tie. Of trials on one line, such as
        # the two ends of a front of two, take the nearest to the origin; another may be the
        # unedited model.
        sums = [round(sum(point), 12) for point in _between_ends(front)]
        on_line = [c for c, total in zip(front, sums, strict=True) if total == min(sums)]
        best = min(on_line, key=Candidate.distance)
        return best, f"knee: farthest below the line between the ends of {len(front)} trials"
    return _closest(candidates, front, resolution)


def _closest(
    candidates: Sequence[Candidate], front: Sequence[Candidate], resolution: float
) -> tuple[Candidate, str]:
    """Return the closest trial, or the safest among those that the search cannot distinguish.

    As distances shrink, a search finds edits that only just suffice for its own prompts and leave
    others refused; the log-odds of the first tokens measure the margin.
    """
    best = min(front, key=Candidate.distance)
    reason = f"closest: nearest to the origin of the normalized front of {len(front)}"
    near = [
        c
        for c in candidates
        if c.distance() <= best.distance() + resolution and c.scores.get(LOG_ODDS) is not None
    ]
    if len(near) < 2 or best not in near:
        return best, reason
    surest = min(near, key=lambda c: (c.scores[LOG_ODDS], c.distance(), c.number))
    return surest, f"{reason}, and of {len(near)} trials as near the surest not to refuse"


def _by_number(candidates: Sequence[Candidate], number: int) -> tuple[Candidate, str]:
    chosen = [c for c in candidates if c.number == number]
    if not chosen:
        raise StudyError(f"trial {number} is not a feasible trial; see trials.csv for the numbers")
    return chosen[0], f"trial={number}: chosen by the user"


def _fewest_under(candidates: Sequence[Candidate], max_kl: float) -> tuple[Candidate, str]:
    """Return the trial with the fewest unanswered prompts under a KL limit."""
    under = [c for c in candidates if c.scores[KL] <= max_kl]
    if not under:
        smallest = min(c.scores[KL] for c in candidates)
        raise StudyError(
            f"no trial has a KL of {max_kl} or less (smallest {smallest:.3f}); "
            "raise select_max_kl or n_trials"
        )
    best = min(under, key=lambda c: (c.scores[UNANSWERED], c.scores[KL], c.number))
    return best, f"min_refusals_under_kl: fewest unanswered of {len(under)} with KL <= {max_kl}"


def _between_ends(front: Sequence[Candidate]) -> list[list[float]]:
    """Return objectives scaled so that each spans [0, 1] over the front."""
    columns = list(zip(*(candidate.objectives for candidate in front), strict=True))
    lows = [min(column) for column in columns]
    spans = [max(column) - min(column) or 1.0 for column in columns]
    return [
        [(value - low) / span for value, low, span in zip(c.objectives, lows, spans, strict=True)]
        for c in front
    ]
