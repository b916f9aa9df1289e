"""Edits found on other models or in earlier searches, which a search may try first.

Nothing here needs the model, so that what is wrong with a file is told before one is loaded.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from heretic.ablation.parameters import (
    AblationParameters,
    ComponentParameters,
    TentParameters,
)
from heretic.artifacts import read_json
from heretic.errors import HereticError, SettingsError, StudyError
from heretic.model.components import ATTENTION, MLP
from heretic.optimization.objectives import DEFAULTS, Objective
from heretic.optimization.pareto import Candidate, pareto_front
from heretic.optimization.records import TrialRecord, candidates
from heretic.settings.config_files import read_config_file

EXAMPLE = "config/warm_start/llama.yaml"
DATABASES = (".db", ".sqlite", ".sqlite3")
# What a study's database says of the model.
N_LAYERS = "n_layers"
KINDS = "the study.db, study.json or best.json of a search"
Told = Annotated[str, Field(min_length=1)]


@dataclass(frozen=True)
class KnownEdit:
    """An edit that was found elsewhere.

    Attributes:
        name: what it is, for messages.
        n_layers: decoder layers of the model that it was found on.
        parameters: the edit.
    """

    name: str
    n_layers: int
    parameters: AblationParameters


class FamilyTrial(BaseModel):
    """One trial of a family's file, with where it comes from.

    Attributes:
        model: on which it was found, a hub id.
        n_layers: of that model.
        source: the publication or study that says so.
        measured: how, and what it scored.
        direction_scope, direction_index, components: the edit, as in `best.json`.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())

    model: Told
    n_layers: int = Field(ge=1)
    source: Told
    measured: Told
    direction_scope: Literal["global", "per_layer"]
    direction_index: float | None = None
    components: dict[str, ComponentParameters | TentParameters]

    @model_validator(mode="after")
    def _check_edit(self) -> Self:
        if (self.direction_scope == "global") != (self.direction_index is not None):
            raise ValueError("a global direction has a direction_index, others have none")
        if not 0 <= (self.direction_index or 0) <= self.n_layers:
            raise ValueError(f"direction_index is not from 0 to n_layers, {self.n_layers}")
        if self.components.keys() != {ATTENTION, MLP}:
            raise ValueError(f"components are {ATTENTION} and {MLP}")
        for part in self.components.values():
            shares = [v for k, v in vars(part).items() if k != "weight"]
            if part.weight < 0 or not all(0 <= share <= 1 for share in shares):
                raise ValueError("a weight is below 0, or a fraction of depth not from 0 to 1")
        return self


class Family(BaseModel):
    """A file of `config/warm_start/`; `family` is the `model_type` of its models."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    family: Told
    trials: list[FamilyTrial] = Field(min_length=1)


def family_edits(path: Path) -> list[KnownEdit]:
    """The trials of a family's file, in its order.

    Raises:
        SettingsError: it is missing, is no YAML, or lacks something, such as a source.
    """
    try:
        family = Family.model_validate(read_config_file(path))
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(map(str, first["loc"])) or "file"
        raise SettingsError(f"{path}: {place}: {first['msg']}; write it as {EXAMPLE} is") from error
    return [
        KnownEdit(
            f"trial {number} of {path} ({trial.model})",
            trial.n_layers,
            AblationParameters(trial.direction_scope, trial.direction_index, trial.components),
        )
        for number, trial in enumerate(family.trials, start=1)
    ]


def earlier_edits(path: Path) -> list[KnownEdit]:
    """What an earlier search found: its Pareto front, or the trial that was chosen.

    Args:
        path: a `study.db`, of which the study with the latest trial counts, a `study.json`, or a
            `best.json`. Those of a front are ordered by how near they are to its best values.

    Raises:
        StudyError: the file is missing, damaged or another one, or its search has found nothing.
    """
    if not path.is_file():
        raise StudyError(f"warm_start_from: there is no {path}; name {KINDS}")
    read = _read_database if path.suffix in DATABASES else _read_results
    n_layers, found, objectives = read(path)
    if isinstance(found, AblationParameters):
        return [KnownEdit(f"the trial of {path}", n_layers, found)]
    front = pareto_front(candidates(found, objectives))
    if not front:
        raise StudyError(
            f"warm_start_from: no trial of {path} is feasible, so that there is no front to start "
            "from; name another search"
        )
    by_number = {record.number: record for record in found}
    return [
        KnownEdit(f"trial {c.number} of {path}", n_layers, by_number[c.number].parameters)
        for c in sorted(front, key=Candidate.distance)
    ]


def check_warm_start(warm_start: str | bool, warm_start_from: str | None, run: Path) -> None:
    """Refuse first trials that cannot be read, before any work.

    Args:
        warm_start, warm_start_from: the settings.
        run: folder of the run's results.

    Raises:
        SettingsError, StudyError: what is wrong, or the run would be its own start.
    """
    if warm_start_from is not None:
        path = Path(warm_start_from)
        if path.resolve().is_relative_to(run.resolve()):
            raise SettingsError(
                f"warm_start_from: {path} is one of the results that this run replaces; copy it to "
                "another folder and name the copy"
            )
        earlier_edits(path)
    elif isinstance(warm_start, str) and warm_start != "auto":
        family_edits(Path(warm_start))


Read = tuple[int, list[TrialRecord] | AblationParameters, Sequence[Objective]]


def _read_results(path: Path) -> Read:
    """Layers, the trials of a `study.json` or the edit of a `best.json`, and the objectives."""
    try:
        found = read_json(path)
        told = found.get("objectives")
        objectives = DEFAULTS if told is None else [Objective.from_dict(each) for each in told]
        if "trials" in found:
            trials = [TrialRecord.from_dict(record) for record in found["trials"]]
            return found[N_LAYERS], trials, objectives
        edit = AblationParameters.from_dict(found["parameters"])
        return found["model"]["layers"], edit, objectives
    except (HereticError, AttributeError, KeyError, TypeError, ValueError) as error:
        raise StudyError(f"warm_start_from: {path} is another file; name {KINDS}") from error


def _read_database(path: Path) -> Read:
    # With these comes torch.
    import optuna

    from heretic.optimization.study import read_only_storage
    from heretic.optimization.watch import read_search

    search = read_search(path)
    study = optuna.load_study(study_name=search.study, storage=read_only_storage(path))
    if N_LAYERS not in study.user_attrs:
        raise StudyError(
            f"warm_start_from: {path} is of an earlier version, which did not say how many layers "
            "the model has; name the study.json beside it"
        )
    return study.user_attrs[N_LAYERS], list(search.records), search.objectives
