"""The Pareto front of (divergence, unanswered prompts), and which of its trials to take."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from heretic.errors import StudyError


@dataclass(frozen=True)
class Candidate:
    """A feasible trial and its two objectives, both to be small.

    Attributes:
        number: Optuna's trial number.
        kl_first_token: nats.
        unanswered: bad prompts that were refused or answered by a degenerate text.
    """

    number: int
    kl_first_token: float
    unanswered: int


@dataclass(frozen=True)
class Scales:
    """What makes the two objectives comparable: the value of each that counts as one.

    Fixed numbers rather than the ends of the front, so that a trial's distance from the origin
    does not depend on which other trials a search happened to run.

    Attributes:
        kl_first_token: nats; the largest KL that a search allows.
        unanswered: the number of bad prompts.
    """

    kl_first_token: float
    unanswered: int

    def distance(self, candidate: Candidate) -> float:
        """Distance of a trial from the origin of the normalised objectives."""
        return math.hypot(
            candidate.kl_first_token / self.kl_first_token, candidate.unanswered / self.unanswered
        )


def pareto_front(candidates: Sequence[Candidate]) -> list[Candidate]:
    """Trials that no other beats in one objective without losing in the other, by rising KL.

    Of equal trials the earliest stands for all.
    """
    front: list[Candidate] = []
    fewest = math.inf
    for candidate in sorted(candidates, key=lambda c: (c.kl_first_token, c.unanswered, c.number)):
        if candidate.unanswered < fewest:
            front.append(candidate)
            fewest = candidate.unanswered
    return front


def hypervolume(candidates: Sequence[Candidate], scales: Scales) -> float:
    """What part of the unit square of the normalised objectives the trials dominate.

    It is the square from the origin to the largest allowed KL and to no prompt answered, so that
    the original, or what is no better in one objective, dominates nothing of it.
    """
    area, height = 0.0, 1.0
    for candidate in pareto_front(candidates):
        width = 1.0 - candidate.kl_first_token / scales.kl_first_token
        lower = candidate.unanswered / scales.unanswered
        if width > 0 and lower < height:
            area += width * (height - lower)
            height = lower
    return area


def fewest_unanswered(candidates: Sequence[Candidate]) -> Candidate | None:
    """The end of the Pareto front with the fewest unanswered prompts; None without a trial.

    Of equal trials the earliest. The best of a search so far is the best of the one before and
    the trials since.
    """
    return min(candidates, key=lambda c: (c.unanswered, c.kl_first_token, c.number), default=None)


def select(
    candidates: Sequence[Candidate], rule: str, max_kl: float, scales: Scales
) -> tuple[Candidate, str]:
    """Choose a trial and say why.

    Args:
        candidates: feasible trials.
        rule: `closest`, `knee`, `min_refusals_under_kl` or `trial=<number>`.
        max_kl: nats, for `min_refusals_under_kl`.
        scales: for `closest`.

    Raises:
        StudyError: there is no feasible trial, no such trial, or none under `max_kl`.
    """
    if not candidates:
        raise StudyError("no trial is feasible; raise max_kl or n_trials, or lower max_weight")
    if rule.startswith("trial="):
        return _by_number(candidates, int(rule.removeprefix("trial=")))
    front = pareto_front(candidates)
    if rule == "min_refusals_under_kl":
        under = [c for c in front if c.kl_first_token <= max_kl]
        if not under:
            raise StudyError(
                f"no trial has a KL of {max_kl} or less (smallest {front[0].kl_first_token:.3f}); "
                "raise select_max_kl or n_trials"
            )
        return under[-1], f"{rule}: fewest unanswered of {len(under)} with KL <= {max_kl}"
    if rule == "knee":
        # Rounded, so that no last bit breaks a tie. Of trials on one line, as the two ends of a
        # front of two, the last has the fewest unanswered; the first may be the unedited model.
        sums = [round(sum(point), 12) for point in _between_ends(front)]
        best = front[max(i for i, total in enumerate(sums) if total == min(sums))]
        return best, f"knee: farthest below the line between the ends of {len(front)} trials"
    best = min(front, key=scales.distance)
    return best, f"closest: nearest to the origin of the normalised front of {len(front)}"


def _by_number(candidates: Sequence[Candidate], number: int) -> tuple[Candidate, str]:
    chosen = [c for c in candidates if c.number == number]
    if not chosen:
        raise StudyError(f"trial {number} is not a feasible trial; see trials.csv for the numbers")
    return chosen[0], f"trial={number}: chosen by the user"


def _between_ends(front: Sequence[Candidate]) -> list[tuple[float, float]]:
    """Objectives scaled so that each spans [0, 1] over the front."""
    lows = (front[0].kl_first_token, front[-1].unanswered)
    highs = (front[-1].kl_first_token, front[0].unanswered)
    spans = [high - low or 1.0 for low, high in zip(lows, highs, strict=True)]
    return [
        ((c.kl_first_token - lows[0]) / spans[0], (c.unanswered - lows[1]) / spans[1])
        for c in front
    ]
