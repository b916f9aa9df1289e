"""Early stopping of a search that no longer improves.

The gain is the growth of the hypervolume dominated by the Pareto front. It depends on the finished
trials alone, so the same trials always stop at the same one, regardless of interruptions and of the
number of trials in flight.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from heretic.search.objectives import Objective
from heretic.search.pareto import Candidate, hypervolume, pareto_front
from heretic.search.records import TrialRecord, candidates

SMALLEST_GAIN = 1e-3  # of the hypervolume, relative


@dataclass(frozen=True)
class EarlyStopping:
    """Criterion for stopping a search after a number of trials without improvement.

    Attributes:
        trials: finished trials without improvement before the search ends; 0 to never stop early.
        n_startup_trials: initial trials, which do not count.
        objectives: objectives of the search.
    """

    trials: int
    n_startup_trials: int
    objectives: Sequence[Objective]

    def end(self, records: Sequence[TrialRecord]) -> int | None:
        """Return the number of finished trials at which the search ends; None if it continues.

        It continues while no trial is better than the original, as there is nothing to select yet.
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
