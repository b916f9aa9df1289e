"""Quantization of an edited matrix in the format of its checkpoint, with its own blocks.

- MXFP4: the exponent of a block is that of its largest magnitude, as in the specification of the
  Open Compute Project; larger numbers than 6 times the scale are clamped.
- block FP8: the largest magnitude of a tile becomes the largest E4M3 number.

Numbers are rounded to the nearest, ties to the even code.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from heretic.model.packed.matrix import MXFP4, PackedMatrix
from heretic.model.packed.unpack import E2M1, EXPONENT_BIAS

LARGEST_BYTE = 254
# Exponent of the largest E2M1 number.
E2M1_EXPONENT = 2


def pack(matrix: PackedMatrix, values: Tensor, parts: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors of a quantized matrix by role, with the types and shapes of `parts`.

    Args:
        matrix: description of the matrix, in a form of `PACKABLE`.
        values: new values in float32, of its shape.
        parts: its current tensors by role.
    """
    packed = _pack_mxfp4 if matrix.form == MXFP4 else _pack_fp8
    return packed(matrix, values, parts)


def _pack_mxfp4(
    matrix: PackedMatrix, values: Tensor, parts: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    stored, scales = parts["values"], parts["scales"]
    groups = values.reshape(matrix.shape).mT.reshape(*stored.shape[:-1], 2 * stored.shape[-1])
    exponents = torch.frexp(groups.abs().amax(-1)).exponent
    codes = exponents - 1 - E2M1_EXPONENT + EXPONENT_BIAS
    # A block of zeros has the smallest exponent.
    codes = torch.where(groups.any(-1), codes, 0).clamp(0, LARGEST_BYTE)
    scaled = torch.ldexp(groups, EXPONENT_BIAS - codes[..., None])
    numbers = encode_e2m1(scaled)
    blocks = numbers[..., 0::2] | numbers[..., 1::2] << 4
    return {"values": blocks, "scales": codes.to(torch.uint8).view(scales.dtype)}


def encode_e2m1(values: Tensor) -> Tensor:
    """Return the codes of the nearest E2M1 numbers as bytes."""
    table = torch.tensor(E2M1)
    middles = (table[1:] + table[:-1]) / 2
    sizes = values.abs().contiguous()
    low, high = torch.bucketize(sizes, middles), torch.bucketize(sizes, middles, right=True)
    nearest = torch.where(low % 2 == 0, low, high)
    return (nearest + 8 * values.signbit()).to(torch.uint8)


def _pack_fp8(
    matrix: PackedMatrix, values: Tensor, parts: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    stored, scales = parts["values"], parts["scales"]
    largest = torch.finfo(stored.dtype).max
    high, wide = matrix.options["tile"]
    *_, height, width = matrix.shape
    matrices = values.reshape(-1, height, width)
    padding = (0, -width % wide, 0, -height % high)
    tiles = torch.nn.functional.pad(matrices, padding)
    tiles = tiles.unflatten(2, (-1, wide)).unflatten(1, (-1, high))  # type: ignore[no-untyped-call]
    found = tiles.abs().amax((2, 4)) / largest
    rounded, codes = _rounded_scales(torch.where(found > 0, found, 1.0), scales.dtype)
    spread = rounded.repeat_interleave(high, 1).repeat_interleave(wide, 2)
    scaled = (matrices / spread[:, :height, :width]).clamp(-largest, largest)
    return {
        "values": scaled.to(stored.dtype).reshape(stored.shape),
        "scales": codes.reshape(scales.shape),
    }


def _rounded_scales(scales: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Return scales in float32 as they are stored, and their stored form."""
    if dtype not in (torch.uint8, torch.float8_e8m0fnu):
        stored = scales.to(dtype)
        return stored.float(), stored
    mantissas, exponents = torch.frexp(scales)
    # The next power of two, so that nothing is clamped.
    powers = torch.where(mantissas == 0.5, exponents - 1, exponents)
    codes = (powers + EXPONENT_BIAS).clamp(0, LARGEST_BYTE)
    stored = codes.to(torch.uint8).view(dtype)
    return torch.ldexp(torch.ones(codes.shape), codes - EXPONENT_BIAS), stored
