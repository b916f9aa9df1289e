"""Size of a checkpoint, determined without reading its weights."""

import math
import re
from pathlib import Path
from typing import TYPE_CHECKING

from heretic.console import log
from heretic.errors import ModelLoadError, one_line
from heretic.model.checkpoint import is_local, snapshot_repo, weight_files
from heretic.model.headers import Headers
from heretic.model.packed.matrix import PackedMatrices
from heretic.model.quantization import full_precision_dtype, packed_matrices

if TYPE_CHECKING:
    from huggingface_hub.hf_api import ModelInfo

# Raised for hub descriptions of an unexpected form.
UNUSABLE = (ValueError, TypeError, LookupError, AttributeError)
BITS = {"bfloat16": 16, "float16": 16, "float32": 32}
FLOATS = ("F64", "F32", "F16", "BF16")
OWN_PREFIX = "model"


def checkpoint_bytes(
    model: str, revision: str | None, dtype: str, *, dequantize: bool = True
) -> int | None:
    """Return the size in bytes of a model's weights once they are saved in `dtype`.

    Args:
        model: hub id or local folder.
        revision: revision of a hub model.
        dtype: as the setting; `auto` keeps the checkpoint's data types.
        dequantize: whether a local quantized checkpoint is saved in full precision.

    Returns:
        None if the hub does not provide the size, for example without a network.

    Raises:
        ModelLoadError: a safetensors file of a local folder is damaged.
    """
    if is_local(model):
        folder = Path(model).expanduser()
        packed, headers = packed_matrices(model, folder)
        if packed.matrices and dequantize:
            return _dequantized_bytes(packed, headers, full_precision_dtype(dtype, folder), dtype)
        return sum(_file_bytes(path, dtype) for path in weight_files(folder))
    return _hub_bytes(model, revision, dtype)


def _dequantized_bytes(packed: PackedMatrices, headers: Headers, matrices: str, dtype: str) -> int:
    """Return the size of a quantized checkpoint whose matrices are dequantized."""
    plain = headers.shapes.keys() - packed.auxiliary - packed.matrices.keys()
    own = sum(
        math.prod(headers.shapes[name]) * _bits(headers.dtypes[name], dtype) for name in plain
    )
    rest = sum(math.prod(matrix.shape) for matrix in packed.matrices.values()) * BITS[matrices]
    return (own + rest) // 8


def _file_bytes(path: Path, dtype: str) -> int:
    """Compute the size from a safetensors header, which also reveals incomplete files."""
    from safetensors import SafetensorError, safe_open

    total = 0
    try:
        with safe_open(path, framework="np") as tensors:
            for name in tensors.keys():  # noqa: SIM118  # not a mapping
                part = tensors.get_slice(name)
                total += math.prod(part.get_shape()) * _bits(part.get_dtype(), dtype)
    except (OSError, SafetensorError) as error:
        raise ModelLoadError(
            f"{path} is not a complete safetensors file ({one_line(error)}); copy or download it "
            "again"
        ) from error
    return total // 8


def _bits(stored: str, dtype: str) -> int:
    """Return the size in bits of one number of type `stored` once it is saved in `dtype`."""
    if dtype == "auto" or stored not in FLOATS:
        digits = re.match(r"[A-Z]+(\d+)", stored)
        return int(digits[1]) if digits else 8
    return BITS[dtype]


def hub_files(model: str, revision: str | None) -> set[str] | None:
    """Return the file names of a hub repository, or None if the hub does not provide them."""
    info = _hub_info(model, revision)
    siblings = (info.siblings if info is not None else None) or ()
    return {name for file in siblings if isinstance(name := file.rfilename, str)} or None


def listed_files(folder: Path) -> set[str]:
    """Return the file names of the hub repository if a folder is a snapshot in the hub's cache.

    Returns:
        An empty set for other folders, or if the hub does not provide the names.
    """
    repo = snapshot_repo(folder)
    return (hub_files(repo, folder.name) if repo is not None else None) or set()


def _hub_info(model: str, revision: str | None) -> "ModelInfo | None":
    from huggingface_hub import HfApi
    from huggingface_hub.utils import httpx  # type: ignore[attr-defined]  # httpx or httpx2

    from heretic.hub_session import lookup

    def ask() -> "ModelInfo":
        return HfApi().model_info(model, revision=revision, files_metadata=True)

    try:
        return lookup(ask)
    except (*UNUSABLE, OSError, httpx.HTTPError, httpx.InvalidURL) as error:
        # The model may be cached, in which case no network is needed.
        log.debug("The hub does not describe %s (%s)", model, one_line(error))
        return None


def _hub_bytes(model: str, revision: str | None, dtype: str) -> int | None:
    info = _hub_info(model, revision)
    try:
        return None if info is None else _stated_bytes(info, dtype)
    except UNUSABLE as error:
        log.debug("The hub does not report the size of %s (%s)", model, one_line(error))
        return None


def _stated_bytes(info: "ModelInfo", dtype: str) -> int | None:
    counts = info.safetensors.parameters if info.safetensors else {}
    if dtype != "auto" and counts:
        bits: int = sum(n * (BITS[dtype] if k in FLOATS else 8) for k, n in counts.items())
        return bits // 8
    sizes = {file.rfilename: int(file.size or 0) for file in info.siblings or ()}
    found = {name: size for name, size in sizes.items() if _holds_weights(name)}
    own = {name: size for name, size in found.items() if name.startswith(OWN_PREFIX)}
    total: int = sum((own or found).values())
    return total or None


def _holds_weights(name: str) -> bool:
    return "/" not in name and name.endswith(".safetensors")
