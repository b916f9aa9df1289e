"""Early stopping of a search that no longer improves.

What was gained is the growth of the part of the objectives' space that the Pareto front dominates.
It is computed from the finished trials alone, so that the same trials always end at the same one,
however often the search was interrupted and however many trials were in flight.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from heretic.optimization.objectives import Objective
from heretic.optimization.pareto import Candidate, hypervolume, pareto_front
from heretic.optimization.records import TrialRecord, candidates

SMALLEST_GAIN = 1e-3  # of the hypervolume, relative


@dataclass(frozen=True)
class Patience:
    """Number of trials that a search continues without an improvement.

    Attributes:
        trials: as many finished trials; 0 for as long as there are trials.
        n_startup_trials: first trials, which do not count.
        objectives: of the search.
    """

    trials: int
    n_startup_trials: int
    objectives: Sequence[Objective]

    def end(self, records: Sequence[TrialRecord]) -> int | None:
        """Return how many finished trials, in order, belong to the search; None if it continues.

        It goes on as long as no trial is better than the original: there is nothing to choose yet.
        """
        if not self.trials:
            return None
        front: list[Candidate] = []
        best, since = 0.0, self.n_startup_trials
        for count, record in enumerate(records, start=1):
            front = pareto_front([*front, *candidates([record], self.objectives)])
            volume = hypervolume(front)
            if volume > best * (1.0 + SMALLEST_GAIN):
                best, since = volume, max(count, self.n_startup_trials)
            elif best > 0 and count - since >= self.trials:
                return count
        return None
