"""Loading of a checkpoint by transformers, as it is or dequantized.

To dequantize, transformers receives the dequantized matrices under the names of a full-precision
checkpoint and reads each when it needs it. All formats therefore load in the same way, on any
device, and the values are those that the export reads.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor
from transformers import PreTrainedConfig

from heretic.model.auto_class import class_of_checkpoint, network_class
from heretic.model.headers import Headers
from heretic.model.packed.reader import PackedReader
from heretic.model.quantization import KEYS, full_precision_dtype, packed_matrices


def open_packed(folder: Path) -> PackedReader:
    """Return a reader of the quantized matrices of a checkpoint; without any if unquantized.

    Raises:
        ModelLoadError: the matrices cannot be dequantized.
    """
    packed, headers = packed_matrices(str(folder), folder)
    return PackedReader(packed, headers)


@dataclass(frozen=True)
class _Lazy:
    """A tensor that is read when transformers indexes it, as it does the slices of safetensors."""

    reader: PackedReader
    headers: Headers
    name: str
    dtype: torch.dtype

    def __getitem__(self, index: object) -> Tensor:
        if self.name in self.reader.matrices:
            return self.reader.read(self.name, self.dtype)
        with safe_open(self.headers.places[self.name].path, framework="pt") as tensors:
            found: Tensor = tensors.get_tensor(self.name)
        return found


def load_checkpoint(
    folder: Path,
    dtype: str,
    *,
    dequantize: bool,
    trust_remote_code: bool,
    empty: bool = False,
    **arguments: Any,
) -> Any:
    """Return what `from_pretrained` returns for a checkpoint.

    Args:
        folder: folder of the checkpoint.
        dtype: data type of the network; `auto` is the checkpoint's own.
        dequantize: whether to dequantize a quantized checkpoint.
        trust_remote_code: whether the checkpoint's own code may be executed.
        empty: whether tensors are only described, for a network on torch's `meta` device.
        arguments: further arguments of `from_pretrained`.

    Raises:
        ModelLoadError: a matrix cannot be dequantized.
        Exception: any error of transformers.
    """
    kind, config = class_of_checkpoint(folder, trust_remote_code=trust_remote_code)
    if not dequantize:
        # transformers rejects an empty quantization.
        if any(not getattr(config, key, True) for key in KEYS):
            arguments["config"] = without_quantization(config)
        return kind.from_pretrained(
            folder,
            dtype=dtype,
            trust_remote_code=trust_remote_code,
            use_safetensors=True,
            **arguments,
        )
    chosen = full_precision_dtype(dtype, folder)
    tensors = _dequantized(folder, getattr(torch, chosen), empty=empty)
    network, config = network_class(kind, without_quantization(config))
    found = network.from_pretrained(
        None,
        config=config,
        state_dict=tensors,
        dtype=chosen,
        trust_remote_code=trust_remote_code,
        use_safetensors=True,
        **arguments,
    )
    loaded = found[0] if isinstance(found, tuple) else found
    loaded.name_or_path = loaded.config.name_or_path = str(folder)
    return found


def _dequantized(folder: Path, dtype: torch.dtype, *, empty: bool) -> dict[str, Any]:
    """Return the tensors of a checkpoint, quantized ones dequantized to `dtype`, by name."""
    packed, headers = packed_matrices(str(folder), folder)
    reader = PackedReader(packed, headers)
    tensors: dict[str, Any] = {}
    for name in reader.visible({name: place.path for name, place in headers.places.items()}):
        matrix = packed.matrices.get(name)
        shape = headers.shapes[name] if matrix is None else matrix.shape
        tensors[name] = (
            torch.empty(shape, dtype=dtype, device="meta")
            if empty
            else _Lazy(reader, headers, name, dtype)
        )
    return tensors


def without_quantization(config: PreTrainedConfig) -> PreTrainedConfig:
    """Remove the quantization from a configuration and its parts, in place."""
    parts = [part for part in vars(config).values() if isinstance(part, PreTrainedConfig)]
    for part in (config, *parts):
        for key in KEYS:
            vars(part).pop(key, None)
    return config
