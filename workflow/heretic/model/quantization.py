"""Networks with quantized matrices, quantized either on loading or in the checkpoint.

Imports are deferred, so that incompatible settings are found before any work.
"""

import logging
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from heretic.errors import ModelLoadError, SettingsError
from heretic.model.json_files import read_object

NONE, AS_IS = "none", "as_is"
BITSANDBYTES = ("bnb_4bit", "bnb_8bit")
# Configuration keys that describe the quantization of the checkpoint's tensors.
KEYS = ("quantization_config", "compression_config")
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
    method = stored_quantization(config)
    if quantization == AS_IS and method is None:
        raise ModelLoadError(
            f"quantization=as_is needs a quantized checkpoint, but {model} is not quantized; set "
            "quantization=none, bnb_4bit or bnb_8bit"
        )
    if quantization == NONE and method is not None:
        raise ModelLoadError(
            f"the checkpoint of {model} is quantized ({method}), and quantized matrices cannot be "
            "edited; use its full-precision original, or search on this one with "
            "quantization=as_is and export_from=<the original>"
        )
    if quantization in BITSANDBYTES and method is not None:
        raise ModelLoadError(
            f"quantization={quantization} quantizes full-precision weights, but the checkpoint of "
            f"{model} is already quantized ({method}); set quantization=as_is, or use its original"
        )


def unquantized_original(settings: Mapping[str, Any], model: str) -> dict[str, Any]:
    """Return the settings that load the baseline model for comparisons with the edited one.

    The edit of a quantized checkpoint is saved in full precision, so the cost of quantization must
    not be attributed to the edit.

    Args:
        settings: `quantization` and `export_from`.
        model: hub id or folder of the searched model.
    """
    if settings["quantization"] != AS_IS:
        return {"model": model}
    return {"model": settings["export_from"], "model_revision": None, "quantization": NONE}


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
    found = read_object(config)
    parts = [found, *(part for part in found.values() if isinstance(part, dict))]
    for part in parts:
        for key in KEYS:
            if part.get(key):
                known = part[key] if isinstance(part[key], Mapping) else {}
                return str(known.get("quant_method") or key)
    return None


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


def _computing_dtype(dtype: str, folder: Path) -> str:
    """Return the network's data type, also used for products with 4-bit matrices."""
    if dtype != "auto":
        return dtype
    config = read_object(folder / "config.json")
    inner = config.get("text_config")
    texts = [config, inner if isinstance(inner, dict) else {}]
    names = [part.get(key) for part in texts for key in ("dtype", "torch_dtype")]
    return next((name for name in names if isinstance(name, str)), "float32")
