"""Taking out of a direction what must not be ablated with it."""

from collections.abc import Sequence

import torch
from torch import Tensor

from heretic.errors import DirectionError


def normalize(rows: Tensor) -> Tensor:
    """Unit rows [..., d_model]; zero rows stay zero."""
    norms = rows.norm(dim=-1, keepdim=True)
    return torch.where(norms > 0, rows / norms.clamp(min=torch.finfo(rows.dtype).tiny), 0.0)


def orthogonalize(directions: Tensor, against: Sequence[Tensor], min_remaining: float) -> Tensor:
    """Unit directions orthogonal, layer by layer, to the span of all protected vectors.

    Args:
        directions: unit rows [layers, d_model]; a zero row stays zero.
        against: protected vectors, each [layers, d_model]; zero rows protect nothing. The span is
            removed as a whole, so their order does not matter.
        min_remaining: smallest norm that must be left of a unit direction.

    Raises:
        DirectionError: less than that is left after a layer, which it names. Row 0 is the
            embeddings', row l the state after decoder layer l - 1.
    """
    if not against:
        return directions
    remaining = torch.stack(
        [
            _outside_span(direction, torch.stack([vectors[layer] for vectors in against]))
            for layer, direction in enumerate(directions)
        ]
    )
    for layer, (before, after) in enumerate(zip(directions, remaining, strict=True)):
        if before.norm() > 0 and after.norm() < min_remaining:
            raise DirectionError(
                f"{_place(layer)} only {float(after.norm()):.3f} of the direction is left by "
                f"orthogonalisation (min_remaining_norm is {min_remaining}); protect less: "
                "switch off orthogonalize_to_good, unhelpfulness_prompts or sacred_prompts"
            )
    return normalize(remaining)


def _place(row: int) -> str:
    return f"after layer {row - 1}" if row else "at the embeddings"


def _outside_span(direction: Tensor, vectors: Tensor) -> Tensor:
    """The part of `direction` [d_model] orthogonal to all rows of `vectors` [k, d_model]."""
    units = normalize(vectors.to(direction.dtype))
    _, singular, right = torch.linalg.svd(units, full_matrices=False)
    basis = right[singular > 1e-9 * len(units)]
    # Twice: the second pass removes what rounding left of the first.
    for _ in range(2):
        direction = direction - basis.T @ (basis @ direction)
    return direction
