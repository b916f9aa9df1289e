"""The edit: projection of directions out of a matrix that writes to the residual stream.

With W [d_model, d_in], orthonormal rows D [k, d_model], strengths s >= 0 [k], V = D W and
E = W - D^T diag(s) V:

    none:       W' = E                          (k = 1, s = 1: Arditi et al. 2024, eq. 4)
    column:     W' = E diag(c),  c_j = |W_:j| / |E_:j|
    row:        W' = diag(r) E,  r_i = |W_i:| / |E_i:|
    frobenius:  W' = g E,        g = |W| / |E|

Scaling columns or the whole matrix keeps D W' = 0 at s = 1. Scaling rows does not: it partly
reintroduces the directions. A strength of 1 removes its direction, more than 1 reflects it. Since
the rows of D are orthonormal, each direction is edited as if it were alone, and their order does
not matter.

The matrices of a layer's experts are edited separately.
"""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from heretic.ablation.linalg import wide_dtype

NormPreservation = Literal["none", "column", "row", "frobenius"]


def ablate_matrix(
    pristine: Tensor,
    directions: Tensor,
    strengths: Sequence[float],
    norm_preservation: NormPreservation = "none",
    out: Tensor | None = None,
) -> Tensor:
    """Return the edited matrix.

    Args:
        pristine: W [d_model, d_in], or [experts, d_model, d_in]; unchanged unless it is `out`.
        directions: D, orthonormal rows [k, d_model].
        strengths: s, one per direction; if all are 0, W is returned bit for bit.
        norm_preservation: which norms are restored afterwards.
        out: destination of W's shape and dtype, possibly W itself or another view of its memory;
            a new tensor if None.

    Returns:
        W' in W's dtype, computed in float32 at least, since the small difference would be lost to
        rounding in half precision.
    """
    result = torch.empty_like(pristine) if out is None else out
    if not any(strengths):
        return result.copy_(pristine)
    if pristine.ndim == 3:  # one at a time, so that only one is in memory in float32
        for expert, place in zip(pristine, result, strict=True):
            ablate_matrix(expert, directions, strengths, norm_preservation, out=place)
        return result
    weight = pristine.to(wide_dtype(pristine.dtype))
    units = directions.to(weight)
    scaled = units * units.new_tensor(strengths)[:, None]
    # Norms of W are needed after the edit, so W must not be overwritten before.
    target = None if result.dtype != weight.dtype or _share_memory(result, weight) else result
    edited = torch.addmm(weight, scaled.T, units @ weight, alpha=-1, out=target)
    scale = _scale(weight, edited, norm_preservation)
    if scale is not None:
        edited = edited.mul_(scale)
    return edited if edited is result else result.copy_(edited)


def ablate_bias(pristine: Tensor, directions: Tensor, strengths: Sequence[float]) -> Tensor:
    """Return the edited bias b' = b - D^T diag(s) D b, in b's dtype.

    Args:
        pristine: b [d_model], or [experts, d_model].
        directions: D, orthonormal rows [k, d_model].
        strengths: s, one per direction.
    """
    if not any(strengths):
        return pristine.clone()
    bias = pristine.to(wide_dtype(pristine.dtype))
    edited = bias
    for unit, strength in zip(directions.to(bias), strengths, strict=True):
        edited = edited - strength * unit * (bias @ unit)[..., None]
    return edited.to(pristine.dtype)


def _scale(before: Tensor, after: Tensor, norm_preservation: NormPreservation) -> Tensor | None:
    """Return the factors that restore the chosen norms.

    If the edit leaves only rounding errors, there is no norm to restore: scaling them up would
    write noise into the model, so they are left unscaled.
    """
    if norm_preservation == "none":
        return None
    dims = {"column": (0,), "row": (1,), "frobenius": (0, 1)}[norm_preservation]
    wanted = torch.linalg.vector_norm(before, dim=dims, keepdim=True)
    found = torch.linalg.vector_norm(after, dim=dims, keepdim=True)
    left = found > wanted * torch.finfo(found.dtype).eps ** 0.5
    return torch.where(left, wanted / found, torch.ones_like(found))


def _share_memory(one: Tensor, other: Tensor) -> bool:
    return one.untyped_storage().data_ptr() == other.untyped_storage().data_ptr()
