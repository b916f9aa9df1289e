"""The Optuna study on disk: state that outlives runs, one writer at a time."""

import os
import sqlite3
import warnings
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, Literal
from urllib.parse import quote

import optuna
from optuna.storages import RDBStorage
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy.exc import SQLAlchemyError

from heretic.artifacts import fingerprint
from heretic.console import log
from heretic.errors import StudyError
from heretic.locks import sole_process

SECONDS_TO_WAIT_FOR_SQLITE = 60
# What SQLite says of a file that is whole.
ADVICE = {
    "is full": "free some space on the disk and run again, its trials are kept",
    "disk I/O error": "check the disk and run again, its trials are kept",
    "locked": "another program holds it; close that and run again, its trials are kept",
    "readonly": "a search was cut off in the middle of writing; run the search again, which "
    "brings the file in order, or mend its permissions",
}
IN_FLIGHT = "in_flight"  # attribute of a study: what it was asked for and has not finished
DAMAGED = "check the disk, or move the file away to start anew"


def study_name(objective: Mapping[str, Any]) -> str:
    """Name of the study of an objective; another objective has another name.

    Args:
        objective: everything that decides what a trial with given parameters scores.
    """
    return f"ablation-{fingerprint(objective)[:16]}"


@contextmanager
def open_study(
    database: Path, name: str, objectives: Mapping[str, Literal["minimize", "maximize"]]
) -> Iterator[optuna.Study]:
    """The study `name` in an SQLite file, created if need be, for this process alone to write.

    `objectives` are directions by name of the score.

    Trials that a killed process of an earlier version left running are marked as failed.

    Raises:
        StudyError: another process writes, or the file is damaged.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    database.parent.mkdir(parents=True, exist_ok=True)
    lock = database.with_suffix(".lock")
    with sole_process(lock, f"searching in {database}", StudyError), database_errors(database):
        if not database.exists():
            _create(database)
        study = optuna.create_study(
            study_name=name,
            storage=_storage(storage_url(database)),
            directions=list(objectives.values()),
            load_if_exists=True,
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            study.set_metric_names(list(objectives))
        _fail_unfinished(study)
        yield study


def _create(database: Path) -> None:
    """Make the tables in a file that then takes its place as a whole.

    Whoever looks in the meantime would find some of the tables, or make them a second time.
    """
    beside = database.with_name(f".{database.name}.partial")
    beside.unlink(missing_ok=True)
    storage = _storage(storage_url(beside))
    storage.remove_session()
    storage.engine.dispose()
    beside.replace(database)


def _fail_unfinished(study: optuna.Study) -> None:
    """Mark as failed what others left: earlier versions, which wrote bit by bit, or users."""
    waiting = study.get_trials(deepcopy=False, states=(TrialState.WAITING,))
    if waiting:
        log.warning("%d trials wait in the study's queue; they are not run", len(waiting))
    for _ in waiting:
        study.ask()  # a trial in the queue cannot be failed
    for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        study.tell(trial.number, state=TrialState.FAIL)


def finished_trials(study: optuna.Study) -> list[FrozenTrial]:
    """Completed trials in order of their numbers."""
    trials = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    return sorted(trials, key=lambda trial: trial.number)


def latest_start(study: optuna.Study) -> float:
    """Return when the study's last trial was started; seconds since 1970, 0 without any."""
    trials = study.get_trials(deepcopy=False)
    started = (trial.datetime_start.timestamp() for trial in trials if trial.datetime_start)
    waiting = (asked["since"] for asked in study.user_attrs.get(IN_FLIGHT, []))
    return max((*started, *waiting), default=0.0)


def kept_trials(database: Path, since: float) -> int | None:
    """Return how many trials are complete in the study that was searched last.

    Args:
        database: SQLite file, which no process writes.
        since: seconds since 1970.

    Returns:
        None if no trial was started after `since`.

    Raises:
        StudyError: there is no such file, or it is damaged.
    """
    if not database.is_file():
        raise StudyError(f"there is no study at {database}; start the search first")
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    with database_errors(database):
        storage = read_only_storage(database)
        names = optuna.get_all_study_names(storage)
        studies = [optuna.load_study(study_name=name, storage=storage) for name in names]
        started = {latest_start(study): study for study in studies}
        last = max(started, default=0.0)
        return len(finished_trials(started[last])) if last > since else None


def storage_url(database: Path) -> str:
    """The address of an SQLite file for Optuna, whatever characters its path has."""
    return f"sqlite:///file:{quote(str(database.resolve()))}?uri=true"


def read_only_storage(database: Path) -> RDBStorage:
    """The file for somebody who only looks, while another process may be writing.

    A search that was killed while it wrote leaves its journal, from which SQLite restores the file
    when somebody opens it who may write.
    """
    if database.with_name(f"{database.name}-journal").exists() and os.access(database, os.W_OK):
        with closing(sqlite3.connect(database, timeout=SECONDS_TO_WAIT_FOR_SQLITE)) as writable:
            writable.execute("SELECT count(*) FROM sqlite_master").fetchone()
    return _storage(f"{storage_url(database)}&mode=ro")


def _storage(url: str) -> RDBStorage:
    return RDBStorage(url, engine_kwargs={"connect_args": {"timeout": SECONDS_TO_WAIT_FOR_SQLITE}})


@contextmanager
def database_errors(database: Path) -> Iterator[None]:
    """What Optuna says of a database that it cannot use, in one line.

    Raises:
        StudyError: the disk is full, or the file is damaged.
    """
    try:
        yield
    except (sqlite3.Error, SQLAlchemyError, optuna.exceptions.StorageInternalError) as error:
        reason = str(_root(error)).splitlines()[0]
        advice = next((told for said, told in ADVICE.items() if said in reason), DAMAGED)
        raise StudyError(f"the study in {database} cannot be used ({reason}); {advice}") from error


def _root(error: BaseException) -> BaseException:
    """What SQLite itself said; Optuna and SQLAlchemy put sentences of their own around it."""
    return _root(error.__cause__) if error.__cause__ else error
