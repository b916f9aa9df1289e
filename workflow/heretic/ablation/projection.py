"""The edit: take a direction out of what a matrix writes into the residual stream.

With W [d_model, d_in], unit d [d_model] and strength w >= 0, v = W^T d:

    none:       W' = W - w d v^T                                 (Arditi et al. 2024, eq. 4 at w=1)
    column:     W' = (W - w d v^T) diag(c),  c_j = |W_:j| / |(W - w d v^T)_:j|
    row:        W' = diag(s) (W - w d v^T),  s_i = |W_i:| / |(W - w d v^T)_i:|
    frobenius:  W' = g (W - w d v^T),        g = |W| / |W - w d v^T|

Scaling columns or the whole matrix keeps d^T W' = 0 at w = 1. Scaling rows does not: it puts
part of the direction back. w = 1 removes the direction, w > 1 reflects it.
"""

from typing import Literal

import torch
from torch import Tensor

NormPreservation = Literal["none", "column", "row", "frobenius"]


def ablate_matrix(
    pristine: Tensor,
    direction: Tensor,
    strength: float,
    norm_preservation: NormPreservation = "none",
    out: Tensor | None = None,
) -> Tensor:
    """The edited matrix.

    Args:
        pristine: W [d_model, d_in]; not changed unless it is `out`.
        direction: unit vector [d_model].
        strength: w; 0 returns W bit for bit.
        norm_preservation: which norms are restored afterwards.
        out: where to write, of W's shape and dtype, perhaps W itself or another view of its
            memory; a new tensor when None.

    Returns:
        W' in W's dtype, computed in float32 at least: half precision would round the small
        difference away.
    """
    result = torch.empty_like(pristine) if out is None else out
    if strength == 0:
        return result.copy_(pristine)
    weight = pristine.to(torch.promote_types(pristine.dtype, torch.float32))
    unit = direction.to(weight)
    projection = weight.T @ unit  # v [d_in]
    # Norms are taken of W after the edit, so W must not be written over before.
    target = None if result.dtype != weight.dtype or _share_memory(result, weight) else result
    edited = torch.addr(weight, unit, projection, alpha=-strength, out=target)
    scale = _scale(weight, edited, norm_preservation)
    if scale is not None:
        edited = edited.mul_(scale)
    return edited if edited is result else result.copy_(edited)


def ablate_bias(pristine: Tensor, direction: Tensor, strength: float) -> Tensor:
    """The edited bias b' = b - w d (d^T b) [d_model], in b's dtype."""
    if strength == 0:
        return pristine.clone()
    bias = pristine.to(torch.promote_types(pristine.dtype, torch.float32))
    unit = direction.to(bias)
    return (bias - strength * unit * (unit @ bias)).to(pristine.dtype)


def _scale(before: Tensor, after: Tensor, norm_preservation: NormPreservation) -> Tensor | None:
    """What brings the chosen norms back.

    Where the edit leaves only rounding errors there is no norm to restore: scaling those up would
    write noise into the model, so they stay as they are.
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
