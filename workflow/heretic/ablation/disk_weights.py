"""Original matrices read from the checkpoint, for models that leave no memory for copies."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import groupby
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from heretic.ablation.weights_cache import OriginalTensors
from heretic.errors import ModelLoadError
from heretic.model.checkpoint import WEIGHTS
from heretic.model.checkpoint_loading import open_packed
from heretic.model.headers import INDEX, weight_map
from heretic.model.loading import Model
from heretic.model.parameter_layout import places, trace
from heretic.model.stream_writers.anatomy import Anatomy, StreamWriter
from heretic.model.third_party import reported_as

ADVICE = "run with cache_weights=true"

T = TypeVar("T")


class DiskWeights:
    """Reads single tensors of the checkpoint's memory-mapped safetensors files.

    A parameter may be stored as several tensors, such as one matrix per expert.
    """

    def __init__(self, model: Model) -> None:
        """Find every writer's tensors in the checkpoint of a model in its original state.

        All are read once, which is the only way to detect whether transformers did more than
        concatenate them on loading.

        Raises:
            ModelLoadError: the checkpoint lacks a writer's tensors or contains different ones, or
                transformers does not reveal how they are stored.
        """
        self._packed = open_packed(model.folder)
        self._files = self._packed.visible(tensor_files(model.folder))
        self._prefix = f"{model.network.base_model_prefix}."
        with reported_as(
            ModelLoadError, f"cannot determine the layout of the weights in {model.folder}", ADVICE
        ):
            self._places = places(trace(model.network)[1])
        self.check(model.anatomy)
        for writer in model.anatomy.writers:
            self._require_unchanged(writer)

    def check(self, anatomy: Anatomy) -> None:
        """Reject a model whose writers are not stored in the checkpoint in their shape.

        Raises:
            ModelLoadError: a tensor is missing, has another shape or cannot be read.
        """
        for writer in anatomy.writers:
            for name, tensor in _parameters(writer):
                self._check_shapes(name, tuple(tensor.shape))

    def pristine(self, writer: StreamWriter) -> OriginalTensors:
        """Return the original weight and bias in the writer's shapes.

        Raises:
            ModelLoadError: the file is missing or damaged, or lacks the tensor.
        """
        weight, *biases = (self._read(name, like) for name, like in _parameters(writer))
        bias = biases[0] if biases else None
        return OriginalTensors(weight.mT if writer.transposed else weight, bias)

    def _require_unchanged(self, writer: StreamWriter) -> None:
        for name, tensor in _parameters(writer):
            if not self._read(name, tensor).to(tensor.device).equal(tensor):
                raise ModelLoadError(
                    f"{name} in memory differs from {self._names(name)[0]} on disk, so it cannot "
                    f"be restored from there; {ADVICE}"
                )

    def _check_shapes(self, name: str, in_memory: tuple[int, ...]) -> None:
        names = self._names(name)
        # Either the unchanged parameter, or one tensor for each matrix stacked in it.
        wanted = {in_memory} if len(names) == 1 else set()
        if in_memory[0] == len(names):
            wanted.add(in_memory[1:])
        for stored, on_disk in zip(names, self._each(names, self._shape), strict=True):
            if on_disk not in wanted:
                raise ModelLoadError(
                    f"{name} has shape {in_memory} in memory and {on_disk} on disk ({stored}); "
                    f"{ADVICE}"
                )

    def _read(self, name: str, like: Tensor) -> Tensor:
        """Return a parameter in the shape and data type of `like`, in main memory."""
        names = self._names(name)
        # New memory: the mapped file may change, and products depend on memory alignment.
        found = torch.empty(like.shape, dtype=like.dtype)

        def tensor(tensors: Any, name: str) -> Tensor:
            if name in self._packed.matrices:
                return self._packed.read(name, like.dtype)
            return _tensor(tensors, name)

        for row, part in zip(found.view(len(names), -1), self._each(names, tensor), strict=True):
            row.copy_(part.reshape(-1))
        return found

    def _shape(self, tensors: Any, name: str) -> tuple[int, ...]:
        packed = self._packed.matrices.get(name)
        return _shape(tensors, name) if packed is None else packed.shape

    def _names(self, name: str) -> list[str]:
        """Return a parameter's names in the files: the one it was loaded from, or the network's."""
        ways = [names for names in (self._places.get(name), [name]) if names is not None]
        for names in ways:
            found = [self._in_files(part) for part in names]
            if all(found):
                return [part for part in found if part is not None]
        missing = next(part for part in ways[0] if self._in_files(part) is None)
        raise ModelLoadError(f"the checkpoint has no tensor {missing}; {ADVICE}")

    def _in_files(self, name: str) -> str | None:
        # A checkpoint of the bare decoder lacks the prefix present in the network with a head.
        names = (name, name.removeprefix(self._prefix))
        return next((known for known in names if known in self._files), None)

    def _each(self, names: Sequence[str], read: Callable[[Any, str], T]) -> Iterator[T]:
        """Apply `read` to an open file and each name; consecutive names share an open file."""
        for path, neighbours in groupby(names, key=self._files.__getitem__):
            with _reading(path), safe_open(path, framework="pt") as tensors:
                for name in neighbours:
                    yield read(tensors, name)


def _shape(tensors: Any, name: str) -> tuple[int, ...]:
    return tuple(tensors.get_slice(name).get_shape())


def _tensor(tensors: Any, name: str) -> Tensor:
    found: Tensor = tensors.get_tensor(name)
    return found


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, SafetensorError) as error:
        raise ModelLoadError(f"cannot read {path} from disk: {error}; {ADVICE}") from error


def _parameters(writer: StreamWriter) -> Iterator[tuple[str, Tensor]]:
    """Yield a writer's parameters as stored by the network, by name: weight, then bias."""
    yield writer.parameter_name, writer.weight.mT if writer.transposed else writer.weight
    if writer.bias_name is not None and writer.bias is not None:
        yield writer.bias_name, writer.bias


def tensor_files(folder: Path) -> dict[str, Path]:
    """Return the file of each tensor of a checkpoint, sharded or not.

    Raises:
        ModelLoadError: there are no safetensors files, or one is damaged.
    """
    single, index = folder / WEIGHTS, folder / INDEX  # in the order of transformers
    found: dict[str, Path] = {}
    try:
        if index.is_file() and not single.is_file():
            return {name: folder / file for name, file in weight_map(index).items()}
        for path in [single] if single.is_file() else sorted(folder.glob("*.safetensors")):
            with safe_open(path, framework="pt") as tensors:
                found.update(dict.fromkeys(tensors.keys(), path))
    except (OSError, SafetensorError) as error:
        raise ModelLoadError(f"cannot read the files of {folder}: {error}; {ADVICE}") from error
    if not found:
        raise ModelLoadError(f"{folder} has no safetensors files; {ADVICE}")
    return found
