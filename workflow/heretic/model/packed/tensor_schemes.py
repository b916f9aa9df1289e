"""Matrices in the formats of the library compressed-tensors."""

import struct
from collections.abc import Iterator, Mapping
from typing import Any

from heretic.model.headers import Headers
from heretic.model.packed.floats import tile_of
from heretic.model.packed.integers import width_in_bits
from heretic.model.packed.matrix import (
    BLOCK_FP8,
    FP4_BLOCKS,
    FP8,
    PACKED_ROWS,
    SCALED_INTEGERS,
    PackedMatrix,
)

# A matrix is stored as `weight` or `weight_packed`, next to `weight_scale` and others.
PACKED, SCALE = "_packed", "_scale"


def find_compressed(
    headers: Headers, settings: Mapping[str, Any]
) -> Iterator[tuple[str, PackedMatrix]]:
    """Yield matrices with a `weight_scale`.

    Raises:
        ValueError: the format is sparse or rotated, or mixes several widths of packed integers.
    """
    for name in ("sparsity_config", "transform_config"):
        if (settings.get(name) or {}).get("format", "dense") != "dense" or (
            settings.get(name) or {}
        ).get("config_groups"):
            raise ValueError(f"it has a {name}")
    for scale in headers.shapes:
        name = scale.removesuffix(SCALE)
        stored = next((each for each in (name + PACKED, name) if each in headers.shapes), None)
        if name == scale or stored is None or not name.endswith("weight"):
            continue
        parts = {"values": stored, "scales": scale}
        for part in ("global_scale", "zero_point", "g_idx", "shape"):
            if f"{name}_{part}" in headers.shapes:
                parts[part] = f"{name}_{part}"
        yield name, _matrix(parts, headers, settings)


def _matrix(parts: dict[str, str], headers: Headers, settings: Mapping[str, Any]) -> PackedMatrix:
    stored, scales = parts["values"], headers.shapes[parts["scales"]]
    shape, dtype = headers.shapes[stored], headers.dtypes[stored]
    if dtype in FP8:
        tile = tile_of(shape, scales, _block(settings))
        return PackedMatrix(BLOCK_FP8, parts, shape, {"tile": tile})
    if dtype == "I8":
        tile = tile_of(shape, scales, _block(settings))
        return PackedMatrix(SCALED_INTEGERS, parts, shape, {"tile": tile})
    if dtype == "U8":  # pairs of E2M1 numbers
        doubled = (*shape[:-1], 2 * shape[-1])
        tile = tile_of(doubled, scales, None)
        return PackedMatrix(FP4_BLOCKS, parts, doubled, {"tile": tile})
    if dtype != "I32" or len(shape) != 2:
        raise ValueError(f"{stored} has type {dtype} and shape {list(shape)}")
    bits = width_in_bits(_only_width(settings))
    raw = headers.read(parts["shape"])
    rows, columns = struct.unpack("<2q" if len(raw) == 16 else "<2i", raw)
    if rows != shape[0] or -(-columns * bits // 32) != shape[1]:
        raise ValueError(f"{stored} has shape {list(shape)}, not that of {rows} x {columns}")
    tile = (1, columns) if len(scales) < 2 else (rows // scales[0], -(-columns // scales[1]))
    return PackedMatrix(PACKED_ROWS, parts, (rows, columns), {"bits": bits, "tile": tile})


def _groups(settings: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    groups = settings.get("config_groups") or {}
    return [group["weights"] for group in groups.values() if group.get("weights")]


def _only_width(settings: Mapping[str, Any]) -> Any:
    widths = {weights.get("num_bits") for weights in _groups(settings)}
    if len(widths) != 1:
        raise ValueError(f"packed integers of several widths: {sorted(map(str, widths))}")
    return widths.pop()


def _block(settings: Mapping[str, Any]) -> Any:
    sizes = (weights.get("block_structure") for weights in _groups(settings))
    return next((size for size in sizes if size), None)
