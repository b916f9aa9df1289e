"""The edit of a stored matrix, computed a few rows at a time, for exports.

The mathematics is that of `projection`, in a different order: V = D W and the norms are accumulated
over blocks of rows, so that a matrix is edited without a second copy, directly from a file where
necessary. Everything is computed on the CPU in float64 and rounded once, so that the result does
not depend on the device, the number of threads or the way of reading. For the same reason,
directions are processed one at a time, since matrix products sum in an order of their own. The
matrices of several experts are edited one after the other, as if each were stored alone.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from heretic.ablation.projection import NormPreservation, ablate_bias

BLOCK_BYTES = 2_000_000
# Directions are stored in float32: norms below this share of the original are rounding errors.
NOISE = torch.finfo(torch.float32).eps ** 0.5


@dataclass(frozen=True)
class MatrixEdit:
    """Edit of one stored matrix, or of each of several experts.

    Attributes:
        directions: D, orthonormal rows [k, d_model].
        strengths: s in W' = W - D^T diag(s) V, one per direction.
        transposed: whether the matrix is stored as [d_in, d_model], rather than [d_model, d_in].
        norm_preservation: which norms of W are restored.
    """

    directions: Tensor
    strengths: tuple[float, ...]
    transposed: bool
    norm_preservation: NormPreservation

    @property
    def norm_dims(self) -> tuple[int, ...]:
        """Dimensions of the stored matrix over which norms are taken."""
        stream, inputs = (1, 0) if self.transposed else (0, 1)
        return {"none": (), "column": (stream,), "row": (inputs,), "frobenius": (0, 1)}[
            self.norm_preservation
        ]


def edited_blocks(stored: Tensor, edit: MatrixEdit, dtype: torch.dtype) -> Iterator[Tensor]:
    """Yield the edited matrix as consecutive blocks of its rows, in `dtype` on the CPU.

    Args:
        stored: the original [d_model, d_in], or [d_in, d_model] if `edit.transposed`; for several
            experts [experts, ...], whose rows follow one another. It may be mapped from a file or
            reside on an accelerator, and may be overwritten with the last yielded block.
        edit: the edit.
        dtype: of the result; the original is rounded to it before the edit, as on loading.
    """
    for matrix in matrices_of(stored):
        yield from _edited_matrix(matrix, edit, dtype)


def matrices_of(stored: Tensor) -> Iterable[Tensor]:
    """Return the matrix, or each expert's matrix, as views: writing into them edits `stored`."""
    return stored.unbind() if stored.ndim == 3 else (stored,)


def _edited_matrix(stored: Tensor, edit: MatrixEdit, dtype: torch.dtype) -> Iterator[Tensor]:
    along = projection_of(stored, edit, dtype)
    scale = _scale(stored, edit, dtype, along)
    for rows, block in _double_blocks(stored, dtype):
        edited = _project(block, rows, edit, along)
        if scale is not None:
            edited *= scale[rows] if len(scale) > 1 else scale
        yield edited.to(dtype)


def projection_of(stored: Tensor, edit: MatrixEdit, dtype: torch.dtype) -> Tensor:
    """Return V = D W [k, d_in] in float64, of one matrix rounded to `dtype`."""
    units = edit.directions.double()
    inputs = stored.shape[0 if edit.transposed else 1]
    found = torch.zeros(len(units), inputs, dtype=torch.float64)
    for rows, block in _double_blocks(stored, dtype):
        for unit, along in zip(units, found, strict=True):
            if edit.transposed:
                along[rows] = block @ unit
            else:
                along += unit[rows] @ block
    return found


def edited_bias(
    stored: Tensor, directions: Tensor, strengths: Sequence[float], dtype: torch.dtype
) -> Tensor:
    """Return the edited bias b' = b - D^T diag(s) D b in `dtype` on the CPU.

    Args:
        stored: b [d_model], or [experts, d_model].
        directions: D, orthonormal rows [k, d_model].
        strengths: s, one per direction.
        dtype: of the result; the original is rounded to it before the edit.
    """
    rounded, units = stored.to("cpu", dtype).double(), directions.double()
    if rounded.ndim == 1:
        return ablate_bias(rounded, units, strengths).to(dtype)
    # One row at a time: a batched matrix product would sum in another order.
    rows = [ablate_bias(row, units, strengths) for row in rounded]
    return torch.stack(rows).to(dtype)


def plain_blocks(stored: Tensor, dtype: torch.dtype) -> Iterator[Tensor]:
    """Yield a tensor of any shape as consecutive flat blocks in `dtype` on the CPU."""
    for block in torch.split(stored.reshape(-1), BLOCK_BYTES // 8):
        yield block.to("cpu", dtype)


def _double_blocks(stored: Tensor, dtype: torch.dtype) -> Iterator[tuple[slice, Tensor]]:
    # Determined by the shape alone: another split would sum in another order.
    height = max(1, BLOCK_BYTES // (8 * stored.shape[1]))
    for start in range(0, len(stored), height):
        rows = slice(start, min(start + height, len(stored)))
        yield rows, stored[rows].to("cpu", dtype).double()


def _project(block: Tensor, rows: slice, edit: MatrixEdit, along: Tensor) -> Tensor:
    for unit, seen, strength in zip(edit.directions.double(), along, edit.strengths, strict=True):
        left, right = (seen[rows], unit) if edit.transposed else (unit[rows], seen)
        block = torch.addr(block, left, right, alpha=-strength)
    return block


def _scale(stored: Tensor, edit: MatrixEdit, dtype: torch.dtype, along: Tensor) -> Tensor | None:
    """Return the factors that restore the chosen norms, broadcastable to the stored matrix."""
    if not edit.norm_dims:
        return None
    sums: list[Tensor] | None = None
    for rows, block in _double_blocks(stored, dtype):
        both = (block, _project(block, rows, edit, along))
        parts = [part.square().sum(edit.norm_dims, keepdim=True) for part in both]
        if sums is None:
            sums = parts
        elif 0 in edit.norm_dims:
            sums = [total + part for total, part in zip(sums, parts, strict=True)]
        else:
            sums = [torch.cat(pair) for pair in zip(sums, parts, strict=True)]
    assert sums is not None
    wanted, found = (total.sqrt() for total in sums)
    return torch.where(found > wanted * NOISE, wanted / found, torch.ones_like(found))
