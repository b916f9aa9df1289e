"""Schema of `ablation.json`, validated before any work.

A record may be untrusted. Its sizes are bounded, its numbers are finite, its names are plain, and
no matrix is edited twice; `fitting` checks it against a base model. Quick to import, without torch.
"""

import base64
import datetime
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeVar

import numpy as np
from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    FiniteFloat,
    ValidationError,
    model_validator,
)

from heretic.artifacts import GIVEN, read_json
from heretic.errors import ExportError, HereticError, one_line
from heretic.model.stream_writers.components import BEFORE_LAYERS, COMPONENTS, EMBEDDINGS

RECORD = "ablation.json"
# The card is written later, after the evaluation; the record cannot contain its own hash.
NOT_REPRODUCED = (RECORD, "README.md")
ENCODING = "encoding"
MOST_DIRECTIONS, MOST_EDITS, MOST_FILES, MOST_TENSORS = 64, 100_000, 100_000, 250_000
LONGEST_TEMPLATE, DEEPEST = 1_000_000, 32
# Tolerance for orthonormality in single precision.
TOLERANCE = 1e-3
Numbers = np.ndarray[Any, np.dtype[np.float32]]
REMEDY = "use the file of a model saved by this program"


def _plain_path(path: str) -> str:
    parts = path.split("/")
    if not path.isprintable() or "\\" in path or any(part in ("", ".", "..") for part in parts):
        raise ValueError("a file's name is not a plain relative path")
    return path


def _printable(text: str) -> str:
    if not text.isprintable():
        raise ValueError("it holds control characters")
    return text


def _component(name: str) -> str:
    known = (*COMPONENTS, EMBEDDINGS)
    if name not in known:
        raise ValueError(f"a component must be one of {', '.join(known)}")
    return name


def _day(text: str) -> str:
    datetime.date.fromisoformat(text)
    return text


def _finite_array(text: str) -> Numbers:
    """Return float32 values from base64 of their little-endian bytes.

    Raises:
        ValueError: the text is not base64, or a value is not finite.
    """
    values = np.frombuffer(base64.b64decode(text, validate=True), "<f4").astype(np.float32)
    if not np.isfinite(values).all():
        raise ValueError("a direction has a non-finite value")
    return values


# Name of a module or parameter, such as `model.layers.0.mlp.down_proj`.
Dotted = Annotated[str, Field(max_length=500, pattern=r"^\w+(\.\w+)*$")]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Label = Annotated[str, Field(min_length=1, max_length=500)]
RelativePath = Annotated[str, Field(max_length=500), AfterValidator(_plain_path)]
Name = Annotated[str, Field(max_length=4096), AfterValidator(_printable)]
Strengths = Annotated[list[FiniteFloat], Field(min_length=1, max_length=MOST_DIRECTIONS)]


class _Strict(BaseModel):
    model_config = ConfigDict(strict=True, frozen=True, protected_namespaces=())


class EditEntry(_Strict):
    """Edited matrix: its location, and the strength along each of its directions.

    Attributes are those of `RecordedWriter`; `direction` names an entry of `directions`.
    """

    model_config = ConfigDict(extra="forbid")

    name: Dotted
    layer: int = Field(ge=BEFORE_LAYERS, lt=100_000)
    component: Annotated[str, AfterValidator(_component)]
    transposed: bool
    bias: bool
    parameter: Dotted | None = None
    bias_parameter: Dotted | None = None
    experts: int | None = Field(None, ge=1, le=100_000)
    strengths: Strengths
    direction: Label

    @model_validator(mode="after")
    def _check(self) -> Self:
        if (self.component == EMBEDDINGS) != (self.layer == BEFORE_LAYERS):
            raise ValueError(f"layer {self.layer} has no {self.component}")
        return self

    @property
    def along(self) -> tuple[float, ...]:
        """Strength along each direction."""
        return tuple(self.strengths)

    @property
    def place(self) -> dict[str, Any]:
        """Arguments of `RecordedWriter`."""
        return self.model_dump(exclude={"strengths", "direction"})

    @property
    def parameters(self) -> list[str]:
        """Names of the parameters that change."""
        bias = [self.bias_parameter or f"{self.name}.bias"] if self.bias else []
        return [self.parameter or f"{self.name}.weight", *bias]


class Directions(_Strict):
    """Directions, rows [k, d_model] as text."""

    model_config = ConfigDict(extra="forbid")

    shape: Annotated[list[Annotated[int, Field(ge=1, le=10**7)]], Field(min_length=2, max_length=2)]
    data: str


class EditRecord(_Strict):
    """Edit and the form in which it is saved; attributes match those of `Ablation`."""

    model_config = ConfigDict(extra="allow")

    format: Literal[1]
    norm_preservation: Literal["none", "column", "row", "frobenius"]
    dtype: Literal["bfloat16", "float16", "float32", "float64"]
    export: Literal["merged", "adapter", "quantized"]
    max_shard_size: str = Field(max_length=20, pattern=r"^\d+(\.\d+)?(KB|MB|GB)$")
    chat_template: Annotated[str, Field(max_length=LONGEST_TEMPLATE)] | None
    template_date: Annotated[str, Field(max_length=10), AfterValidator(_day)] | None = None
    edits: Annotated[list[EditEntry], Field(max_length=MOST_EDITS)]
    directions: Annotated[dict[Label, Directions | str], Field(max_length=MOST_EDITS)]

    @model_validator(mode="after")
    def _check(self) -> Self:
        if any(isinstance(v, str) and k != ENCODING for k, v in self.directions.items()):
            raise ValueError("directions have no shape")
        if not float(re.sub(r"[KMG]B$", "", self.max_shard_size)) > 0:
            raise ValueError("max_shard_size is 0")
        changed = [parameter for edit in self.edits for parameter in edit.parameters]
        if len(changed) > len(set(changed)):
            raise ValueError("a parameter is edited twice")
        rows = self.rows()
        for edit in self.edits:
            if edit.direction not in rows:
                raise ValueError(f"there are no directions {edit.direction!r}")
            if len(edit.along) != len(rows[edit.direction]):
                raise ValueError(
                    f"{len(edit.along)} strengths, {len(rows[edit.direction])} directions"
                )
        if len({row.shape[1] for row in rows.values()}) > 1:
            raise ValueError("directions are of different widths")
        return self

    def rows(self) -> dict[str, Numbers]:
        """Return the orthonormal rows [k, d_model] of each entry of `directions`.

        Raises:
            ValueError: the rows are not orthonormal, not finite, or not of their recorded shape.
        """
        named = self.directions.items()
        return {name: _rows(stored) for name, stored in named if not isinstance(stored, str)}


class Source(_Strict):
    """Base model: hub id, folder or `demo`; commit; and hash of its weights."""

    model_config = ConfigDict(extra="allow")

    model: Annotated[str, Field(min_length=1, max_length=4096), AfterValidator(_printable)]
    revision: Annotated[str, Field(max_length=200), AfterValidator(_printable)] | None
    sha256: Sha256


class NamedSource(_Strict):
    """Name of the base model."""

    model: Annotated[str, Field(min_length=1, max_length=4096), AfterValidator(_printable)]


class FileFacts(_Strict):
    """Hash and size of a saved file."""

    sha256: Sha256
    bytes: int = Field(ge=0)


class Provenance(_Strict):
    """Explanation of the record; other keys are kept."""

    model_config = ConfigDict(extra="allow")

    settings: dict[str, Any] = Field(default_factory=dict)
    versions: dict[str, Annotated[str, Field(max_length=200)]] = Field(default_factory=dict)


class Omitted(_Strict):
    """Parts of the base model that the saved model lacks: names of files and tensors."""

    files: Annotated[list[Name], Field(max_length=MOST_FILES)] = Field(default_factory=list)
    tensors: Annotated[list[Name], Field(max_length=MOST_TENSORS)] = Field(default_factory=list)


class ExportRecord(EditRecord):
    """Contents of `ablation.json`; keys that are not declared are kept."""

    source: Source
    files: Annotated[dict[RelativePath, FileFacts], Field(min_length=1, max_length=MOST_FILES)]
    provenance: Provenance = Field(default_factory=Provenance)
    omitted: Omitted = Field(default_factory=Omitted)


class Owner(_Strict):
    """Facts about the source models in a record; other keys are ignored."""

    source: NamedSource
    provenance: Provenance = Field(default_factory=Provenance)

    @property
    def searched(self) -> str:
        """Model on which the edit was found, which may differ from the saved one."""
        return str(self.provenance.settings.get("model", self.source.model))


RecordT = TypeVar("RecordT", bound=BaseModel)


def check_edit(record: Mapping[str, Any]) -> EditRecord:
    """Return the edit that a record describes.

    Raises:
        ExportError: the record does not describe an edit.
    """
    return _checked(EditRecord, record, RECORD)


def read_record(path: Path, advice: str = GIVEN) -> tuple[dict[str, Any], ExportRecord]:
    """Return a record as stored and as validated.

    Args:
        path: path of an `ablation.json`.
        advice: advice for a file that is not JSON; see `read_json`.

    Raises:
        ExportError: the file is missing or is not the record of a saved model.
    """
    try:
        record = read_json(path, advice)
    except HereticError as error:
        raise ExportError(str(error)) from error
    return record, _checked(ExportRecord, record, str(path))


def read_owner(path: Path) -> Owner:
    """Return the origin stated in the record of a run's saved model.

    Raises:
        ExportError: the file is damaged.
    """
    try:
        record = read_json(path)
    except HereticError as error:
        raise ExportError(str(error)) from error
    return _checked(Owner, record, str(path))


def _checked(kind: type[RecordT], record: Mapping[str, Any], name: str) -> RecordT:
    try:
        _require_plain(record)
        return kind.model_validate(record)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(map(str, first["loc"])) or "record"
        reason = f"{one_line(place, 100)}: {one_line(first['msg'])}"
    except ValueError as error:
        reason = one_line(error)
    raise ExportError(f"{name} does not describe an edit ({reason}); {REMEDY}")


def _rows(stored: Directions) -> Numbers:
    """Return rows [k, d_model]."""
    rows = _finite_array(stored.data)
    if rows.size != math.prod(stored.shape):
        raise ValueError("directions do not have their declared shape")
    rows = rows.reshape(stored.shape)
    if not 1 <= len(rows) <= MOST_DIRECTIONS or len(rows) > rows.shape[1]:
        raise ValueError(f"{len(rows)} directions at once")
    wide = rows.astype(np.float64)
    if np.abs(wide @ wide.T - np.eye(len(rows))).max() > TOLERANCE:
        raise ValueError("directions are not orthonormal")
    return rows


def _require_plain(record: Mapping[str, Any]) -> None:
    """Reject values that cannot be written: not finite, not text, or nested too deeply."""
    level: list[Any] = [record]
    for _ in range(DEEPEST):
        if not level:
            return
        inner: list[Any] = []
        for value in level:
            if isinstance(value, Mapping):
                inner += [*value.keys(), *value.values()]
            elif isinstance(value, list):
                inner += value
            elif isinstance(value, str):
                value.encode()
            elif isinstance(value, float) and not math.isfinite(value):
                raise ValueError("a number is non-finite")
        level = inner
    raise ValueError("its values are nested too deeply")
