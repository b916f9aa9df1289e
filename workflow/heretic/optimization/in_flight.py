"""In-memory sampling of trials; each is stored as a whole once it finishes.

Optuna writes a trial bit by bit, each parameter and attribute in a transaction of its own, and on
most disks a transaction costs more than the choice. So a copy of the study in memory is asked and
told, and the study on disk is given what is finished, a trial in one transaction.

With several trials in flight the sampler chooses each in view of those that are running. After some
of these have finished it cannot choose the others again, so what was asked for is stored as well,
in one attribute of the study, and a resumed search takes it from there.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import optuna
from optuna.samplers import BaseSampler
from optuna.storages import InMemoryStorage

from heretic.console import log
from heretic.optimization.database import reading_errors
from heretic.optimization.study import IN_FLIGHT, Asked, finished_trials, in_flight
from heretic.optimization.warm_start import next_warm_start


class StudyInMemory:
    """A study's finished trials in memory, from which further ones are requested.

    The numbers of its trials are their places: how many trials come before them, finished or in
    flight. Failed trials, which other programs left behind, are not among them.
    """

    def __init__(self, stored: optuna.Study) -> None:
        """Copy a study that is not written to by another process."""
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
            sampler: of this trial.
            warm_starts: what is tried before the sampler chooses, if the study does not have it.
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
        asked = [*map(Asked.of, trials), *self._cut_off.values()]
        self._stored.set_user_attr(IN_FLIGHT, [asdict(each) for each in asked])

    def store(self, trial: optuna.Trial, values: Sequence[float]) -> int:
        """Store a finished trial, with its attributes and constraints; return its number."""
        self._stored.add_trial(self._memory.tell(trial, values))
        return self._failed + trial.number
