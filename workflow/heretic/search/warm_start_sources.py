"""Edits found on other models or in earlier searches, as warm starts of a search.

Nothing here needs the model, so errors in a file are reported before one is loaded.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final, Self

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, model_validator

from heretic.ablation.parameters import AblationParameters
from heretic.artifacts import read_json
from heretic.errors import HereticError, SettingsError, StudyError, one_line
from heretic.model.stream_writers.components import ATTENTION, MLP
from heretic.search.objectives import Objective
from heretic.search.pareto import Candidate, pareto_front
from heretic.search.records import TrialRecord, candidates, require_scores
from heretic.search.stored import (
    N_LAYERS,
    EditedLayers,
    Layers,
    StateIndex,
    StoredEdit,
    complaint,
)
from heretic.settings.config_files import read_config_file

EXAMPLE = "config/warm_start/llama.yaml"
DATABASES = (".db", ".sqlite", ".sqlite3")
KINDS = "the study.db, study.json or best.json of a search"
LARGEST_FAMILY, MOST_TRIALS = 256 * 1024, 10_000
_LAYERS: Final = TypeAdapter(Layers)
Told = Annotated[str, Field(min_length=1)]


@dataclass(frozen=True)
class WarmStartTrial:
    """Edit found elsewhere.

    Attributes:
        name: description for messages.
        n_layers: number of decoder layers of the model on which it was found.
        parameters: parameters of the edit.
    """

    name: str
    n_layers: int
    parameters: AblationParameters


class WarmStartEntry(StoredEdit):
    """Trial in a family's file, with its origin.

    Attributes:
        model: hub id of the model on which it was found.
        n_layers: number of decoder layers of that model.
        source: publication or study that reports it.
        measured: method of measurement and scores.
        direction_scope, direction_index, components, layers: edit as in `best.json`, where values
            of None may be left out.
    """

    model_config = ConfigDict(extra="forbid")

    model: Told
    n_layers: Layers
    direction_index: StateIndex | None = None
    layers: EditedLayers | None = None
    source: Told
    measured: Told

    @model_validator(mode="after")
    def _check_trial(self) -> Self:
        if (self.direction_scope == "global") != (self.direction_index is not None):
            raise ValueError("only a global direction has a direction_index")
        self.require_depth(self.n_layers)
        if self.components.keys() != {ATTENTION, MLP}:
            raise ValueError(f"components are {ATTENTION} and {MLP}")
        return self


class Family(BaseModel):
    """File in `config/warm_start/`; `family` is the `model_type` of its models."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    family: Told
    trials: list[WarmStartEntry] = Field(min_length=1)


def load_family_file(path: Path) -> list[WarmStartTrial]:
    """Return the trials of a family's file, in order.

    Raises:
        SettingsError: the file is missing, is not YAML, or lacks a value, such as a source.
    """
    try:
        if path.exists() and (not path.is_file() or path.stat().st_size > LARGEST_FAMILY):
            raise SettingsError(f"{path} is not a file, or too large; write it like {EXAMPLE}")
        family = Family.model_validate(read_config_file(path))
    except ValidationError as error:
        raise SettingsError(f"{path}: {complaint(error)}; write it like {EXAMPLE}") from error
    except OSError as error:
        raise SettingsError(f"cannot read {path}: {error.strerror}; check the path") from error
    return [
        WarmStartTrial(
            f"trial {number} of {path} ({trial.model})",
            trial.n_layers,
            AblationParameters.from_dict(trial.model_dump()),
        )
        for number, trial in enumerate(family.trials, start=1)
    ]


def load_previous_search(path: Path) -> list[WarmStartTrial]:
    """Return the result of an earlier search: its Pareto front, or its selected trial.

    Args:
        path: a `study.db` (its study with the latest trial is used), a `study.json` or a
            `best.json`. Trials of a front are sorted by their distance from its best values.

    Raises:
        StudyError: the file is missing, damaged or of another kind, or its search has no result.
    """
    if not _is_file(path):
        raise StudyError(f"warm_start_from: {path} does not exist; give {KINDS}")
    read = _read_database if path.suffix in DATABASES else _read_results
    n_layers, found, objectives = read(path)
    if isinstance(found, AblationParameters):
        return [WarmStartTrial(f"the trial of {path}", n_layers, found)]
    if len(found) > MOST_TRIALS:
        raise StudyError(
            f"warm_start_from: {path} has more than {MOST_TRIALS} trials; choose another"
        )
    front = pareto_front(candidates(found, objectives))
    if not front:
        raise StudyError(
            f"warm_start_from: no trial of {path} is feasible, so there is no front to start from; "
            "choose another search"
        )
    by_number = {record.number: record for record in found}
    return [
        WarmStartTrial(f"trial {c.number} of {path}", n_layers, by_number[c.number].parameters)
        for c in sorted(front, key=Candidate.distance)
    ]


def check_warm_start(warm_start: str | bool, warm_start_from: str | None, run: Path) -> None:
    """Reject unreadable warm starts before any work.

    Args:
        warm_start, warm_start_from: values of these settings.
        run: folder of the run's results.

    Raises:
        SettingsError, StudyError: a warm start is unreadable, or the run would start from itself.
    """
    if warm_start_from is not None:
        path = Path(warm_start_from)
        if path.resolve().is_relative_to(run.resolve()):
            raise SettingsError(
                f"warm_start_from: {path} is one of the results to be replaced by this run; copy "
                "it to another folder and use the copy"
            )
        load_previous_search(path)
    elif isinstance(warm_start, str) and warm_start != "auto":
        load_family_file(Path(warm_start))


Read = tuple[int, list[TrialRecord] | AblationParameters, Sequence[Objective]]


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # invalid file name
        return False


def _read_results(path: Path) -> Read:
    """Return the layers, the trials or the edit of a result file, and the objectives."""
    try:
        found = read_json(path)
        objectives = [Objective.from_dict(each) for each in found["objectives"]]
        if not objectives:
            raise ValueError("objectives: there are none")
        if "trials" not in found:
            n_layers = _LAYERS.validate_python(found["model"]["layers"], strict=True)
            return n_layers, _edit(found["parameters"], n_layers), objectives
        n_layers = _LAYERS.validate_python(found[N_LAYERS], strict=True)
        trials = [TrialRecord.from_dict(record) for record in found["trials"]]
        require_scores(trials, objectives, path)
        for trial in trials:
            _edit(trial.parameters.to_dict(), n_layers)
        return n_layers, trials, objectives
    except (HereticError, AttributeError, KeyError, TypeError, ValueError) as error:
        reason = complaint(error) if isinstance(error, ValidationError) else one_line(error)
        raise StudyError(
            f"warm_start_from: {path} is a different kind of file; give {KINDS} ({reason})"
        ) from error


def _edit(values: Any, n_layers: int) -> AblationParameters:
    """Return the edit of a model with `n_layers` layers.

    Raises:
        ValueError: the values are not an edit.
    """
    StoredEdit.model_validate(values).require_depth(n_layers)
    return AblationParameters.from_dict(values)


def _read_database(path: Path) -> Read:
    # This imports Optuna, which takes longer to load than everything else here.
    from heretic.search.status import read_search

    search = read_search(path)
    try:
        n_layers = _LAYERS.validate_python(search.n_layers, strict=True)
        for record in search.records:
            _edit(record.parameters.to_dict(), n_layers)
    except ValueError as error:
        raise StudyError(f"warm_start_from: {path}: {one_line(error)}; give {KINDS}") from error
    return n_layers, list(search.records), search.objectives
