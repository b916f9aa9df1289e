"""Networks with quantized matrices, quantized either on loading or in the checkpoint.

Imports are deferred, so that incompatible settings are found before any work.
"""

import logging
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from heretic.errors import ModelLoadError, SettingsError
from heretic.model.checkpoint import weight_files
from heretic.model.headers import INDEX, Headers, read_headers, weight_map
from heretic.model.json_files import read_object
from heretic.model.packed.find import find_packed, holds_mlx, holds_packed
from heretic.model.packed.matrix import PACKABLE, PACKABLE_METHODS, PackedMatrices

NONE, AS_IS, DEQUANTIZE = "none", "as_is", "dequantize"
BITSANDBYTES = ("bnb_4bit", "bnb_8bit")
# Configuration keys that describe the quantization of the checkpoint's tensors.
KEYS = ("quantization_config", "compression_config")
MLX = "quantization"
# Package and devices with which transformers runs a checkpoint without dequantizing it first.
AS_RELEASED = {
    "bitsandbytes": ("bitsandbytes", ("cpu", "cuda", "xpu")),
    "fp8": ("kernels", ("cuda", "xpu")),
    "mxfp4": ("kernels", ("cuda", "xpu")),
}
# Methods that may quantize plain weights when the model runs.
AT_RUN_TIME = ("bitnet", "compressed-tensors", "torchao")
# Fields that a quantized checkpoint has in common with its original.
COMPARED = ("model_type", "num_hidden_layers", "hidden_size", "intermediate_size")


def check_package(quantization: str) -> None:
    """Reject a quantization whose package is not installed, without importing anything.

    Raises:
        SettingsError: the message contains installation instructions.
    """
    if quantization in BITSANDBYTES and find_spec("bitsandbytes") is None:
        raise SettingsError(
            f"quantization={quantization} needs the package bitsandbytes: pip install -c "
            "envs/constraints.txt -e '.[quantized]', or set quantization=none"
        )


def check_checkpoint(model: str, config: Path, quantization: str) -> None:
    """Reject a checkpoint that is stored in another form than `quantization` expects.

    Args:
        model: name for messages.
        config: its `config.json`.
        quantization: as the setting.

    Raises:
        ModelLoadError: the file is damaged, or the checkpoint is quantized and must not be, or vice
            versa.
    """
    _require_objects(model, config)
    method, known = _stored_method(config)
    named = read_object(config).get(MLX)
    headers = None if method is None and named is None else _headers_of(config.parent)
    _reject_mlx(model, named, headers)
    plain = headers is not None and not holds_packed(headers)
    at_run_time = quantization == AS_IS and method in AT_RUN_TIME
    if method is not None and plain and not at_run_time:
        raise ModelLoadError(
            f"config.json of {model} has {_stored_key(config)} ({method}), but no tensor is "
            "quantized; delete the key from config.json"
        )
    if quantization in (AS_IS, DEQUANTIZE) and method is None:
        raise ModelLoadError(
            f"quantization={quantization} needs a quantized checkpoint, but {model} is not "
            "quantized; set quantization=none, bnb_4bit or bnb_8bit"
        )
    if quantization == NONE and method is not None:
        raise ModelLoadError(
            f"the checkpoint of {model} is quantized ({method}), and quantized matrices cannot be "
            "edited; use its full-precision original, set quantization=dequantize to edit its "
            "dequantized matrices, or search on this one with quantization=as_is and "
            "export_from=<the original>"
        )
    if quantization in BITSANDBYTES and method is not None:
        raise ModelLoadError(
            f"quantization={quantization} quantizes full-precision weights, but the checkpoint of "
            f"{model} is already quantized ({method}); set quantization=dequantize or as_is, or "
            "use its original"
        )
    if quantization == DEQUANTIZE and method is not None:
        _require_reader(method)
        find_packed(model, method, known, headers or Headers({}))


def check_exportable(model: str, config: Path) -> None:
    """Reject a quantized checkpoint from which no full-precision weights can be exported.

    Raises:
        ModelLoadError: its matrices cannot be dequantized.
        SettingsError: the package that dequantizes them is missing.
    """
    check_checkpoint(model, config, DEQUANTIZE)


def check_packable(model: str, config: Path) -> None:
    """Reject a checkpoint whose edited matrices cannot be saved in its own format.

    Raises:
        ModelLoadError: the message names the formats that can.
    """
    method, known = _stored_method(config)
    if method not in PACKABLE_METHODS:
        raise ModelLoadError(
            f"export=quantized saves {' and '.join(PACKABLE_METHODS)} checkpoints, but {model} is "
            f"quantized by {method}; set export=merged"
        )
    headers = _headers_of(config.parent)
    packed = PackedMatrices() if headers is None else find_packed(model, method, known, headers)
    for name, matrix in packed.matrices.items():
        if matrix.form not in PACKABLE:
            raise ModelLoadError(
                f"{name} of {model} is stored as {matrix.form}, in which matrices are not "
                "quantized again; set export=merged"
            )


def _require_reader(method: str) -> None:
    if method == "bitsandbytes" and find_spec("bitsandbytes") is None:
        raise SettingsError(
            "dequantizing a bitsandbytes checkpoint needs the package bitsandbytes: pip install "
            "-c envs/constraints.txt -e '.[quantized]'"
        )


def _require_objects(model: str, config: Path) -> None:
    for part in _parts(config):
        for key in KEYS:
            if not isinstance(part.get(key), Mapping | None):
                raise ModelLoadError(
                    f"config.json of {model} has {key}={part[key]!r:.60}, which is not an object; "
                    "delete the key, or download the model again"
                )


def _headers_of(folder: Path) -> Headers | None:
    """Return the headers of a checkpoint; None if its weights are not downloaded yet."""
    index = folder / INDEX
    named = set(weight_map(index).values()) if index.is_file() else set()
    if not all((folder / name).exists() for name in named):
        return None
    files = weight_files(folder)
    return read_headers(files) if files else None


def _reject_mlx(model: str, settings: object, headers: Headers | None) -> None:
    bits = settings.get("bits") if isinstance(settings, Mapping) else None
    if bits is not None if headers is None else holds_mlx(headers):
        form = f"{bits}-bit format" if isinstance(bits, int) else "format"
        raise ModelLoadError(
            f"{model} is stored in MLX's {form} (`{MLX}` in config.json, tensors "
            "*.scales), which transformers does not load; use the model it was converted from, or "
            "dequantize it with `mlx_lm.convert --dequantize`"
        )


def packed_matrices(model: str, folder: Path) -> tuple[PackedMatrices, Headers]:
    """Return the quantized matrices of a checkpoint, and its headers; none if unquantized.

    Args:
        model: name for messages.
        folder: folder of the checkpoint.

    Raises:
        ModelLoadError: a matrix cannot be dequantized, or a file is damaged.
    """
    config = folder / "config.json"
    method, known = _stored_method(config) if config.is_file() else (None, {})
    if method is None:
        return PackedMatrices(), Headers({})
    headers = read_headers(weight_files(folder))
    return find_packed(model, method, known, headers), headers


def unquantized_original(settings: Mapping[str, Any], model: str) -> dict[str, Any]:
    """Return the settings that load the baseline model for comparisons with the edited one.

    The edit of a quantized checkpoint is saved in full precision. If its full-precision original is
    given, the cost of quantization must not be attributed to the edit; otherwise the baseline is
    the quantized model itself, in the form in which it was searched.

    Args:
        settings: `quantization` and `export_from`.
        model: hub id or folder of the searched model.
    """
    if settings["quantization"] not in (AS_IS, DEQUANTIZE) or settings["export_from"] is None:
        return {"model": model}
    return {"model": settings["export_from"], "model_revision": None, "quantization": NONE}


def released_form(settings: Mapping[str, Any], config: Path, device: str) -> str:
    """Return the form in which a released checkpoint is the baseline of the held-out table.

    A dequantized checkpoint is compared as released if transformers runs it in that form.

    Args:
        settings: `quantization`.
        config: `config.json` of the baseline model.
        device: type of the device, such as `cuda`.

    Returns:
        A value of the setting `quantization`.
    """
    chosen: str = settings["quantization"]
    if chosen != DEQUANTIZE:
        return chosen
    method = stored_quantization(config)
    needed = AS_RELEASED.get(method or "")
    runs = needed is not None and find_spec(needed[0]) is not None
    return AS_IS if runs and needed is not None and device in needed[1] else chosen


def editable_form(quantization: str, config: Path) -> str:
    """Return the form in which a model loads with editable matrices, or as it was measured.

    Args:
        quantization: as the setting.
        config: `config.json` of the model.

    Returns:
        `dequantize` for a quantized checkpoint; for others `none`, or the form given by
        `quantization` if they are quantized on loading.
    """
    if stored_quantization(config) is not None:
        return DEQUANTIZE
    return quantization if quantization in BITSANDBYTES else NONE


def require_alike(searched: Path, exported: Path, model: str) -> None:
    """Reject an original that cannot be the source of the searched model.

    Args:
        searched, exported: their `config.json` files.
        model: name of the exported model, for the message.

    Raises:
        ModelLoadError: they differ in architecture or size, or a file is damaged.
    """
    one, other = (_sizes(path) for path in (searched, exported))
    different = [name for name in one if name in other and one[name] != other[name]]
    if different:
        name = different[0]
        raise ModelLoadError(
            f"export_from={model} is not the searched model: {name} is {other[name]}, not "
            f"{one[name]}; specify the original of the searched model"
        )


def _sizes(config: Path) -> dict[str, Any]:
    found = read_object(config)
    inner = found.get("text_config")
    text = {**found, **inner} if isinstance(inner, dict) else found
    return {name: text[name] for name in COMPARED if text.get(name) is not None}


def check_original(model: str, config: Path) -> None:
    """Reject a source of exported weights that is quantized itself.

    Raises:
        ModelLoadError: the source is quantized, or its `config.json` is damaged.
    """
    method = stored_quantization(config)
    if method is not None:
        raise ModelLoadError(
            f"export_from={model} is quantized ({method}), but the export edits full-precision "
            "weights; specify its full-precision checkpoint"
        )


def stored_quantization(config: Path) -> str | None:
    """Return a checkpoint's quantization method from its `config.json`; None if unquantized.

    Raises:
        ModelLoadError: the file is damaged.
    """
    return _stored_method(config)[0]


def _stored_method(config: Path) -> tuple[str | None, Mapping[str, Any]]:
    """Return the method and the settings of a checkpoint's quantization."""
    for part in _parts(config):
        for key in KEYS:
            if part.get(key):
                known = part[key] if isinstance(part[key], Mapping) else {}
                return str(known.get("quant_method") or key), known
    return None, {}


def _stored_key(config: Path) -> str:
    """Return the place of a checkpoint's quantization in its `config.json`."""
    return next(key for part in _parts(config) for key in KEYS if part.get(key))


def _parts(config: Path) -> list[Mapping[str, Any]]:
    found = read_object(config)
    return [found, *(part for part in found.values() if isinstance(part, dict))]


def loading_arguments(quantization: str, dtype: str, folder: Path) -> dict[str, Any]:
    """Return additional arguments of `from_pretrained` besides the data type.

    Args:
        quantization: as the setting.
        dtype: data type of unquantized parts; `auto` is the checkpoint's own.
        folder: folder of the checkpoint.

    Raises:
        SettingsError: the package is missing.
    """
    if quantization not in BITSANDBYTES:
        return {}
    check_package(quantization)
    # It logs the cast of every product's input and every missing kernel.
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    from transformers import BitsAndBytesConfig

    if quantization == "bnb_8bit":
        chosen: dict[str, Any] = {"load_in_8bit": True}
    else:
        computing = _computing_dtype(dtype, folder)
        chosen = {
            "load_in_4bit": True,
            "bnb_4bit_quant_type": "nf4",
            "bnb_4bit_compute_dtype": computing,
        }
    return {"quantization_config": BitsAndBytesConfig(**chosen)}  # type: ignore[no-untyped-call]


def full_precision_dtype(dtype: str, folder: Path) -> str:
    """Return the data type of a dequantized network; `auto` is that of the configuration."""
    return _computing_dtype(dtype, folder, "bfloat16")


def _computing_dtype(dtype: str, folder: Path, default: str = "float32") -> str:
    """Return the network's data type, also used for products with 4-bit matrices."""
    if dtype != "auto":
        return dtype
    config = read_object(folder / "config.json")
    inner = config.get("text_config")
    texts = [config, inner if isinstance(inner, dict) else {}]
    names = [part.get(key) for part in texts for key in ("dtype", "torch_dtype")]
    return next((name for name in names if isinstance(name, str)), default)
