"""From a trial's parameters to the edit of each matrix."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

import torch
from torch import Tensor

from heretic.ablation.parameters import AblationParameters
from heretic.errors import DirectionError
from heretic.model.anatomy import Anatomy, StreamWriter


class Placed(Protocol):
    """Something that writes into the stream at a known place."""

    @property
    def layer(self) -> int:
        """Index of its decoder layer."""

    @property
    def component(self) -> str:
        """Which kind of map it is."""


PlacedT = TypeVar("PlacedT", bound=Placed)


@dataclass(frozen=True)
class Edit:
    """One writer's edit: a unit direction [d_model] and a strength."""

    writer: StreamWriter
    direction: Tensor
    strength: float


def direction_at(directions: Tensor, index: float) -> Tensor:
    """The unit direction at a fractional index, between the two neighbours' directions.

    Args:
        directions: unit rows [n_layers + 1, d_model].
        index: position in [0, n_layers].

    Raises:
        DirectionError: the index is outside the rows, or the neighbours cancel each other.
    """
    if not 0 <= index <= len(directions) - 1:
        raise DirectionError(
            f"direction_index={index:.3f} is not in 0 to {len(directions) - 1}; are the "
            "directions those of this model?"
        )
    low = int(index)
    high = min(low + 1, len(directions) - 1)
    mixed = torch.lerp(directions[low].double(), directions[high].double(), index - low)
    norm = mixed.norm()
    if norm < 1e-6:
        raise DirectionError(
            f"directions {low} and {high} cancel at index {index:.3f}; use direction_scope="
            "per_layer"
        )
    unit: Tensor = (mixed / norm).to(directions.dtype)
    return unit


def plan_edits(parameters: AblationParameters, directions: Tensor, anatomy: Anatomy) -> list[Edit]:
    """The edits of a trial, one per writer with a strength above zero.

    Layer l is edited along the direction of the state that it writes: row l + 1.

    Raises:
        DirectionError: there is no direction at the index of a global edit.
    """
    placed = place_edits(parameters, directions, anatomy.n_layers, anatomy.writers)
    return [Edit(*edit) for edit in placed]


def place_edits(
    parameters: AblationParameters, directions: Tensor, n_layers: int, writers: Sequence[PlacedT]
) -> list[tuple[PlacedT, Tensor, float]]:
    """Writer, direction and strength of each edit, for writers that know their place.

    Raises:
        DirectionError: there is no direction at the index of a global edit.
    """
    strengths = parameters.strengths(n_layers)
    everywhere = None
    if parameters.direction_scope == "global":
        if parameters.direction_index is None:
            raise DirectionError("direction_scope=global needs a direction_index")
        everywhere = direction_at(directions, parameters.direction_index)
    edits = []
    for writer in writers:
        by_layer = strengths.get(writer.component)
        strength = by_layer[writer.layer] if by_layer else 0.0
        if strength > 0:
            direction = directions[writer.layer + 1] if everywhere is None else everywhere
            edits.append((writer, direction, strength))
    return edits
