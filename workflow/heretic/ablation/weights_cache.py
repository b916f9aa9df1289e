"""Pristine copies of the matrices edited by trials."""

import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from heretic.console import log
from heretic.errors import ModelLoadError, one_line
from heretic.model.batching import is_out_of_memory
from heretic.model.memory import GIGABYTE, CachePlace
from heretic.model.stream_writers.anatomy import Anatomy, StreamWriter
from heretic.model.stream_writers.components import BEFORE_LAYERS, COMPONENTS

PROGRAM_ERROR = "this is a bug, or the model was modified; reload it"
ON_DISK = "cache_weights=false, which re-reads edited matrices from disk"
IN_MAIN_MEMORY = "cache_device=host, which keeps the copies in main memory"


@dataclass(frozen=True)
class OriginalTensors:
    """Original weight [d_model, d_in] and bias [d_model] of one writer, stacked for experts."""

    weight: Tensor
    bias: Tensor | None

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """The weight, and the bias if there is one."""
        return (self.weight,) if self.bias is None else (self.weight, self.bias)


class LayerWeightsCache:
    """Clones of every stream writer's weight and bias, by layer, component and name.

    Norms and the query, key, value and up projections are never edited and not copied; embeddings
    are copied only if they are edited.
    """

    def __init__(
        self,
        anatomy: Anatomy,
        place: CachePlace = "model",
        network: nn.Module | None = None,
    ) -> None:
        """Clone the writers of every layer.

        Args:
            anatomy: writers to clone.
            place: `model` to keep each copy on its original's device, or `host` for main memory,
                pinned if that speeds up transfers to an accelerator.
            network: network whose cached share is logged.

        Raises:
            ModelLoadError: there are no layers, a layer has nothing to edit, a component is in no
                layer, memory runs out, or a tensor cannot be cloned.
        """
        started = time.perf_counter()
        _require_complete(anatomy)
        self.layer_weights_cache: dict[int, dict[str, dict[str, OriginalTensors]]] = {
            layer: {component: {} for component in COMPONENTS} for layer in range(anatomy.n_layers)
        }
        for writer in anatomy.writers:
            cached = self.layer_weights_cache.setdefault(writer.layer, {})
            cached.setdefault(writer.component, {})[writer.name] = _clone(writer, place)
        log.info(
            "Weights cache: %s, made in %.2f s",
            _statistics(self, network),
            time.perf_counter() - started,
        )

    def parts(self) -> Iterator[OriginalTensors]:
        """Return all copies, in order of layer."""
        for by_component in self.layer_weights_cache.values():
            for by_name in by_component.values():
                yield from by_name.values()

    def tensors(self) -> list[Tensor]:
        """Return the copied weights and biases."""
        return [tensor for parts in self.parts() for tensor in parts.tensors]

    @property
    def n_layers(self) -> int:
        """Number of decoder layers."""
        return len(self.layer_weights_cache.keys() - {BEFORE_LAYERS})

    @property
    def bytes(self) -> int:
        """Size of the copies."""
        return sum(tensor.nbytes for tensor in self.tensors())

    def check(self, anatomy: Anatomy) -> None:
        """Reject a model other than the cache's before any weight is modified.

        Raises:
            ModelLoadError: the number of layers, a layer, a component or a shape differs.
        """
        if self.n_layers != anatomy.n_layers:
            raise ModelLoadError(
                f"the weights cache has {self.n_layers} layers, but the model has "
                f"{anatomy.n_layers}; {PROGRAM_ERROR}"
            )
        for writer in anatomy.writers:
            cached = self.pristine(writer)
            for now, then in ((writer.weight, cached.weight), (writer.bias, cached.bias)):
                shape, cached_shape = _shape(now), _shape(then)
                if shape != cached_shape:
                    raise ModelLoadError(
                        f"{writer.name} has shape {shape}, but its cached copy has {cached_shape}; "
                        f"{PROGRAM_ERROR}"
                    )

    def pristine(self, writer: StreamWriter) -> OriginalTensors:
        """Return the copies of one writer.

        Raises:
            ModelLoadError: the cache lacks its layer or its component.
        """
        by_component = self.layer_weights_cache.get(writer.layer)
        if by_component is None:
            raise ModelLoadError(
                f"layer {writer.layer} is missing from the weights cache; {PROGRAM_ERROR}"
            )
        cached = by_component.get(writer.component, {}).get(writer.name)
        if cached is None:
            raise ModelLoadError(
                f"{writer.component} of layer {writer.layer} is missing from the weights cache "
                f"({writer.name}); {PROGRAM_ERROR}"
            )
        return cached


def _require_complete(anatomy: Anatomy) -> None:
    """Reject uneditable models before any memory is allocated."""
    if anatomy.n_layers == 0:
        raise ModelLoadError(
            "the weights cache would be empty: no decoder layers were found; this "
            "architecture is not supported"
        )
    empty = set(range(anatomy.n_layers)) - {writer.layer for writer in anatomy.writers}
    if empty:
        raise ModelLoadError(
            f"layer {min(empty)} has nothing to cache; this architecture is not supported"
        )
    for component in COMPONENTS:
        if not any(writer.component == component for writer in anatomy.writers):
            raise ModelLoadError(
                f"no layer has an {component} to cache; this architecture is not supported"
            )


def _statistics(cache: LayerWeightsCache, network: nn.Module | None) -> str:
    """Describe the bytes, shares, numbers of maps and layers, and location of the copies."""
    tensors = cache.tensors()
    n_bytes, count = _size(tensors)
    size = f"{n_bytes / GIGABYTE:.2f} GB"
    if network is not None:
        all_bytes, all_count = _size(network.parameters())
        size += (
            f" of the model's {all_bytes / GIGABYTE:.2f} GB ({n_bytes / all_bytes:.0%} of its "
            f"bytes, {count / all_count:.0%} of its parameters)"
        )
    maps, layers = (
        sum(1 for _ in cache.parts()),
        len(cache.layer_weights_cache.keys() - {BEFORE_LAYERS}),
    )
    places = sorted({_place(tensor) for tensor in tensors})
    return f"{size}, {maps} maps in {layers} layers, {' and '.join(places)}"


def _size(tensors: Iterable[Tensor]) -> tuple[int, int]:
    """Return the total bytes and number of elements of all tensors."""
    sizes = [(tensor.nbytes, tensor.numel()) for tensor in tensors]
    return sum(n_bytes for n_bytes, _ in sizes), sum(count for _, count in sizes)


def _place(tensor: Tensor) -> str:
    if tensor.device.type != "cpu":
        return f"on {tensor.device}"
    return "in pinned main memory" if tensor.is_pinned() else "in main memory"


def _shape(tensor: Tensor | None) -> tuple[int, ...] | None:
    return None if tensor is None else tuple(tensor.shape)


def _clone(writer: StreamWriter, place: CachePlace) -> OriginalTensors:
    try:
        bias = writer.bias
        return OriginalTensors(
            _copy(writer.weight, place), None if bias is None else _copy(bias, place)
        )
    except (RuntimeError, MemoryError) as error:
        if is_out_of_memory(error):
            advice = ON_DISK if place == "host" else f"{IN_MAIN_MEMORY}, or {ON_DISK}"
            raise ModelLoadError(
                f"insufficient memory to cache {writer.name}; run with {advice}"
            ) from error
        raise ModelLoadError(
            f"cannot clone {writer.name}: {one_line(error)}; run with {ON_DISK}"
        ) from error


def _copy(tensor: Tensor, place: CachePlace) -> Tensor:
    """Return a copy with the same strides."""
    if place == "model":
        return tensor.detach().clone()
    pinned = profits_from_pinning(tensor.device)
    return torch.empty_like(tensor, device="cpu", pin_memory=pinned).copy_(tensor.detach())


def profits_from_pinning(device: torch.device) -> bool:
    """Return whether copies to `device` are faster from pinned memory."""
    return device.type in ("cuda", "xpu")


def copy_back(writer: StreamWriter, parts: OriginalTensors) -> None:
    """Overwrite a writer with its pristine parts, bit for bit.

    Raises:
        ModelLoadError: the copy failed; the model must no longer be used.
    """
    with overwriting(writer), torch.no_grad():
        writer.weight.copy_(parts.weight)
        if writer.bias is not None and parts.bias is not None:
            writer.bias.copy_(parts.bias)


@contextmanager
def overwriting(writer: StreamWriter) -> Iterator[None]:
    """Name the writer in the error if overwriting its weights fails.

    Raises:
        ModelLoadError: the writer may contain neither its old nor its new weights.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        remedy = " with edit_mode=hooks or cache_device=host" * is_out_of_memory(error)
        raise ModelLoadError(
            f"cannot overwrite {writer.name}: {one_line(error)}; the model in memory is no longer "
            f"the original; reload it{remedy}"
        ) from error
