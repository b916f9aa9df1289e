"""Orthogonalization of directions against protected vectors."""

from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor

from heretic.ablation.linalg import normalize, orthonormalize
from heretic.console import log
from heretic.errors import DirectionError

# Protected vectors with a smaller part orthogonal to the preceding ones would add rounding errors.
NEGLIGIBLE = 1e-9


def orthogonalize(
    directions: Tensor,
    against: Mapping[str, Tensor],
    min_remaining: float,
    how: Literal["joint", "sequential"] = "joint",
) -> tuple[Tensor, Tensor]:
    """Return orthonormal directions without their components along the protected vectors.

    Args:
        directions: orthonormal rows [layers, k, d_model]; zero rows stay zero.
        against: protected vectors [layers, m, d_model] by name; zero rows protect nothing.
        min_remaining: minimum remaining length of each unit direction.
        how: `joint` removes the span of all protected vectors, regardless of their order;
            `sequential` removes one vector after the other, in the order of `against`, which
            leaves the result orthogonal to the last one and, if they are not mutually orthogonal,
            only nearly so to the preceding ones.

    Returns:
        Rows of the same shape, and the remaining length of each [layers, k]: 1 if nothing was
        removed.

    Raises:
        DirectionError: less than `min_remaining` remains after a layer, which the message names.
            Row l is the state after decoder layer l - 1. Row 0, the embeddings', is used by no
            edit, and is set to zero if that little of it remains.
    """
    units = {name: normalize(vectors.to(directions.dtype)) for name, vectors in against.items()}
    for name, vectors in units.items():
        _report(name, directions, vectors)
    remaining = directions
    if units and how == "joint":
        remaining = _outside_span(remaining, torch.cat([*units.values()], 1))
    else:
        for vectors in units.values():
            for vector in vectors.unbind(1):
                remaining = remaining - (remaining @ vector[..., None]) * vector[:, None]
    found, left = orthonormalize(remaining)
    _require_rest(directions, left, min_remaining)
    found[0] = torch.where(left[0, :, None] < min_remaining, 0.0, found[0])
    if units:
        log.info(
            "Norm remaining after orthogonalization: %s", _range(left[directions.norm(dim=-1) > 0])
        )
    return found, left


def _outside_span(directions: Tensor, vectors: Tensor) -> Tensor:
    """Return the part of `directions` [layers, k, d] orthogonal to all `vectors` [layers, m, d]."""
    _, singular, right = torch.linalg.svd(vectors, full_matrices=False)
    basis = torch.where((singular > NEGLIGIBLE * vectors.shape[1])[..., None], right, 0.0)
    for _ in range(2):  # the second pass removes the first pass's rounding errors
        directions = directions - (directions @ basis.mT) @ basis
    return directions


def _require_rest(directions: Tensor, left: Tensor, min_remaining: float) -> None:
    lacking = (left < min_remaining) & (directions.norm(dim=-1) > 0)
    lacking[0] = False
    for layer, number in lacking.nonzero().tolist():
        which = "the direction" if directions.shape[1] == 1 else f"direction {number + 1}"
        raise DirectionError(
            f"after layer {layer - 1} only {float(left[layer, number]):.3f} of {which} remains "
            f"after orthogonalization (min_remaining_norm is {min_remaining}); protect less: "
            "disable orthogonalize_to_good, unhelpfulness_prompts or sacred_prompts, or reduce "
            "n_directions"
        )


def _report(name: str, directions: Tensor, vectors: Tensor) -> None:
    """Log the share of the first direction along the vectors of one name."""
    along = (directions[:, :1] @ vectors.mT).norm(dim=-1).squeeze(1)
    log.info("Share of the direction along %s: %s", name, _range(along[1:]))


def _range(values: Tensor) -> str:
    return f"{float(values.min()):.3f} to {float(values.max()):.3f}" if values.numel() else "none"
