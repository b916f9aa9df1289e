"""Dequantized values of a matrix, computed in float32 and rounded once.

Matrices are converted a few rows at a time, so that the result is the only large tensor.
"""

from collections.abc import Callable, Mapping
from functools import partial

import torch
from torch import Tensor

from heretic.model.packed.matrix import (
    AWQ,
    BLOCK_FP8,
    BNB_4BIT,
    BNB_8BIT,
    FP4_BLOCKS,
    GPTQ,
    MXFP4,
    PACKED_ROWS,
    SCALED_INTEGERS,
    PackedMatrix,
)

CHUNK = 4_000_000
# Values of the 4-bit format E2M1 by code, the sign in the highest bit.
E2M1 = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)
EXPONENT_BIAS = 127
# Positions in a 32-bit word of eight consecutive numbers, in AWQ's files.
AWQ_ORDER = (0, 4, 1, 5, 2, 6, 3, 7)
LARGEST_INT8 = 127
Parts = Mapping[str, Tensor]
Rows = Callable[[int, slice], Tensor]
"""Values in float32 of some rows of one expert's matrix."""


def unpack(matrix: PackedMatrix, parts: Parts, dtype: torch.dtype) -> Tensor:
    """Return the dequantized matrix on the CPU.

    Args:
        matrix: description of the matrix.
        parts: its tensors by role, possibly mapped from a file.
        dtype: data type of the result.
    """
    if matrix.form == BNB_4BIT:
        return _unpack_nf4(parts, dtype).reshape(matrix.shape)
    rows, step = FORMS[matrix.form](matrix, parts)
    # The values of MXFP4 and GPTQ are stored the other way round.
    turned = matrix.form in (MXFP4, GPTQ, AWQ)
    result = torch.empty(matrix.shape, dtype=dtype)
    for expert, target in enumerate(result.view(-1, *matrix.shape[-2:])):
        along = target.mT if turned else target
        height = max(step, CHUNK // (along.shape[1] * step) * step)
        for start in range(0, len(along), height):
            part = slice(start, min(start + height, len(along)))
            along[part] = rows(expert, part).to(dtype)
    return result


def _tiled(
    matrix: PackedMatrix, parts: Parts, values: Callable[[Tensor], Tensor]
) -> tuple[Rows, int]:
    """Return the rows of a matrix whose scales belong to tiles."""
    high, wide = matrix.options["tile"]
    height, width = matrix.shape[-2:]
    stored = parts["values"].view(-1, *parts["values"].shape[-2:])
    grid = (-1, -(-height // high), -(-width // wide))
    scales = _scales(parts["scales"]).reshape(grid)
    if "global_scale" in parts:
        scales = scales / parts["global_scale"].float()
    zeros = parts["zero_point"].float().reshape(grid) if "zero_point" in parts else None

    def rows(expert: int, part: slice) -> Tensor:
        found = values(stored[expert, part])
        if zeros is not None:
            found = found - _spread(zeros[expert], part, high, wide, width)
        product: Tensor = found * _spread(scales[expert], part, high, wide, width)
        return product

    return rows, high


def _spread(grid: Tensor, part: slice, high: int, wide: int, width: int) -> Tensor:
    """Return the entry of a tile for each element of some rows."""
    lines = grid[torch.arange(part.start, part.stop) // high]
    return lines.repeat_interleave(wide, dim=1)[:, :width]


def _scales(stored: Tensor) -> Tensor:
    """Return scales in float32; bytes are exponents of two."""
    if stored.dtype == torch.uint8:
        return torch.ldexp(torch.ones(stored.shape), stored.int() - EXPONENT_BIAS)
    return stored.float()


def decode_e2m1(stored: Tensor) -> Tensor:
    """Return the numbers of bytes that contain two each, the first in the low bits."""
    table = torch.tensor([*E2M1, *(-value for value in E2M1)])
    pairs = stored.view(torch.uint8).int()
    numbers: Tensor = table[torch.stack([pairs & 15, pairs >> 4], dim=-1)].flatten(-2)
    return numbers


def _mxfp4(_: PackedMatrix, parts: Parts) -> tuple[Rows, int]:
    blocks, scales = parts["values"], parts["scales"].view(torch.uint8)
    blocks = blocks.reshape(-1, *blocks.shape[-3:])
    scales = scales.reshape(-1, *scales.shape[-2:])

    def rows(expert: int, part: slice) -> Tensor:
        factors = _scales(scales[expert, part])[..., None]
        return (decode_e2m1(blocks[expert, part]) * factors).flatten(-2)

    return rows, 1


def unpack_words(words: Tensor, bits: int) -> Tensor:
    """Return the unsigned numbers in the last dimension of 32-bit words, low bits first."""
    shifts = torch.arange(0, 32, bits, dtype=torch.int32)
    numbers: Tensor = (words[..., None] >> shifts) & (2**bits - 1)
    return numbers.flatten(-2)


def _packed_rows(matrix: PackedMatrix, parts: Parts) -> tuple[Rows, int]:
    bits, (high, wide) = matrix.options["bits"], matrix.options["tile"]
    height, width = matrix.shape
    middle, words = 2 ** (bits - 1), parts["values"]
    scales = parts["scales"].float().reshape(-(-height // high), -1)
    zeros = torch.zeros_like(scales)
    if "zero_point" in parts:
        stored = parts["zero_point"]
        if stored.dtype == torch.int32:  # packed along the rows
            stored = unpack_words(stored.T, bits).T[: len(scales)] - middle
        zeros = stored.float().reshape(scales.shape)
    columns = torch.arange(width) // wide
    if "g_idx" in parts and not (parts["g_idx"] < 0).any():
        columns = parts["g_idx"].long()

    def rows(_: int, part: slice) -> Tensor:
        lines = torch.arange(part.start, part.stop) // high
        numbers = unpack_words(words[part], bits)[:, :width] - middle
        product: Tensor = (numbers - zeros[lines][:, columns]) * scales[lines][:, columns]
        return product

    return rows, 1


def _gptq(matrix: PackedMatrix, parts: Parts) -> tuple[Rows, int]:
    """Return the inputs' rows of a matrix stored as [inputs / numbers per word, outputs]."""
    bits, inputs = matrix.options["bits"], matrix.shape[1]
    per_word, scales = 32 // bits, parts["scales"].float()
    # Adding the offset may exceed the width, as in the kernels.
    zeros = unpack_words(parts["qzeros"], bits) + matrix.options["zero_offset"]
    size = matrix.options["group_size"]
    groups = parts["g_idx"].long() if "g_idx" in parts else None
    if groups is None:
        groups = torch.arange(inputs) // (size if size > 0 else inputs)

    def rows(_: int, part: slice) -> Tensor:
        words = parts["values"][part.start // per_word : -(-part.stop // per_word)]
        numbers = unpack_words(words.T, bits).T
        chosen = groups[part]
        product: Tensor = (numbers - zeros[chosen]) * scales[chosen]
        return product

    return rows, per_word


def _awq(matrix: PackedMatrix, parts: Parts) -> tuple[Rows, int]:
    """Return the inputs' rows of a matrix stored as [inputs, outputs / 8]."""
    scales, inputs = parts["scales"].float(), matrix.shape[1]
    zeros, size = _awq_numbers(parts["qzeros"]), inputs // len(scales)

    def rows(_: int, part: slice) -> Tensor:
        chosen = torch.arange(part.start, part.stop) // size
        return (_awq_numbers(parts["values"][part]) - zeros[chosen]) * scales[chosen]

    return rows, 1


def _awq_numbers(words: Tensor) -> Tensor:
    numbers = unpack_words(words, 4)
    eights = numbers.view(*numbers.shape[:-1], -1, len(AWQ_ORDER))
    return eights[..., list(AWQ_ORDER)].flatten(-2)


def _llm_int8(matrix: PackedMatrix, parts: Parts) -> tuple[Rows, int]:
    scales = parts["scales"].float().reshape(-1, 1)

    def rows(_: int, part: slice) -> Tensor:
        # In the order of bitsandbytes, which determines the rounding.
        return parts["values"][part].float() * scales[part] * (1 / LARGEST_INT8)

    return rows, 1


def _unpack_nf4(parts: Parts, dtype: torch.dtype) -> Tensor:
    from bitsandbytes.functional import QuantState, dequantize_4bit

    named = {name: part for name, part in parts.items() if name != "values"}
    state = QuantState.from_dict(named, device=torch.device("cpu"))
    found: Tensor = dequantize_4bit(parts["values"], quant_state=state)
    return found.to(dtype)


FORMS: dict[str, Callable[[PackedMatrix, Parts], tuple[Rows, int]]] = {
    BLOCK_FP8: partial(_tiled, values=Tensor.float),
    SCALED_INTEGERS: partial(_tiled, values=Tensor.float),
    FP4_BLOCKS: partial(_tiled, values=decode_e2m1),
    MXFP4: _mxfp4,
    PACKED_ROWS: _packed_rows,
    GPTQ: _gptq,
    AWQ: _awq,
    BNB_8BIT: _llm_int8,
}
