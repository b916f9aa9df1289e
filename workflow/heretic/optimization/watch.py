"""The state of a search, read from its database while another process may be writing it."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import optuna
from optuna.trial import FrozenTrial, TrialState

from heretic.console import duration
from heretic.errors import StudyError
from heretic.optimization.records import TrialRecord, mean_stages, trial_rows
from heretic.optimization.study import database_errors, read_only_storage
from heretic.optimization.trials import WANTED, read_records

COLUMNS = (
    "trial", "state", "kl_first_token", "unanswered", "refusals", "degenerate",
    "false_refusals", "seconds",
)  # fmt: skip
UNFINISHED = {TrialState.RUNNING: "running", TrialState.WAITING: "waiting"}


@dataclass(frozen=True)
class Search:
    """One study of a database.

    Attributes:
        study: its name.
        others: names of the other studies, of earlier objectives.
        n_trials: how many completed trials are wanted; None if no search has said so yet.
        records: completed trials.
        unfinished: state by number of trials that are running, were cut off, or wait to be run
            again.
    """

    study: str
    others: tuple[str, ...]
    n_trials: int | None
    records: tuple[TrialRecord, ...]
    unfinished: dict[int, str]


def read_search(database: Path, name: str | None = None) -> Search:
    """Read a study; the one with the latest trial unless `name` says which.

    Raises:
        StudyError: the file is missing or damaged, or holds no such study.
    """
    if not database.is_file():
        raise StudyError(f"there is no study at {database}; start the search first")
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    with database_errors(database):
        storage = read_only_storage(database)
        names = optuna.get_all_study_names(storage)
        if not names or name not in (None, *names):
            raise StudyError(f"{database} has no study {name or 'yet'}; it has {names}")
        studies = {each: optuna.load_study(study_name=each, storage=storage) for each in names}
        chosen = name or max(names, key=lambda each: _latest(studies[each]))
        study = studies[chosen]
        trials = study.get_trials(deepcopy=False)
        return Search(
            chosen,
            tuple(each for each in names if each != chosen),
            study.user_attrs.get(WANTED),
            tuple(read_records(study, len(trials))),
            {t.number: _state(t) for t in trials if t.state != TrialState.COMPLETE},
        )


def search_table(search: Search, *, only_front: bool = False) -> str:
    """The trials of a search as text, `*` before those of the Pareto front."""
    rows = trial_rows(search.records)
    shown = [
        ["*" if row["pareto"] else "", *(_cell(row[column]) for column in COLUMNS)]
        for row in rows
        if row["pareto"] or not only_front
    ]
    if not only_front:
        blanks = [""] * (len(COLUMNS) - 2)
        shown += [["", str(n), state, *blanks] for n, state in search.unfinished.items()]
        shown.sort(key=lambda cells: int(cells[1]))
    table = [["", *COLUMNS], *shown]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    lines = [
        "  ".join(cell.rjust(width) for cell, width in zip(cells, widths, strict=True))
        for cells in table
    ]
    return "\n".join([*lines, "", *_summary(search)])


def _summary(search: Search) -> list[str]:
    done, wanted = len(search.records), search.n_trials
    running = sum(state == "running" for state in search.unfinished.values())
    of = "" if wanted is None else f" of {wanted}"
    lines = [f"{search.study}: {done}{of} trials complete, {running} running"]
    if wanted is not None and search.records and done < wanted:
        each = sum(record.seconds for record in search.records) / done
        lines[0] += f", {each:.2f} s each, {duration(each * (wanted - done))} left"
    if search.others:
        lines.append(f"Other studies in the file: {', '.join(search.others)}")
    by_stage = mean_stages(search.records)
    if by_stage:
        told = ", ".join(f"{name} {seconds:.3f}" for name, seconds in by_stage.items())
        lines.append(f"Mean seconds of a feasible trial: {told}")
    return lines


def _latest(study: optuna.Study) -> float:
    """When the study's last trial was started; seconds since 1970."""
    trials: Sequence[FrozenTrial] = study.get_trials(deepcopy=False)
    return max((t.datetime_start.timestamp() for t in trials if t.datetime_start), default=0.0)


def _state(trial: FrozenTrial) -> str:
    return UNFINISHED.get(trial.state, "interrupted")


def _cell(value: object) -> str:
    if value is None:
        return "-"
    return f"{value:.4f}" if isinstance(value, float) else str(value)
