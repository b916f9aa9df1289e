"""Division of a large matrix, or a stack of matrices, into pieces."""

from collections.abc import Iterator

import torch


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
