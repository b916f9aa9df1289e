"""Matrices of 8-bit and 4-bit floating-point numbers with a scale for each block.

- block FP8: E4M3 numbers with a scale per tile, usually of 128 x 128, in `weight_scale_inv`;
- MXFP4 (Open Compute Project): 32 E2M1 numbers per exponent, of all experts in one tensor.
"""

from collections.abc import Iterator, Mapping
from math import prod
from typing import Any

from heretic.model.headers import Headers
from heretic.model.packed.matrix import BLOCK_FP8, EXPONENTS, FP4_BLOCKS, FP8, MXFP4, PackedMatrix

# Suffixes of scales in place of `weight`, or after a parameter's name.
SCALES = ("weight_scale_inv", "scale", "qscale_weight", "weight_scale")


def find_fp8(headers: Headers, settings: Mapping[str, Any]) -> Iterator[tuple[str, PackedMatrix]]:
    """Yield matrices of FP8 numbers, and of FP4 numbers stored in pairs as bytes."""
    block = settings.get("weight_block_size")
    for name, dtype in headers.dtypes.items():
        scales = scales_of(name, headers)
        if scales is None or dtype not in (*FP8, "I8"):
            continue
        parts, shape = {"values": name, "scales": scales}, headers.shapes[name]
        if dtype == "I8":
            doubled = (*shape[:-1], 2 * shape[-1])
            tile = tile_of(doubled, headers.shapes[scales], None)
            yield name, PackedMatrix(FP4_BLOCKS, parts, doubled, {"tile": tile})
        else:
            tile = tile_of(shape, headers.shapes[scales], block)
            yield name, PackedMatrix(BLOCK_FP8, parts, shape, {"tile": tile})


def scales_of(name: str, headers: Headers) -> str | None:
    """Return the name of a matrix's scales, or None if it has none."""
    stem = name.removesuffix("weight") if name.endswith(".weight") else f"{name}."
    named = [f"{name}_scale_inv", *(f"{stem}{suffix}" for suffix in SCALES)]
    return next((scales for scales in named if scales in headers.shapes), None)


def tile_of(shape: tuple[int, ...], scales: tuple[int, ...], block: Any) -> tuple[int, int]:
    """Return the height and the width of the part of a matrix that shares one scale.

    Args:
        shape: shape of the matrices, experts first.
        scales: shape of the scales.
        block: configured size, which leaves the last tiles incomplete if necessary; None or another
            one if the scales divide the matrix evenly.

    Raises:
        ValueError: the shapes do not match.
    """
    size = shape[-2:]
    grid = scales[-2:] if len(scales) > 1 else (scales[0], 1) if len(scales) else (1, 1)
    experts = prod(shape[:-2])
    if prod(scales) == experts:  # one scale per matrix
        return size[0], size[1]
    if (
        isinstance(block, list | tuple)
        and len(block) == 2
        and all(
            type(side) is int and side > 0 and -(-length // side) == count
            for length, side, count in zip(size, block, grid, strict=True)
        )
    ):
        return int(block[0]), int(block[1])
    if any(length % count for length, count in zip(size, grid, strict=True)):
        raise ValueError(f"a matrix {list(shape)} has scales {list(scales)}")
    return size[0] // grid[0], size[1] // grid[1]


def find_mxfp4(headers: Headers, _: Mapping[str, Any]) -> Iterator[tuple[str, PackedMatrix]]:
    """Yield the matrices of all experts, stored transposed relative to the network."""
    for blocks in headers.shapes:
        name = blocks.removesuffix("_blocks")
        scales = f"{name}_scales"
        if name == blocks or scales not in headers.shapes:
            continue
        if headers.dtypes[blocks] != "U8" or headers.dtypes[scales] not in EXPONENTS:
            raise ValueError(f"{blocks} has type {headers.dtypes[blocks]}")
        *experts, rows, groups, width = headers.shapes[blocks]
        if headers.shapes[scales] != (*experts, rows, groups):
            raise ValueError(f"{scales} has shape {list(headers.shapes[scales])}")
        shape = (*experts, 2 * groups * width, rows)
        yield name, PackedMatrix(MXFP4, {"values": blocks, "scales": scales}, shape)
