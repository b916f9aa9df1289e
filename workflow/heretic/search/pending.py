"""In-memory sampling of trials; each is stored as a whole once it finishes.

Optuna stores each parameter and attribute of a trial in a separate transaction, which on most disks
takes longer than the choice of parameters. Trials are therefore sampled from a copy of the study in
memory, and each finished trial is written to the study on disk in one transaction.

With several trials in flight, the sampler chooses each one in view of the running ones. That choice
cannot be repeated after some of them have finished, so the requested trials are stored in an
attribute of the study as well, from which a resumed search takes them.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import optuna
from optuna.samplers import BaseSampler
from optuna.storages import InMemoryStorage

from heretic.console import log
from heretic.search.database import reading_errors
from heretic.search.study import IN_FLIGHT, PendingTrial, finished_trials, in_flight
from heretic.search.warm_start import next_warm_start


class BufferedStudy:
    """In-memory copy of a study's finished trials, from which further trials are requested.

    The number of a trial is its place: the number of trials before it, finished or in flight.
    Failed trials, left by other programs, are excluded.
    """

    def __init__(self, stored: optuna.Study) -> None:
        """Copy a study that no other process writes to."""
        finished = finished_trials(stored)
        self._stored = stored
        self._memory = optuna.create_study(storage=InMemoryStorage(), directions=stored.directions)
        with reading_errors(stored.study_name):
            self._memory.add_trials(finished)
        self._failed = len(stored.get_trials(deepcopy=False)) - len(finished)
        self._cut_off = {a.place: a for a in in_flight(stored.user_attrs, len(finished))}

    def ask(
        self, sampler: BaseSampler, warm_starts: Sequence[Mapping[str, Any]] = ()
    ) -> optuna.Trial:
        """Return the next trial: one already requested at its place, or the sampler's choice.

        Args:
            sampler: sampler for this trial.
            warm_starts: parameters to try before the sampler chooses, unless the study contains
                them.
        """
        trials = self._memory.get_trials(deepcopy=False)
        place = len(trials)
        known = self._cut_off.pop(place, None)
        if known is not None:
            log.info("Resuming interrupted trial %d", self._failed + place)
            self._memory.enqueue_trial(dict(known.sampled))
        else:
            waiting = [asked.sampled for asked in self._cut_off.values()]
            start = next_warm_start(warm_starts, [*(t.params for t in trials), *waiting])
            if start is not None:
                self._memory.enqueue_trial(dict(start))
        self._memory.sampler = sampler
        return self._memory.ask()

    def keep(self, trials: Sequence[optuna.Trial]) -> None:
        """Store these trials as in flight, ahead of those left from an earlier search."""
        asked = [*map(PendingTrial.of, trials), *self._cut_off.values()]
        self._stored.set_user_attr(IN_FLIGHT, [asdict(each) for each in asked])

    def store(self, trial: optuna.Trial, values: Sequence[float]) -> int:
        """Store a finished trial, with its attributes and constraints; return its number."""
        self._stored.add_trial(self._memory.tell(trial, values))
        return self._failed + trial.number
