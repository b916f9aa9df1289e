"""Writers and edits as plain values, so that an edit can be made without the network in memory."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from torch import Tensor

from heretic.ablation.directions import AblationDirections
from heretic.ablation.parameters import AblationParameters
from heretic.ablation.plan import place_edits
from heretic.model.anatomy import Anatomy, StreamWriter


@dataclass(frozen=True)
class RecordedWriter:
    """What is known of a stream writer beside its weights.

    Attributes:
        name: dotted path in the network of the module, or of the parameter if that has no module.
        layer: index of its decoder layer.
        component: `attn.o_proj` or `mlp.down_proj`.
        transposed: whether its matrix is kept as [..., d_in, d_model].
        bias: whether it has a bias.
        parameter: name of its matrix among the network's parameters; None for `name`.weight.
        bias_parameter: name of its bias likewise; None for `name`.bias.
        experts: how many matrices are stored as one; None for a single one.
        gain: factors [d_model] between what it writes and the stream; None if they are alike.
    """

    name: str
    layer: int
    component: str
    transposed: bool
    bias: bool
    parameter: str | None = None
    bias_parameter: str | None = None
    experts: int | None = None
    gain: Sequence[float] | None = None

    @property
    def weight_name(self) -> str:
        """Name of its matrix among the network's parameters."""
        return self.parameter or f"{self.name}.weight"

    @property
    def bias_name(self) -> str:
        """Name of its bias among the network's parameters, where it has one."""
        return self.bias_parameter or f"{self.name}.bias"

    def to_dict(self) -> dict[str, Any]:
        """Plain values that the constructor takes back."""
        return asdict(self)


@dataclass(frozen=True)
class RecordedEdit:
    """One writer's edit: orthonormal directions [k, d_model] and a strength for each."""

    writer: RecordedWriter
    directions: Tensor
    strengths: tuple[float, ...]


def record_writers(anatomy: Anatomy) -> list[RecordedWriter]:
    """The writers of a network, in its order."""
    return [_record(writer) for writer in anatomy.writers]


def _record(writer: StreamWriter) -> RecordedWriter:
    return RecordedWriter(
        writer.name,
        writer.layer,
        writer.component,
        writer.transposed,
        writer.bias is not None,
        parameter=writer.parameter_name if writer.is_raw else None,
        bias_parameter=writer.bias_name if writer.is_raw else None,
        experts=len(writer.weight) if writer.weight.ndim == 3 else None,
        gain=None if writer.gain is None else writer.gain.tolist(),
    )


def plan_recorded(
    parameters: AblationParameters, directions: AblationDirections, facts: Mapping[str, Any]
) -> list[RecordedEdit]:
    """The edits of a trial, as `plan_edits` has them, for writers known by name.

    Args:
        parameters: of the trial.
        directions: of every state of the model's stream.
        facts: `layers` and `writers` of the model, as the search recorded them.

    Raises:
        DirectionError: there are no directions at the index of a global edit, or for a layer.
    """
    writers: Sequence[RecordedWriter] = [RecordedWriter(**writer) for writer in facts["writers"]]
    placed = place_edits(parameters, directions, facts["layers"], writers)
    return [RecordedEdit(*edit) for edit in placed]
