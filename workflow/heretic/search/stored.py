"""Schema of a search's stored edits, trials and objectives, validated on every read.

A study, its table or a warm start may be damaged, foreign or untrusted.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, ValidationError, model_validator

from heretic.errors import StudyError, one_line
from heretic.model.stream_writers.components import COMPONENTS, EMBEDDINGS

MOST_LAYERS, LARGEST_WEIGHT, ROUNDING = 10_000, 1e6, 1e-6
# Attribute of the model in a study and its table.
N_LAYERS = "n_layers"
DAMAGED = "check the disk, or move the file away to start over"
Layers = Annotated[int, Field(ge=1, le=MOST_LAYERS)]
Score = Annotated[int, Field(ge=-(10**15), le=10**15)] | FiniteFloat | None
Scores = Annotated[dict[str, Score], Field(max_length=1000)]
Seconds = Annotated[FiniteFloat, Field(ge=0, le=1e12)]
Share = Annotated[FiniteFloat, Field(ge=0, le=1 + ROUNDING)]
StateIndex = Annotated[FiniteFloat, Field(ge=0, le=MOST_LAYERS)]
EditedLayers = Annotated[
    Sequence[Annotated[int, Field(ge=0, lt=MOST_LAYERS)]], Field(max_length=MOST_LAYERS)
]
Weight = Annotated[FiniteFloat, Field(ge=0, le=LARGEST_WEIGHT)]


class _Strict(BaseModel):
    model_config = ConfigDict(strict=True, frozen=True, protected_namespaces=())


class StoredRange(_Strict):
    """Stored form of a range; attributes match those of `ComponentParameters`."""

    model_config = ConfigDict(extra="forbid")

    layer_min: Share
    layer_max: Share
    weight: Weight


class StoredTent(_Strict):
    """Stored form of a tent; attributes match those of `KernelParameters`."""

    model_config = ConfigDict(extra="forbid")

    position: Share
    weight: Weight
    min_share: Share
    distance: Annotated[FiniteFloat, Field(ge=0, le=MOST_LAYERS)]


class StoredEdit(_Strict):
    """Stored form of an edit; attributes match those of `AblationParameters`."""

    direction_scope: Literal["global", "per_layer"]
    direction_index: StateIndex | None
    components: dict[str, StoredRange | StoredTent]
    layers: EditedLayers | None

    @model_validator(mode="after")
    def _check_edit(self) -> Self:
        if self.direction_scope == "global" and self.direction_index is None:
            raise ValueError("only a global direction has a direction_index")
        known = {*COMPONENTS, EMBEDDINGS}
        if not self.components.keys() <= known:
            raise ValueError(f"components are {', '.join(sorted(known))}")
        return self

    def require_depth(self, n_layers: int) -> None:
        """Reject an edit of layers or states missing from a model of `n_layers` layers.

        Raises:
            ValueError: the edit contains a missing layer or state.
        """
        if not 0 <= (self.direction_index or 0) <= n_layers:
            raise ValueError(f"direction_index is not from 0 to n_layers, {n_layers}")
        if any(layer >= n_layers for layer in self.layers or ()):
            raise ValueError(f"layers are not below n_layers, {n_layers}")


class StoredTrial(_Strict):
    """Stored form of a finished trial; attributes match those of `TrialRecord`."""

    parameters: StoredEdit
    scores: Scores
    feasible: bool
    infeasible_because: Annotated[str, Field(max_length=1000)]
    stages: dict[str, Seconds]
    computation: dict[str, int | FiniteFloat | str | bool | None]
    seconds: Seconds


class TableTrial(StoredTrial):
    """Trial in `study.json`."""

    model_config = ConfigDict(extra="forbid")

    number: int = Field(ge=0, le=10**9)
    sampled: Annotated[dict[str, bool | int | FiniteFloat | str | None], Field(max_length=100)]


class StoredObjective(_Strict):
    """Stored form of a score and its scale; attributes match those of `Objective`."""

    model_config = ConfigDict(extra="forbid")

    name: Annotated[str, Field(min_length=1, max_length=200)]
    direction: Literal["minimize", "maximize"]
    best: FiniteFloat
    worst: FiniteFloat

    @model_validator(mode="after")
    def _check_scale(self) -> Self:
        if not math.isfinite(self.worst - self.best) or self.best == self.worst:
            raise ValueError("its best and worst values do not form a scale")
        return self


class StoredAsked(_Strict):
    """Stored form of a trial in flight; attributes match those of `PendingTrial`."""

    model_config = ConfigDict(extra="forbid")

    place: int = Field(ge=0, le=10**9)
    sampled: Annotated[dict[str, bool | int | FiniteFloat | str | None], Field(max_length=100)]
    since: Annotated[FiniteFloat, Field(ge=0, le=1e11)]


def require_form(kind: type[BaseModel], values: Any, what: str) -> None:
    """Reject stored values that do not match their schema.

    Args:
        kind: model of this module.
        values: values as read.
        what: name of the values in the message, such as `trial 3 of the study`.

    Raises:
        StudyError: the values do not match, with the location of the first error.
    """
    try:
        kind.model_validate(values)
    except ValidationError as error:
        raise StudyError(f"{what} is damaged ({complaint(error)}); {DAMAGED}") from error


def complaint(error: ValidationError) -> str:
    """Return the first error of a validation, with its location."""
    first = error.errors(include_url=False, include_input=False)[0]
    place = ".".join(map(str, first["loc"])) or "values"
    return f"{one_line(place, 100)}: {one_line(first['msg'])}"


def require_list(values: Any, what: str) -> list[Any]:
    """Return stored values after checking that they are a list.

    Raises:
        StudyError: they are not a list.
    """
    if not isinstance(values, list):
        raise StudyError(f"{what} are damaged: they are not a list; {DAMAGED}")
    return values


def require_mapping(values: Any, what: str) -> Mapping[str, Any]:
    """Return stored values after checking that they are an object.

    Raises:
        StudyError: they are not an object.
    """
    if not isinstance(values, dict):
        raise StudyError(f"{what} is damaged: it is not an object; {DAMAGED}")
    return values
