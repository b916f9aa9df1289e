"""Trials that were asked for but not finished: what keeps them over an interruption.

With several trials in flight the sampler chooses each in view of those that are running. After some
of these have finished it cannot choose the others again, so the choice itself is stored and a
resumed search takes it from there.
"""

import optuna
from optuna.trial import TrialState

from heretic.console import log

# Of a trial whose parameters are all chosen: these, and how many trials of the study come before.
ASKED = "asked"


def mark_asked(trial: optuna.Trial, place: int) -> None:
    """Store that every parameter of a trial is chosen.

    Args:
        trial: as it was asked for.
        place: how many trials of the study come before it, whatever their numbers.
    """
    if ASKED not in trial.user_attrs:
        trial.set_user_attr(ASKED, {"place": place, "sampled": trial.params})


def requeue(study: optuna.Study) -> None:
    """Mark trials that a killed process left running as failed, and queue them as new ones.

    Each is queued once, in the order in which they were asked for, and before it is failed, so
    that this too may be cut off anywhere and done again. Trials whose parameters were not all
    chosen are not queued: the search chooses the same ones again.
    """
    interrupted = study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
    if not interrupted:
        return
    # What waits is taken out of the queue, which can only grow at its end, and comes in again.
    for _ in study.get_trials(deepcopy=False, states=(TrialState.WAITING,)):
        study.ask()
    unfinished = study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
    chosen = [trial.user_attrs[ASKED] for trial in unfinished if ASKED in trial.user_attrs]
    by_place = {asked["place"]: asked for asked in chosen}
    for place in sorted(by_place):
        study.enqueue_trial(by_place[place]["sampled"], user_attrs={ASKED: by_place[place]})
    for trial in unfinished:
        study.tell(trial.number, state=TrialState.FAIL)
    for trial in interrupted:
        log.info("Trial %d was interrupted and is run again", trial.number)
