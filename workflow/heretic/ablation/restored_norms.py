"""The factors that restore norms after an edit, computed without the edited matrix.

In the notation of `projection`, with G = D D^T, which is 1 up to rounding:

    |E_:j|^2 = |W_:j|^2 - 2 sum_l s_l V_lj^2 + sum_lm s_l s_m G_lm V_lj V_mj
    |E_i:|^2 = |W_i:|^2 - 2 sum_l s_l D_li (W V^T)_il + sum_lm s_l s_m D_li D_mi (V V^T)_lm

Their dependencies on W are its `Products`. Only if almost nothing is left of a few rows or columns
are these read again. The matrices of several experts have factors of their own.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from heretic.ablation.pieces import wide_dtype
from heretic.ablation.products import LIMIT, Products
from heretic.ablation.projection import NormPreservation

# If less than this share of a squared norm is left, the formulas subtract nearly equal numbers.
CANCELLED = 0.1


def restoring_factors(
    products: Products,
    strengths: Sequence[float],
    norm_preservation: NormPreservation,
    weight: Callable[[], Tensor],
    limit: int = LIMIT,
) -> Tensor:
    """Return the factors of the edited matrix: for its rows, its columns, or all of it.

    Args:
        products: products of W [..., d_model, d_in] with orthonormal directions D [k, d_model],
            computed for the same norms.
        strengths: s, one per direction.
        norm_preservation: `column`, `row` or `frobenius`.
        weight: returns W, possibly on another device; only called if the edit leaves little of it.
        limit: number of elements of W then in memory in single precision at a time.

    Returns:
        r [..., d_model], c [..., d_in] or g [..., 1] in float32 at least. As in `ablate_matrix`, 1
        where the edit leaves only rounding errors, which must not be scaled up.
    """
    wanted = products.squares
    if wanted is None:
        raise ValueError("the products were computed without the norms")
    given = products.units.new_tensor(strengths)
    found = _left(products, wanted, given)
    cancelled = found < CANCELLED * wanted
    if cancelled.any():
        _measure_again(found, cancelled, products, given, weight(), limit)
    if norm_preservation == "frobenius":
        found, wanted = found.sum(-1, keepdim=True), wanted.sum(-1, keepdim=True)
    found, wanted = found.sqrt(), wanted.sqrt()
    left = found > wanted * torch.finfo(found.dtype).eps ** 0.5
    return torch.where(left, wanted / found, torch.ones_like(found))


def _left(products: Products, before: Tensor, strengths: Tensor) -> Tensor:
    """Return squared norms of E's rows [..., d_model] or columns [..., d_in]; `before` are W's."""
    if products.written is None:
        scaled = strengths[:, None] * products.read
        taken, gram = scaled * products.read, products.units @ products.units.T
    else:
        scaled = strengths[:, None] * products.units
        taken, gram = scaled * products.written.mT, products.read @ products.read.mT
    again = (gram @ scaled) * scaled
    return before - 2 * taken.sum(-2) + again.sum(-2)


def _measure_again(
    squares: Tensor,
    cancelled: Tensor,
    products: Products,
    strengths: Tensor,
    weight: Tensor,
    limit: int,
) -> None:
    """Write the squared norms of a few rows or columns of E, computed directly from them."""
    if weight.ndim == 2:
        whole = squares, cancelled, products.read, weight
        squares, cancelled, read, weight = (part[None] for part in whole)
    else:
        read = products.read
    by_row = products.written is not None
    for expert in cancelled.any(-1).nonzero().flatten().tolist():
        lines = cancelled[expert].nonzero().flatten()
        for few in torch.split(lines, max(1, limit // weight.shape[2 if by_row else 1])):
            units, seen = products.units, read[expert]
            units, seen = (units[:, few], seen) if by_row else (units, seen[:, few])
            there = few.to(weight.device)
            part = weight[expert, there] if by_row else weight[expert][:, there]
            edited = part.to(seen.device, wide_dtype(part.dtype)) - (
                (strengths[:, None] * units).T @ seen
            )
            squares[expert, few] = edited.square().sum(1 if by_row else 0)
