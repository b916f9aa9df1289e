"""Conversion of a trial's parameters to the edit of each matrix."""

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

import torch
from torch import Tensor

from heretic.ablation.directions import AblationDirections, DirectionCombination, orthonormal
from heretic.ablation.parameters import AblationParameters
from heretic.errors import DirectionError, ModelLoadError
from heretic.model.stream_writers.anatomy import Anatomy, StreamWriter
from heretic.model.stream_writers.components import EMBEDDINGS
from heretic.timing import StageTimer


class Placed(Protocol):
    """A writer into the stream at a known position."""

    @property
    def layer(self) -> int:
        """Index of its decoder layer; -1 for the embeddings."""

    @property
    def component(self) -> str:
        """Component of the map."""

    @property
    def gain(self) -> Tensor | Sequence[float] | None:
        """Factors [d_model] between its output and the stream; None if they are equal."""


PlacedT = TypeVar("PlacedT", bound=Placed)
# Products are computed with the study's rows in single precision; if a mixture would amplify
# their rounding errors by more than this, its own directions are used instead.
AMPLIFICATION = 16.0


@dataclass(frozen=True)
class PlacedEdit(Generic[PlacedT]):
    """A writer and its edit; see `Edit` for the fields."""

    writer: PlacedT
    directions: Tensor
    strengths: tuple[float, ...]
    mixture: DirectionCombination | None


@dataclass(frozen=True)
class Edit:
    """One writer's edit: orthonormal directions [k, d_model] and a strength for each.

    The directions are those of the writer's output, which differ from the stream's if the writer
    has a gain. `mixture` expresses them in the study's, so that existing products with the writer's
    matrix can be reused; None if it is unknown or would be inexact.
    """

    writer: StreamWriter
    directions: Tensor
    strengths: tuple[float, ...]
    mixture: DirectionCombination | None = None


def plan_edits(
    parameters: AblationParameters, directions: AblationDirections, anatomy: Anatomy
) -> list[Edit]:
    """Return the edits of a trial, one per writer with a strength above zero.

    Layer l is edited along the directions of the state that it writes, row l + 1; the embeddings
    along those of the first layer.

    Raises:
        DirectionError: there are no directions at the index of a global edit, or for a layer.
        ModelLoadError: the embeddings are to be edited but are not part of the anatomy.
    """
    placed = place_edits(parameters, directions, anatomy.n_layers, anatomy.writers)
    return [Edit(e.writer, e.directions, e.strengths, e.mixture) for e in placed]


def place_edits(
    parameters: AblationParameters,
    directions: AblationDirections,
    n_layers: int,
    writers: Sequence[PlacedT],
) -> list[PlacedEdit[PlacedT]]:
    """Return the edits of a trial, for writers with a known position.

    A direction's strength is the trial's, times the direction's weight.

    Raises:
        DirectionError: there are no directions at the index of a global edit, or for a layer; or
            no output of a writer can move the stream along one.
        ModelLoadError: the embeddings are to be edited but are not among the writers.
    """
    by_component = parameters.strengths(n_layers)
    if EMBEDDINGS in by_component and not any(w.component == EMBEDDINGS for w in writers):
        raise ModelLoadError(
            "the trial edits the embeddings, which are not among the model's detected stream "
            "writers; run the search again"
        )
    everywhere = None
    if parameters.direction_scope == "global":
        if parameters.direction_index is None:
            raise DirectionError("direction_scope=global needs a direction_index")
        index = parameters.direction_index
        everywhere = *directions.at(index), directions.mixture_at(index)
    edits = []
    for writer in writers:
        by_layer = by_component.get(writer.component)
        layer = max(writer.layer, 0)  # the embeddings use the first layer
        strength = by_layer[layer] if by_layer else 0.0
        if strength > 0:
            rows, weights, mixture = everywhere or (
                *directions.of_layer(layer),
                directions.mixture_of_layer(layer),
            )
            strengths = tuple(strength * weight for weight in weights)
            if any(strengths):
                found = suited(rows, writer.gain), strengths, suited_mixture(mixture, writer.gain)
                edits.append(PlacedEdit(writer, *found))
    return edits


def suited(rows: Tensor, gain: Tensor | Sequence[float] | None) -> Tensor:
    """Return directions of a writer's output whose removal stops the stream moving along `rows`.

    If the stream moves along gain * y, d (gain * y) = (gain * d) y. All directions together are
    removed exactly at a strength of 1 each; at other strengths each represents its part of what
    the preceding ones leave, since gain * d of several d are no longer orthogonal.

    Args:
        rows: orthonormal directions [k, d_model] of the stream.
        gain: factors [d_model] between output and stream, or None if they are all equal.

    Returns:
        Orthonormal rows [k, d_model] in the dtype of `rows`.

    Raises:
        DirectionError: the gain leaves nothing of a direction.
    """
    if gain is None:
        return rows
    return orthonormal(rows.double() * _factors(gain, rows)).to(rows.dtype)


def suited_mixture(
    mixture: DirectionCombination, gain: Tensor | Sequence[float] | None
) -> DirectionCombination | None:
    """Return the mixture of `suited` directions, given the `mixture` of the stream's.

    Returns:
        A mixture of the study's rows times the gain, or None if rounding errors of its products
        would be noticeable.

    Raises:
        DirectionError: the gain leaves nothing of a direction.
    """
    factors = None
    if gain is not None:
        vectors = mixture.coefficients.to(mixture.study.device) @ mixture.rows()
        factors = _factors(gain, vectors)
        vectors = vectors * factors
        mixture = mixture.orthonormal(vectors, orthonormal(vectors))
    return mixture if mixture.amplification(factors) <= AMPLIFICATION else None


def _factors(gain: Tensor | Sequence[float], rows: Tensor) -> Tensor:
    return torch.as_tensor(gain, dtype=torch.float64).to(rows.device)


def require_few(trials: Sequence[Sequence[Edit]], most: int) -> None:
    """Reject more trials than an editor can hold at once.

    Raises:
        ModelLoadError: there are more than `most`.
    """
    if len(trials) > most:
        raise ModelLoadError(
            f"{len(trials)} trials were requested at once, but this model's editor supports at "
            f"most {most}; set trial_batch_size={most}"
        )


def staged(clock: StageTimer | None, stage: str) -> AbstractContextManager[None]:
    """Record the block's time under a stage if there is a clock."""
    return nullcontext() if clock is None else clock.stage(stage)
