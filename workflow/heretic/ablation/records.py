"""Writers and edits as plain values, for edits without a loaded network."""

import base64
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np
import torch
from torch import Tensor

from heretic.ablation.directions import AblationDirections
from heretic.ablation.parameters import AblationParameters
from heretic.ablation.plan import place_edits
from heretic.errors import ExportError
from heretic.model.stream_writers.anatomy import Anatomy, StreamWriter
from heretic.model.stream_writers.components import EMBEDDINGS


@dataclass(frozen=True)
class RecordedWriter:
    """A stream writer's properties other than its weights.

    Attributes:
        name: dotted path of the module in the network, or of the parameter if it has no module.
        layer: index of its decoder layer; -1 for the embeddings.
        component: `attn.o_proj`, `mlp.down_proj` or `embed`.
        transposed: whether its matrix is stored as [..., d_in, d_model].
        bias: whether it has a bias.
        parameter: name of the matrix among the network's parameters; None for `name`.weight.
        bias_parameter: the same for the bias; None for `name`.bias.
        experts: number of matrices stacked in one parameter; None for a single one.
        gain: factors [d_model] between its output and the stream, float32; None if they are all
            equal.
    """

    name: str
    layer: int
    component: str
    transposed: bool
    bias: bool
    parameter: str | None = None
    bias_parameter: str | None = None
    experts: int | None = None
    gain: Tensor | None = field(default=None, compare=False)

    @classmethod
    def of(cls, writer: StreamWriter) -> "RecordedWriter":
        """Create the record of a writer in memory."""
        return cls(
            writer.name,
            writer.layer,
            writer.component,
            writer.transposed,
            writer.bias is not None,
            _unless(writer.parameter_name, f"{writer.name}.weight"),
            _unless(writer.bias_name, f"{writer.name}.bias"),
            writer.shape[0] if len(writer.shape) == 3 else None,
            writer.gain,
        )

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "RecordedWriter":
        """Rebuild from the values of `to_dict`.

        Raises:
            TypeError, ValueError: a value is missing, unknown or damaged.
        """
        gain = values.get("gain")
        return cls(**{**values, "gain": None if gain is None else decode_floats(gain)})

    @property
    def parameter_name(self) -> str:
        """Name of its matrix among the network's parameters."""
        return self.parameter or f"{self.name}.weight"

    @property
    def bias_name(self) -> str | None:
        """Name of its bias among the network's parameters, or None."""
        return (self.bias_parameter or f"{self.name}.bias") if self.bias else None

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, without those that have their usual defaults."""
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        if self.gain is not None:
            values["gain"] = encode_floats(self.gain)
        return {name: value for name, value in values.items() if value is not None}


@dataclass(frozen=True)
class RecordedEdit:
    """One writer's edit: orthonormal directions [k, d_model] and a strength for each.

    The directions are those of the writer's output, which include its gain, if any.
    """

    writer: RecordedWriter
    directions: Tensor
    strengths: tuple[float, ...]


def record_writers(anatomy: Anatomy) -> list[RecordedWriter]:
    """Return the writers of a network, in its order."""
    return [RecordedWriter.of(writer) for writer in anatomy.writers]


def plan_recorded(
    parameters: AblationParameters, directions: AblationDirections, facts: Mapping[str, Any]
) -> list[RecordedEdit]:
    """Return the edits of a trial, as `plan_edits`, for writers known by name.

    Args:
        parameters: parameters of the trial.
        directions: directions of every state of the model's stream.
        facts: `layers` and `writers` of the model, as recorded by the search.

    Raises:
        DirectionError: there are no directions at the index of a global edit, or for a layer; or
            no output of a writer can move the stream along one.
    """
    writers = [RecordedWriter.from_dict(writer) for writer in facts["writers"]]
    placed = place_edits(parameters, directions, facts["layers"], writers)
    return [RecordedEdit(edit.writer, edit.directions, edit.strengths) for edit in placed]


def encode_floats(values: Tensor) -> str:
    """Return a tensor's float32 values as text: base64 of their little-endian bytes."""
    data = values.float().numpy().astype("<f4").tobytes()
    return base64.b64encode(data).decode("ascii")


def decode_floats(text: str) -> Tensor:
    """Decode the text of `encode_floats` as flat float32.

    Raises:
        ValueError: the text has another form.
    """
    return torch.from_numpy(np.frombuffer(base64.b64decode(text), "<f4").astype(np.float32))


def _unless(name: str | None, usual: str) -> str | None:
    return None if name == usual else name


def check_adapter(export: str, writers: Iterable[RecordedWriter]) -> None:
    """Reject an adapter for a model whose edit it cannot represent.

    Args:
        export: `merged` or `adapter`.
        writers: all editable writers.

    Raises:
        ExportError: a writer is not a linear module, or only some have biases.
    """
    if export != "adapter":
        return
    by_bias: dict[bool, str] = {}
    for writer in writers:
        if writer.component == EMBEDDINGS:
            raise ExportError(
                f"{writer.name} holds the embeddings, but an adapter supports linear modules only; "
                "set export=merged, or ablate_embeddings=false"
            )
        if writer.parameter is not None:
            raise ExportError(
                f"{writer.name} does not belong to a linear module, but an adapter supports linear "
                "modules only; set export=merged"
            )
        by_bias.setdefault(writer.bias, writer.name)
    if len(by_bias) > 1:
        raise ExportError(
            f"{by_bias[True]} writes a bias to the residual stream and {by_bias[False]} has none, "
            "but an adapter holds biases for all of its matrices or for none; set export=merged"
        )
