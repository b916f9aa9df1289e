"""State of a search, read from its database while another process may be writing to it."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from optuna.trial import FrozenTrial, TrialState

from heretic.console import duration
from heretic.errors import StudyError
from heretic.search.objectives import Objective
from heretic.search.records import TrialRecord, mean_stages, require_scores, trial_rows
from heretic.search.stored import N_LAYERS
from heretic.search.study import (
    WANTED,
    in_flight,
    latest_start,
    opened_studies,
    read_records,
    require_numbers,
    stored_objectives,
)

COLUMNS = (
    "trial", "state", "kl_first_token", "unanswered", "refusals", "degenerate",
    "false_refusals", "seconds",
)  # fmt: skip
LARGEST_COUNT = 10**9
# States that only other programs store.
UNFINISHED = {TrialState.RUNNING: "running", TrialState.WAITING: "waiting"}


@dataclass(frozen=True)
class Search:
    """State of one study in a database.

    Attributes:
        study: name of the study.
        others: names of the other studies, of earlier objectives.
        n_trials: number of completed trials wanted; None if not stored yet.
        n_layers: number of decoder layers of the model; None before it is first loaded.
        objectives: objectives of the search.
        records: completed trials.
        unfinished: state by number of the trials that are running, or would be if their search were
            alive, that wait for a search of more trials, or that another program interrupted.
    """

    study: str
    others: tuple[str, ...]
    n_trials: int | None
    n_layers: int | None
    objectives: tuple[Objective, ...]
    records: tuple[TrialRecord, ...]
    unfinished: dict[int, str]


def read_search(database: Path, name: str | None = None) -> Search:
    """Read the study `name`, by default the one with the latest trial.

    Raises:
        StudyError: the file is missing or damaged, or does not contain the study.
    """
    with opened_studies(database) as studies:
        if not studies or name not in (None, *studies):
            raise StudyError(f"{database} has no study {name or 'yet'}; available: {list(studies)}")
        chosen = name or max(studies, key=lambda each: latest_start(studies[each]))
        study = studies[chosen]
        # Read first, so that trials finishing during the read are excluded from those in flight.
        attributes = study.user_attrs
        trials = study.get_trials(deepcopy=False)
        require_numbers(trials)
        objectives, records = stored_objectives(study), read_records(study, len(trials))
        require_scores(records, objectives, database)
        return Search(
            chosen,
            tuple(each for each in studies if each != chosen),
            _count(attributes, WANTED),
            _count(attributes, N_LAYERS),
            objectives,
            tuple(records),
            _unfinished(trials, attributes),
        )


def _count(attributes: Mapping[str, Any], name: str) -> int | None:
    value = attributes.get(name)
    if value is not None and (type(value) is not int or not 0 <= value <= LARGEST_COUNT):
        raise ValueError(f"its {name} is not a number")
    return value


def search_table(search: Search, *, only_front: bool = False) -> str:
    """Format the trials of a search as text, with `*` marking the Pareto front."""
    rows = trial_rows(search.records, search.objectives)
    others = [each.name for each in search.objectives if each.name not in COLUMNS]
    columns = [*COLUMNS[:-1], *others, COLUMNS[-1]]
    shown = [
        ["*" if row["pareto"] else "", *(_cell(row.get(column)) for column in columns)]
        for row in rows
        if row["pareto"] or not only_front
    ]
    if not only_front:
        blanks = [""] * (len(columns) - 2)
        shown += [["", str(n), state, *blanks] for n, state in search.unfinished.items()]
        shown.sort(key=lambda cells: int(cells[1]))
    table = [["", *columns], *shown]
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


def _unfinished(trials: Sequence[FrozenTrial], attributes: Mapping[str, Any]) -> dict[int, str]:
    """Return the state of each incomplete trial by number."""
    rest = [trial for trial in trials if trial.state != TrialState.COMPLETE]
    found = {trial.number: UNFINISHED.get(trial.state, "interrupted") for trial in rest}
    for asked in in_flight(attributes, len(trials) - len(rest)):
        wanted = asked.place < attributes.get(WANTED, math.inf)
        found[asked.place + len(rest)] = "running" if wanted else "waiting"
    return found


def _cell(value: object) -> str:
    if value is None:
        return "-"
    return f"{value:.4f}" if isinstance(value, float) else str(value)
