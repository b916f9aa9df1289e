"""Search for the quantized matrices of a checkpoint in its headers, without reading weights."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from heretic.errors import ModelLoadError, one_line
from heretic.model.headers import Headers
from heretic.model.packed.floats import find_fp8, find_mxfp4
from heretic.model.packed.integers import find_awq, find_bitsandbytes, find_gptq
from heretic.model.packed.matrix import PACKED_TYPES, PackedMatrices, PackedMatrix
from heretic.model.packed.tensor_schemes import find_compressed

Found = Iterator[tuple[str, PackedMatrix]]
METHODS: dict[str, Callable[[Headers, Mapping[str, Any]], Found]] = {
    "mxfp4": find_mxfp4,
    "fp8": find_fp8,
    "compressed-tensors": find_compressed,
    "gptq": find_gptq,
    "awq": find_awq,
    "bitsandbytes": find_bitsandbytes,
}
# Scales of activations and caches, which the dequantized network does not use.
UNUSED = (
    *(".activation_scale", ".input_scale", ".qscale_act", ".output_scale", ".input_global_scale"),
    *(".k_scale", ".v_scale", ".q_scale", ".input_zero_point", ".weight_format"),
)


def holds_packed(headers: Headers) -> bool:
    """Return whether any matrix is stored in a data type of quantized numbers."""
    return any(
        dtype in PACKED_TYPES and len(headers.shapes[name]) > 1
        for name, dtype in headers.dtypes.items()
    )


def holds_mlx(headers: Headers) -> bool:
    """Return whether matrices are packed as by MLX: 32-bit words next to `scales`."""
    return any(
        name.endswith(".weight")
        and dtype in ("U32", "I32")
        and f"{name.removesuffix('weight')}scales" in headers.shapes
        for name, dtype in headers.dtypes.items()
    )


def find_packed(
    model: str, method: str, settings: Mapping[str, Any], headers: Headers
) -> PackedMatrices:
    """Return the quantized matrices of a checkpoint.

    Args:
        model: name for messages.
        method: `quant_method` of its `config.json`.
        settings: its quantization settings.
        headers: its tensors.

    Raises:
        ModelLoadError: the method, or the form of a tensor, cannot be dequantized here.
    """
    if method not in METHODS:
        raise ModelLoadError(
            f"quantization=dequantize cannot read the {method} weights of {model}, only "
            f"{', '.join(METHODS)}; use its full-precision original, or search on this one with "
            "quantization=as_is and export_from=<the original>"
        )
    try:
        matrices = dict(METHODS[method](headers, settings))
    except (KeyError, ValueError, TypeError, IndexError, ZeroDivisionError) as error:
        raise ModelLoadError(
            f"the weights of {model} do not match the {method} format "
            f"({one_line(error)}); use its full-precision original"
        ) from error
    parts = {part for matrix in matrices.values() for part in matrix.parts.values()}
    auxiliary = parts | {name for name in headers.shapes if name.endswith(UNUSED)}
    unknown = sorted(
        name
        for name, dtype in headers.dtypes.items()
        if dtype in PACKED_TYPES and len(headers.shapes[name]) > 1 and name not in auxiliary
    )
    if unknown:
        raise ModelLoadError(
            f"{one_line(unknown[0], 80)} of {model} has type {headers.dtypes[unknown[0]]} without "
            f"the scales that {method} stores; use its full-precision original"
        )
    return PackedMatrices(matrices, frozenset(auxiliary - matrices.keys()))
