"""Writing of edited matrices over a model's, with minimal memory traffic.

If the products of a writer's matrix with the study's directions are known, the original is read
once and the edited matrix written once, a piece at a time: the piece's difference is computed in
single precision without leaving the cache, then original and difference are added, scaled and
rounded in one pass. A single direction without norms does not even need the difference. The order
follows a matrix's storage.

Other edits are computed on whole matrices, unless memory runs out: then these, too, are processed
in pieces, which are halved until they fit.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from heretic.ablation.directions import AblationDirections
from heretic.ablation.linalg import pieces
from heretic.ablation.plan import Edit
from heretic.ablation.products import (
    LIMIT,
    DirectionProducts,
    ProductCache,
    measure,
    restoring_factors,
)
from heretic.ablation.projection import NormPreservation, ablate_bias, ablate_matrix
from heretic.ablation.weights_cache import OriginalTensors
from heretic.console import log
from heretic.model.batching import is_out_of_memory, release_memory

# Elements of a matrix in a piece that stays in the cache of a CPU or an accelerator.
CPU_PIECE, ACCELERATOR_PIECE = 2**18, 2**23
# If a piece of this size does not fit, nothing does.
SMALLEST_PIECE = 2**14


class MatrixWriting:
    """Writes edits of a study's matrices, and remembers the possible size of pieces."""

    def __init__(
        self, norm_preservation: NormPreservation, directions: AblationDirections | None = None
    ) -> None:
        """Store the options; products with `directions` are computed later."""
        self.norm_preservation: NormPreservation = norm_preservation
        self.products = ProductCache(directions, norm_preservation)
        self.limit: int | None = None

    def write(self, edit: Edit, parts: OriginalTensors) -> None:
        """Write a writer's edited weight and bias, whatever their current values.

        Args:
            edit: the edit.
            parts: the original, possibly on another device.

        Raises:
            RuntimeError, MemoryError: a write failed, or not even the smallest piece fits.
        """
        while not self._fits(edit, parts):
            release_memory()
        bias = edit.writer.bias
        if bias is not None and parts.bias is not None:
            pristine = parts.bias.to(bias.device)
            bias.copy_(ablate_bias(pristine, edit.directions, edit.strengths))

    def _fits(self, edit: Edit, parts: OriginalTensors) -> bool:
        """Return whether memory sufficed for an edit; if not, use less from now on."""
        try:
            self._write_matrix(edit, parts.weight)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error) or self.limit == SMALLEST_PIECE:
                raise
        else:
            return True
        # Outside the handler, where the traceback would keep the partial edit alive.
        halved = (self.limit or min(LIMIT, parts.weight.numel())) // 2
        self.limit = max(halved, SMALLEST_PIECE)
        log.warning("Out of memory: editing matrices in chunks of %d elements", self.limit)
        return False

    def _write_matrix(self, edit: Edit, pristine: Tensor) -> None:
        target = edit.writer.weight
        if not any(edit.strengths):
            target.copy_(pristine)
            return
        products, limit = self.products.known(edit, lambda: pristine), self.limit or LIMIT
        if products is None and self.limit is None:
            directions, strengths = edit.directions, edit.strengths
            weight = pristine.to(target.device)
            ablate_matrix(weight, directions, strengths, self.norm_preservation, out=target)
            return
        if products is None:
            products = measure(
                pristine, edit.directions, self.norm_preservation, target.device, limit
            )
        usual = CPU_PIECE if target.device.type == "cpu" else ACCELERATOR_PIECE
        difference = _difference(products, edit.strengths, self.norm_preservation, pristine, limit)
        write_difference(target, pristine, *difference, edit.writer.transposed, min(usual, limit))


def _difference(
    products: DirectionProducts,
    strengths: Sequence[float],
    norm_preservation: NormPreservation,
    pristine: Tensor,
    limit: int,
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Return an edit as scale * W - outer^T inner.

    Returns:
        outer [..., k, d_model], inner [..., k, d_in] and scale, broadcastable to W; None for 1.
    """
    outer = products.units * products.units.new_tensor(strengths)[:, None]
    inner = products.read
    if norm_preservation == "none":
        return outer, inner, None
    factors = restoring_factors(products, strengths, norm_preservation, lambda: pristine, limit)
    if norm_preservation == "column":
        return outer, inner * factors[..., None, :], factors[..., None, :]
    return outer * factors[..., None, :], inner, factors[..., :, None]


def write_difference(
    target: Tensor,
    pristine: Tensor,
    outer: Tensor,
    inner: Tensor,
    scale: Tensor | None,
    transposed: bool,
    piece: int,
) -> None:
    """Write scale * W - outer^T inner, rounded once.

    Args:
        target: destination [d_model, d_in], or [experts, d_model, d_in].
        pristine: W of the same shape and dtype, possibly on another device.
        outer: [k, d_model], or with separate factors for each expert [experts, k, d_model].
        inner: [..., k, d_in].
        scale: [..., d_model or 1, d_in or 1], or None for 1.
        transposed: whether the matrices are stored as [..., d_in, d_model].
        piece: number of elements in memory in single precision at a time.
    """
    if transposed:
        target, pristine, outer, inner = target.mT, pristine.mT, inner, outer
        scale = None if scale is None else scale.mT
    if target.ndim == 2:
        target, pristine = target[None], pristine[None]
        scale = scale if scale is None else scale[None]
    count, rows, columns = target.shape
    left = outer.mT.expand(count, rows, -1)
    right = inner.expand(count, -1, columns)
    scale = None if scale is None else scale.expand(count, rows, columns)
    alone = scale is None and left.shape[-1] == 1
    if alone and target.device.type != "cpu" and pristine.device == target.device:
        piece = target.numel()  # needs no additional memory, so all may be written at once
    for matrices, lines in pieces(count, rows, columns, piece):
        there = target[matrices, lines]
        given = pristine[matrices, lines].to(target.device, non_blocking=True)
        one, other = left[matrices, lines], right[matrices]
        if alone:
            torch.addcmul(given, one, other, value=-1, out=there)
            continue
        difference = (one @ other).neg_()
        if scale is None:
            torch.add(given, difference, out=there)
        else:
            torch.addcmul(difference, given, scale[matrices, lines], out=there)
