"""A large matrix, or a stack of them, a piece at a time."""

from collections.abc import Iterator

import torch


def pieces(matrices: int, lines: int, length: int, limit: int) -> Iterator[tuple[slice, slice]]:
    """Return slices of a stack of matrices, and of the lines of these, that cover all of them once.

    Args:
        matrices: how many there are.
        lines: rows, or columns, of each.
        length: of a line.
        limit: numbers in a piece, which has at least one line.
    """
    at_once = min(lines, max(1, limit // length))
    stacked = max(1, limit // (lines * length)) if at_once == lines else 1
    for matrix in range(0, matrices, stacked):
        for line in range(0, lines, at_once):
            yield slice(matrix, matrix + stacked), slice(line, line + at_once)


def wide_dtype(dtype: torch.dtype) -> torch.dtype:
    """Return the dtype for computing products: float32 at least."""
    return torch.promote_types(dtype, torch.float32)
