"""Unit vectors and orthonormal rows, of one layer or of many, and their work in chunks."""

from collections.abc import Iterator

import torch
from torch import Tensor


def normalize(rows: Tensor) -> Tensor:
    """Return unit rows [..., d_model]; zero rows stay zero."""
    norms = rows.norm(dim=-1, keepdim=True)
    return torch.where(norms > 0, rows / norms.clamp(min=torch.finfo(rows.dtype).tiny), 0.0)


def orthonormalize(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Return unit rows orthogonal to the preceding ones, by Gram-Schmidt in the given order.

    Args:
        rows: [..., k, d_model]; the first keeps its direction, and the first n of the result span
            the first n rows.

    Returns:
        Rows of the same shape, and the length [..., k] that remains of each row without its
        projection onto the preceding ones.
    """
    found: list[Tensor] = []
    lengths: list[Tensor] = []
    for row in rows.unbind(-2):
        left = row
        for _ in range(2):  # the second pass removes the first pass's rounding errors
            for earlier in found:
                left = left - (left * earlier).sum(-1, keepdim=True) * earlier
        lengths.append(left.norm(dim=-1))
        found.append(normalize(left))
    return torch.stack(found, -2), torch.stack(lengths, -1)


def pieces(matrices: int, lines: int, length: int, limit: int) -> Iterator[tuple[slice, slice]]:
    """Yield slices over a stack of matrices and over their lines that together cover all once.

    Args:
        matrices: number of matrices.
        lines: number of rows, or columns, of each.
        length: length of a line.
        limit: maximum number of elements in a piece, which has at least one line.
    """
    at_once = min(lines, max(1, limit // length))
    stacked = max(1, limit // (lines * length)) if at_once == lines else 1
    for matrix in range(0, matrices, stacked):
        for line in range(0, lines, at_once):
            yield slice(matrix, matrix + stacked), slice(line, line + at_once)


def wide_dtype(dtype: torch.dtype) -> torch.dtype:
    """Return the dtype for computing products: float32 at least."""
    return torch.promote_types(dtype, torch.float32)
