"""Optuna study on disk: state that outlives runs, with one writer at a time."""

import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import optuna
from optuna.trial import FrozenTrial, TrialState

from heretic.ablation.parameters import AblationParameters
from heretic.artifacts import fingerprint
from heretic.console import log
from heretic.errors import StudyError
from heretic.locks import exclusive_lock
from heretic.search.database import (
    database_errors,
    open_storage,
    reading_errors,
    require_study_file,
)
from heretic.search.objectives import Objective
from heretic.search.records import TrialRecord
from heretic.search.stored import (
    DAMAGED,
    StoredAsked,
    StoredTrial,
    require_form,
    require_list,
    require_mapping,
)

# Attributes of a study: budget of trials, objectives, and trials in flight.
WANTED, OBJECTIVES, IN_FLIGHT = "n_trials", "objectives", "in_flight"
RECORD = "record"  # attribute of a trial


@dataclass(frozen=True)
class PendingTrial:
    """Requested trial.

    Attributes:
        place: number of trials of the study before this one, regardless of their numbers.
        sampled: parameters by name.
        since: time of the request in seconds since 1970.
    """

    place: int
    sampled: Mapping[str, Any]
    since: float

    @classmethod
    def of(cls, trial: optuna.Trial) -> "PendingTrial":
        """Create from a trial of a `BufferedStudy` whose parameters are all chosen."""
        since = trial.datetime_start
        return cls(trial.number, trial.params, since.timestamp() if since else 0.0)


def study_name(objective: Mapping[str, Any]) -> str:
    """Return the name of an objective's study; each objective has its own study.

    Args:
        objective: everything that determines the scores of a trial with given parameters.
    """
    return f"ablation-{fingerprint(objective)[:16]}"


@contextmanager
def open_study(
    database: Path, name: str, objectives: Mapping[str, Literal["minimize", "maximize"]]
) -> Iterator[optuna.Study]:
    """Open the study `name` in an SQLite file for exclusive writing, creating it if needed.

    Trials that another program left running or queued are marked as failed.

    Args:
        database: path of the file.
        name: name of the study.
        objectives: directions by name of the score.

    Raises:
        StudyError: another process is writing, or the file is damaged.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    database.parent.mkdir(parents=True, exist_ok=True)
    lock = database.with_suffix(".lock")
    with exclusive_lock(lock, f"searching in {database}", StudyError), database_errors(database):
        if not database.exists() or (database.is_file() and not database.stat().st_size):
            _create(database)
        require_study_file(database, read_only=False)
        with reading_errors(database):
            study = _load(database, name, objectives)
        yield study


def _load(
    database: Path, name: str, objectives: Mapping[str, Literal["minimize", "maximize"]]
) -> optuna.Study:
    """Return the study after reading all of its rows, so that malformed ones are detected at once.

    Raises:
        Exception: any error of Optuna caused by malformed rows.
    """
    study = optuna.create_study(
        study_name=name,
        storage=open_storage(database),
        directions=list(objectives.values()),
        load_if_exists=True,
    )
    if [way.name.lower() for way in study.directions] != list(objectives.values()):
        raise ValueError(f"its study {name} has objectives that differ from its name")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        study.set_metric_names(list(objectives))
    _ = study.user_attrs
    require_numbers(study.get_trials(deepcopy=False))
    _fail_unfinished(study)
    return study


def require_numbers(trials: Sequence[FrozenTrial]) -> None:
    """Reject trials with missing or duplicate numbers.

    Raises:
        ValueError: a trial has no number or a duplicate one.
    """
    numbers: list[object] = [trial.number for trial in trials]
    if not all(type(number) is int and number >= 0 for number in numbers):
        raise ValueError("a trial has no number")
    if len(set(numbers)) < len(numbers):
        raise ValueError("two trials have the same number")


def _create(database: Path) -> None:
    """Create the tables in a temporary file that then replaces the target atomically.

    Otherwise another process might find only some of the tables, or create them twice.
    """
    beside = database.with_name(f".{database.name}.partial")
    beside.unlink(missing_ok=True)
    storage = open_storage(beside)
    storage.remove_session()
    storage.engine.dispose()
    beside.replace(database)


def _fail_unfinished(study: optuna.Study) -> None:
    """Mark unfinished trials of other programs or users as failed."""
    waiting = study.get_trials(deepcopy=False, states=(TrialState.WAITING,))
    if waiting:
        log.warning("Ignoring %d queued trials", len(waiting))
    for _ in waiting:
        study.ask()  # a queued trial cannot be marked as failed
    for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        study.tell(trial.number, state=TrialState.FAIL)


def finished_trials(study: optuna.Study) -> list[FrozenTrial]:
    """Return completed trials in order of their numbers."""
    trials = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    return sorted(trials, key=lambda trial: trial.number)


def latest_start(study: optuna.Study) -> float:
    """Return the start time of the study's last trial; seconds since 1970, or 0 without trials."""
    trials = study.get_trials(deepcopy=False)
    started = (trial.datetime_start.timestamp() for trial in trials if trial.datetime_start)
    waiting = (asked["since"] for asked in study.user_attrs.get(IN_FLIGHT, []))
    return max((*started, *waiting), default=0.0)


def in_flight(attributes: Mapping[str, Any], done: int) -> list[PendingTrial]:
    """Return the requested trials that are not finished.

    Args:
        attributes: attributes of the study.
        done: number of its finished trials.

    Raises:
        StudyError: their stored values are damaged.
    """
    entries = require_list(attributes.get(IN_FLIGHT, []), "the study's trials in flight")
    for each in entries:
        require_form(StoredAsked, each, "a trial in flight of the study")
    stored = [PendingTrial(**each) for each in entries]
    return [asked for asked in stored if asked.place >= done]


def stored_objectives(study: optuna.Study) -> tuple[Objective, ...]:
    """Return the objectives of a study; none before its first search.

    Raises:
        StudyError: their stored values are damaged.
    """
    stored = study.user_attrs.get(OBJECTIVES)
    if stored is None and not finished_trials(study):
        return ()
    values = require_list(stored, "the study's objectives")
    if not values:
        raise StudyError(f"the study has no objectives; {DAMAGED}")
    return tuple(Objective.from_dict(each) for each in values)


def read_records(study: optuna.Study, n_trials: int) -> list[TrialRecord]:
    """Return the first `n_trials` finished trials of a study.

    Raises:
        StudyError: the stored values of a trial are damaged.
    """
    return [_record(trial) for trial in finished_trials(study)[:n_trials]]


def _record(trial: FrozenTrial) -> TrialRecord:
    stored = require_mapping(trial.user_attrs.get(RECORD), f"trial {trial.number} of the study")
    require_form(StoredTrial, stored, f"trial {trial.number} of the study")
    return TrialRecord(
        number=trial.number,
        parameters=AblationParameters.from_dict(stored["parameters"]),
        sampled=trial.params,
        scores=stored["scores"],
        feasible=stored["feasible"],
        seconds=stored["seconds"],
        stages=stored["stages"],
        infeasible_because=stored["infeasible_because"],
        computation=stored["computation"],
    )


@contextmanager
def opened_studies(database: Path) -> Iterator[dict[str, optuna.Study]]:
    """Open all studies of an SQLite file, by name, for reading.

    Raises:
        StudyError: the file is missing, or is found to be damaged when opened or inside the block.
    """
    if not database.is_file():
        raise StudyError(f"there is no study at {database}; start the search first")
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    require_study_file(database)
    with reading_errors(database):
        storage = open_storage(database, read_only=True)
        names = optuna.get_all_study_names(storage)
        yield {name: optuna.load_study(study_name=name, storage=storage) for name in names}


def kept_trials(database: Path, since: float) -> int | None:
    """Return the number of complete trials of the most recently searched study.

    Args:
        database: path of the SQLite file, which no process is writing to.
        since: time in seconds since 1970.

    Returns:
        None if no trial was started after `since`.

    Raises:
        StudyError: the file is missing or damaged.
    """
    with opened_studies(database) as studies:
        started = {latest_start(study): study for study in studies.values()}
        last = max(started, default=0.0)
        return len(finished_trials(started[last])) if last > since else None
