"""Pristine matrices straight from the checkpoint, for models that leave no room for copies."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from heretic.ablation.weights_cache import PristineParts
from heretic.errors import ModelLoadError
from heretic.model.anatomy import Anatomy, StreamWriter
from heretic.model.loading import Model

INDEX = "model.safetensors.index.json"
ADVICE = "run with cache_weights=true"


class DiskWeights:
    """Reads single tensors of the checkpoint's memory-mapped safetensors files."""

    def __init__(self, model: Model) -> None:
        """Find every writer's tensor in the checkpoint.

        Raises:
            ModelLoadError: the checkpoint lacks a writer's tensor under its name in the network,
                or holds it in another shape.
        """
        self._files = tensor_files(model.folder)
        self._prefix = f"{model.network.base_model_prefix}."
        self.check(model.anatomy)
        self._require_same_experts(model.anatomy)

    def _require_same_experts(self, anatomy: Anatomy) -> None:
        """What is put together of several tensors must be what loading made of them."""
        for writer in anatomy.writers:
            if len(self._names(writer.parameter_name, writer)) > 1:
                if not self.pristine(writer, anatomy).weight.equal(writer.weight.cpu()):
                    raise ModelLoadError(
                        f"{writer.name} in memory is not what its experts are on disk; {ADVICE}"
                    )
                return  # the others are put together likewise

    def check(self, anatomy: Anatomy) -> None:
        """Refuse a model whose writers the checkpoint does not hold in their shape."""
        for writer in anatomy.writers:
            for name, tensor in _stored(writer):
                on_disk = self._shape(name, writer)
                if on_disk != tuple(tensor.shape):
                    raise ModelLoadError(
                        f"{name} has shape {tuple(tensor.shape)} in memory and {on_disk} on disk; "
                        f"{ADVICE}"
                    )

    def pristine(self, writer: StreamWriter, anatomy: Anatomy) -> PristineParts:
        """Weight and bias, in the writer's shapes, as the model was loaded.

        Raises:
            ModelLoadError: the file is gone or damaged, or has no such tensor.
        """
        dtype = writer.weight.dtype
        parts = [self._read(name, dtype) for name in self._names(writer.parameter_name, writer)]
        weight = parts[0] if self._is_whole(writer.parameter_name) else torch.stack(parts)
        bias = None if writer.bias_name is None else self._read(writer.bias_name, dtype)
        return PristineParts(weight.mT if writer.transposed else weight, bias)

    def _shape(self, name: str, writer: StreamWriter) -> tuple[int, ...]:
        """Shape of a parameter on disk."""
        shapes = []
        for part in self._names(name, writer):
            with self._open(part) as (tensors, stored):
                shapes.append(tuple(tensors.get_slice(stored).get_shape()))
        if self._is_whole(name):
            return shapes[0]
        alike = len(set(shapes)) == 1
        return (len(shapes), *shapes[0]) if alike else ()

    def _names(self, name: str, writer: StreamWriter) -> list[str]:
        """What a parameter is called on disk, where each expert may have a matrix of its own."""
        if self._is_whole(name) or writer.transposed or writer.weight.ndim != 3:
            return [name]
        owner, _, own = name.rpartition(".")
        names = [f"{owner}.{expert}.{own}.weight" for expert in range(len(writer.weight))]
        return names if all(map(self._is_whole, names)) else [name]

    def _is_whole(self, name: str) -> bool:
        return name in self._files or name.removeprefix(self._prefix) in self._files

    def _read(self, name: str, dtype: torch.dtype) -> Tensor:
        with self._open(name) as (tensors, stored):
            # A copy: the mapped file may change, and products depend on how memory is aligned.
            found: Tensor = tensors.get_tensor(stored)
            return found.to(dtype, copy=True)

    @contextmanager
    def _open(self, name: str) -> Iterator[tuple[Any, str]]:
        # A checkpoint of the bare decoder lacks the prefix that the network with head has.
        names = (name, name.removeprefix(self._prefix))
        stored = next((known for known in names if known in self._files), None)
        if stored is None:
            raise ModelLoadError(f"the checkpoint has no tensor {name}; {ADVICE}")
        try:
            with safe_open(self._files[stored], framework="pt") as tensors:
                yield tensors, stored
        except (OSError, SafetensorError) as error:
            raise ModelLoadError(f"cannot read {name} from disk: {error}; {ADVICE}") from error


def _stored(writer: StreamWriter) -> Iterator[tuple[str, Tensor]]:
    """A writer's parameters as they are stored, by name."""
    yield writer.parameter_name, writer.weight.mT if writer.transposed else writer.weight
    if writer.bias_name is not None and writer.bias is not None:
        yield writer.bias_name, writer.bias


def tensor_files(folder: Path) -> dict[str, Path]:
    """The file of each tensor of a checkpoint, sharded or not.

    Raises:
        ModelLoadError: there are no safetensors files, or one is damaged.
    """
    index = folder / INDEX
    found: dict[str, Path] = {}
    try:
        if index.is_file():
            weight_map = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
            return {name: folder / file for name, file in weight_map.items()}
        for path in sorted(folder.glob("*.safetensors")):
            with safe_open(path, framework="pt") as tensors:
                found.update(dict.fromkeys(tensors.keys(), path))
    except (OSError, SafetensorError, ValueError, KeyError) as error:
        raise ModelLoadError(f"cannot read the files of {folder}: {error}; {ADVICE}") from error
    if not found:
        raise ModelLoadError(f"{folder} has no safetensors files; {ADVICE}")
    return found
