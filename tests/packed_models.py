"""Tiny quantized checkpoints, packed in NumPy by the definitions of the formats.

Each packer returns the stored tensors and, in float64, the values that they stand for.
"""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from quantized_models import WIDER
from safetensors.torch import load_file, save_file
from tiny_models import save_tiny_model
from torch import Tensor

Array = NDArray[Any]
Stored = dict[str, Tensor]
E2M1 = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6, 0, -0.5, -1, -1.5, -2, -3, -4, -6])
TILE, GROUP = 32, 32


def tensor(values: Array, dtype: torch.dtype | None = None) -> Tensor:
    found = torch.from_numpy(np.ascontiguousarray(values))
    return found if dtype is None else found.to(dtype)


def fp8(matrix: Array) -> tuple[Stored, Array]:
    """E4M3 with one scale per tile; the last tiles may be cut off."""
    stored, values = np.empty_like(matrix), np.empty_like(matrix)
    grid = [-(-side // TILE) for side in matrix.shape]
    scales = np.empty(grid)
    for i in range(grid[0]):
        for j in range(grid[1]):
            part = np.s_[i * TILE : (i + 1) * TILE, j * TILE : (j + 1) * TILE]
            scales[i, j] = np.float32(np.abs(matrix[part]).max() / 448)
            stored[part] = tensor(matrix[part] / scales[i, j], torch.float8_e4m3fn).double()
            values[part] = stored[part] * scales[i, j]
    return {
        "": tensor(stored, torch.float8_e4m3fn),
        "_scale_inv": tensor(scales, torch.float32),
    }, values


def nearest_e2m1(numbers: Array) -> Array:
    """Codes of the nearest numbers."""
    codes: Array = np.abs(numbers[..., None] - E2M1).argmin(-1)
    return codes


def mxfp4(experts: Array) -> tuple[Stored, Array]:
    """32 numbers per exponent, along the inputs of [experts, inputs, outputs]."""
    turned = experts.swapaxes(1, 2)
    groups = turned.reshape(*turned.shape[:2], -1, 32)
    exponents = np.floor(np.log2(np.abs(groups).max(-1))) - 2
    codes = nearest_e2m1(groups / 2 ** exponents[..., None])
    values = (E2M1[codes] * 2 ** exponents[..., None]).reshape(turned.shape)
    blocks = codes[..., 0::2] | codes[..., 1::2] << 4
    return {
        "_blocks": tensor(blocks.astype(np.uint8)),
        "_scales": tensor((exponents + 127).astype(np.uint8)),
    }, values.swapaxes(1, 2)


def words(numbers: Array, bits: int) -> Tensor:
    """Unsigned numbers along the last dimension, low bits first."""
    parts = numbers.astype(np.uint64).reshape(*numbers.shape[:-1], -1, 32 // bits)
    total = (parts << np.arange(0, 32, bits, dtype=np.uint64)).sum(-1)
    return tensor(total.astype(np.uint32).view(np.int32))


def affine(matrix: Array, bits: int) -> tuple[Array, Array, Array, Array]:
    """Numbers, scales and zero points of groups of the last dimension, and the values."""
    groups = matrix.reshape(len(matrix), -1, GROUP)
    low, high = groups.min(-1), groups.max(-1)
    scales = tensor((high - low) / (2**bits - 1), torch.float16).double().numpy()
    zeros = np.clip(np.round(-low / scales), 1, 2**bits - 1)
    numbers = np.clip(np.round(groups / scales[..., None]) + zeros[..., None], 0, 2**bits - 1)
    values = (numbers - zeros[..., None]) * scales[..., None]
    return numbers.reshape(matrix.shape), scales, zeros, values.reshape(matrix.shape)


def gptq(matrix: Array, bits: int = 4) -> tuple[Stored, Array]:
    numbers, scales, zeros, values = affine(matrix, bits)
    return {
        ".qweight": words(numbers, bits).T.contiguous(),
        ".qzeros": words(zeros.T - 1, bits),
        ".scales": tensor(scales.T, torch.float16),
        ".g_idx": tensor(np.arange(matrix.shape[1]) // GROUP, torch.int32),
    }, values


def awq(matrix: Array) -> tuple[Stored, Array]:
    numbers, scales, zeros, values = affine(matrix, 4)

    def packed(rows: Array) -> Tensor:
        eights = rows.reshape(len(rows), -1, 8)[..., [0, 2, 4, 6, 1, 3, 5, 7]]
        return words(eights.reshape(rows.shape), 4)

    return {
        ".qweight": packed(numbers.T),
        ".qzeros": packed(zeros.T),
        ".scales": tensor(scales.T, torch.float16),
    }, values


def packed_rows(matrix: Array, bits: int = 4) -> tuple[Stored, Array]:
    """The format pack-quantized of compressed-tensors, symmetric."""
    groups = matrix.reshape(len(matrix), -1, GROUP)
    scales = tensor(np.abs(groups).max(-1) / (2 ** (bits - 1) - 1), torch.bfloat16)
    wide = scales.double().numpy()[..., None]
    middle = 2 ** (bits - 1)
    numbers = np.clip(np.round(groups / wide), -middle, middle - 1) + 0.0  # without -0
    return {
        "_packed": words((numbers + middle).reshape(matrix.shape), bits),
        "_scale": scales,
        "_shape": torch.tensor(matrix.shape),
    }, (numbers * wide).reshape(matrix.shape)


def packed_rows_asymmetric(matrix: Array) -> tuple[Stored, Array]:
    """The format pack-quantized with zero points, which are packed along the rows."""
    numbers, scales, zeros, values = affine(matrix, 4)
    return {
        "_packed": words(numbers, 4),
        "_scale": tensor(scales, torch.float16),
        "_zero_point": words(zeros.T, 4).T.contiguous(),
        "_shape": torch.tensor(matrix.shape),
    }, values


def gptq_by_activation(matrix: Array) -> tuple[Stored, Array]:
    """8 bits of the second version, with inputs in groups out of order."""
    order = np.random.default_rng(1).permutation(matrix.shape[1])
    numbers, scales, zeros, values = affine(matrix[:, order], 8)
    places = np.argsort(order)
    return {
        ".qweight": words(numbers[:, places], 8).T.contiguous(),
        ".qzeros": words(zeros.T, 8),
        ".scales": tensor(scales.T, torch.float16),
        ".g_idx": tensor(places // GROUP, torch.int32),
    }, values[:, places]


def channel_fp8(matrix: Array) -> tuple[Stored, Array]:
    """The format float-quantized of compressed-tensors, with a scale per row."""
    scales = tensor(np.abs(matrix).max(1, keepdims=True) / 448, torch.bfloat16)
    wide = scales.double().numpy()
    stored = tensor(matrix / wide).to(torch.float8_e4m3fn)
    return {"": stored, "_scale": scales}, stored.double().numpy() * wide


def nvfp4(matrix: Array) -> tuple[Stored, Array]:
    groups = matrix.reshape(len(matrix), -1, 16)
    total = np.float32(448 * 6 / np.abs(matrix).max())
    scales = tensor(np.abs(groups).max(-1) / 6 * total).to(torch.float8_e4m3fn)
    wide = scales.double().numpy()[..., None] / total
    codes = nearest_e2m1(groups / np.where(wide == 0, 1, wide))
    flat = codes.reshape(matrix.shape)
    return {
        "_packed": tensor((flat[:, 0::2] | flat[:, 1::2] << 4).astype(np.uint8)),
        "_scale": scales,
        "_global_scale": torch.tensor([total]),
    }, (E2M1[codes] * wide).reshape(matrix.shape)


def scheme(form: str, **weights: Any) -> dict[str, Any]:
    given = {"num_bits": 4, "type": "int", "symmetric": True, **weights}
    group = {"targets": ["Linear"], "weights": given}
    return {
        "quant_method": "compressed-tensors",
        "format": form,
        "quantization_status": "compressed",
        "config_groups": {"group_0": group},
        "ignore": ["lm_head"],
    }


FORMATS: dict[str, tuple[Callable[[Array], tuple[Stored, Array]], dict[str, Any]]] = {
    "fp8": (fp8, {"quant_method": "fp8", "weight_block_size": [TILE, TILE]}),
    "mxfp4": (mxfp4, {"quant_method": "mxfp4"}),
    "gptq": (gptq, {"quant_method": "gptq", "bits": 4, "group_size": GROUP}),
    "awq": (awq, {"quant_method": "awq", "bits": 4, "group_size": GROUP, "version": "gemm"}),
    "int4": (packed_rows, scheme("pack-quantized", strategy="group", group_size=GROUP)),
    "int4_zeros": (
        packed_rows_asymmetric,
        scheme("pack-quantized", strategy="group", group_size=GROUP, symmetric=False),
    ),
    "gptq_v2": (
        gptq_by_activation,
        {
            "quant_method": "gptq",
            "bits": 8,
            "group_size": GROUP,
            "desc_act": True,
            "checkpoint_format": "gptq_v2",
        },
    ),
    "channel_fp8": (
        channel_fp8,
        scheme("float-quantized", num_bits=8, type="float", strategy="channel"),
    ),
    "nvfp4": (
        nvfp4,
        scheme("nvfp4-pack-quantized", type="float", strategy="tensor_group", group_size=16),
    ),
}


def save_packed(
    folder: Path, form: str, family: str = "llama", shards: str = "5GB", **changes: Any
) -> dict[str, Tensor]:
    """Save a quantized checkpoint; return the values of its plain counterpart in float64."""
    sizes = {**WIDER, "dtype": torch.bfloat16, **changes}
    save_tiny_model(folder, family, max_shard_size=shards, **sizes)
    pack, settings = FORMATS[form]
    values: dict[str, Tensor] = {}
    for path in sorted(folder.glob("*.safetensors")):
        stored = load_file(path)
        packed: Stored = {}
        for name, plain in stored.items():
            parts, values[name] = _packed(name, plain, pack, form)
            packed |= parts
        save_file(packed, path, {"format": "pt"})
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        _rewrite_index(index)
    configure(folder, quantization_config=settings)
    return values


def _packed(
    name: str, plain: Tensor, pack: Callable[[Array], tuple[Stored, Array]], form: str
) -> tuple[Stored, Tensor]:
    experts = name.endswith(("experts.gate_up_proj", "experts.down_proj"))
    if experts if form == "mxfp4" else name.endswith("proj.weight"):
        parts, values = pack(plain.double().numpy())
        stem = name.removesuffix(".weight") if form.startswith(("gptq", "awq")) else name
        return {f"{stem}{part}": found for part, found in parts.items()}, torch.from_numpy(values)
    return {name: plain}, plain.double()


def _rewrite_index(index: Path) -> None:
    files = {
        name: path.name
        for path in sorted(index.parent.glob("*.safetensors"))
        for name in load_file(path)
    }
    index.write_text(json.dumps({"metadata": {}, "weight_map": files}))


def configure(folder: Path, **keys: Any) -> None:
    """Add keys to `config.json`."""
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | keys))


def save_plain(source: Path, folder: Path, values: Mapping[str, Tensor]) -> Path:
    """Save the plain counterpart of a quantized checkpoint, its values rounded to bfloat16."""
    folder.mkdir()
    for path in source.iterdir():
        if path.suffix != ".safetensors" and path.name != "model.safetensors.index.json":
            (folder / path.name).write_bytes(path.read_bytes())
    config = json.loads((folder / "config.json").read_text())
    del config["quantization_config"]
    (folder / "config.json").write_text(json.dumps(config))
    for path in sorted(source.glob("*.safetensors")):
        stored = load_file(path).keys()
        # As by dequantization: the product in float32, then one rounding.
        rounded = {
            name: value.float().bfloat16().contiguous()
            for name, value in values.items()
            if not _main_parts(name).isdisjoint(stored)
        }
        save_file(rounded, folder / path.name, {"format": "pt"})
    if (source / "model.safetensors.index.json").is_file():
        _rewrite_index(folder / "model.safetensors.index.json")
    return folder


def _main_parts(name: str) -> set[str]:
    """Names under which the formats store the numbers of a matrix."""
    stem = name.removesuffix("weight")
    return {name, f"{name}_blocks", f"{name}_packed", f"{stem}qweight"}


def pack_mlx(folder: Path) -> None:
    """Pack the matrices of a checkpoint as MLX does, with arbitrary numbers."""
    path = folder / "model.safetensors"
    stored = load_file(path)
    for name in [name for name in stored if name.endswith("proj.weight")]:
        rows, columns = stored.pop(name).shape
        stored[name] = torch.zeros(rows, columns // 8, dtype=torch.uint32)
        for part in ("scales", "biases"):
            stored[name.replace("weight", part)] = torch.ones(rows, columns // 32)
    save_file(stored, path, {"format": "pt"})
    configure(folder, quantization={"group_size": 32, "bits": 4})
