"""Matrices of integers by GPTQ, AWQ and bitsandbytes."""

import json
from collections.abc import Iterator, Mapping
from typing import Any

from heretic.model.headers import Headers
from heretic.model.packed.matrix import AWQ, BNB_4BIT, BNB_8BIT, GPTQ, PackedMatrix

WORD = 32
WIDTHS = (2, 4, 8)
STATE = ".quant_state.bitsandbytes__"


def find_gptq(headers: Headers, settings: Mapping[str, Any]) -> Iterator[tuple[str, PackedMatrix]]:
    """Yield matrices packed along their inputs."""
    bits = width_in_bits(settings.get("bits"))
    # Files of the first version store zero points reduced by one.
    zero_offset = 0 if settings.get("checkpoint_format") == "gptq_v2" else 1
    for stem in _stems(headers):
        words, outputs = headers.shapes[f"{stem}qweight"]
        parts = _parts(stem, headers, "scales", "qzeros", "g_idx")
        options = {
            "bits": bits,
            "zero_offset": zero_offset,
            "group_size": settings.get("group_size", -1),
        }
        shape = (outputs, words * WORD // bits)
        yield f"{stem}weight", PackedMatrix(GPTQ, parts, shape, options)


def find_awq(headers: Headers, settings: Mapping[str, Any]) -> Iterator[tuple[str, PackedMatrix]]:
    """Yield matrices packed along their outputs, in the order of the GEMM kernels."""
    bits, version = settings.get("bits", settings.get("w_bit")), settings.get("version", "gemm")
    if bits != 4 or str(version).lower() != "gemm":
        raise ValueError(f"bits={bits} and version={version} instead of 4 and gemm")
    for stem in _stems(headers):
        inputs, words = headers.shapes[f"{stem}qweight"]
        shape = (words * WORD // bits, inputs)
        parts = _parts(stem, headers, "scales", "qzeros")
        yield f"{stem}weight", PackedMatrix(AWQ, parts, shape, {"bits": bits})


def find_bitsandbytes(headers: Headers, _: Mapping[str, Any]) -> Iterator[tuple[str, PackedMatrix]]:
    """Yield matrices in LLM.int8, and in NF4 or FP4 with their quantization state."""
    for name in headers.shapes:
        scales = f"{name.removesuffix('weight')}SCB"
        if name.endswith(".weight") and scales in headers.shapes:
            shape = headers.shapes[name]
            yield name, PackedMatrix(BNB_8BIT, {"values": name, "scales": scales}, shape)
        matrix, state, kind = name.partition(STATE)
        if state:
            parts = {"values": matrix, f"quant_state.bitsandbytes__{kind}": name}
            for part in ("absmax", "quant_map", "nested_absmax", "nested_quant_map"):
                if f"{matrix}.{part}" in headers.shapes:
                    parts[part] = f"{matrix}.{part}"
            shape = tuple(map(int, json.loads(headers.read(name))["shape"]))
            yield matrix, PackedMatrix(BNB_4BIT, parts, shape)


def width_in_bits(bits: Any) -> int:
    """Return a width of packed integers.

    Raises:
        ValueError: the integers do not fill a word evenly.
    """
    if bits not in WIDTHS:
        raise ValueError(f"integers of {bits} bits instead of {', '.join(map(str, WIDTHS))}")
    return int(bits)


def _stems(headers: Headers) -> list[str]:
    return [name.removesuffix("qweight") for name in headers.shapes if name.endswith(".qweight")]


def _parts(stem: str, headers: Headers, *names: str) -> dict[str, str]:
    parts = {"values": f"{stem}qweight"}
    parts |= {name: f"{stem}{name}" for name in names if f"{stem}{name}" in headers.shapes}
    if not {"scales", "qzeros"} <= parts.keys():
        raise ValueError(f"{stem}qweight has no scales or qzeros")
    # A bias belongs to the full-precision map, too.
    return parts
