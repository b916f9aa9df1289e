"""Pristine copies of the matrices that trials edit, and only of those."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from heretic.console import log
from heretic.errors import ModelLoadError
from heretic.model.anatomy import Anatomy, StreamWriter
from heretic.model.batching import is_out_of_memory
from heretic.model.components import COMPONENTS

PROGRAM_ERROR = "this is a defect of the program or the model was changed meanwhile; load it again"


@dataclass(frozen=True)
class PristineParts:
    """Original weight [d_model, d_in] and bias [d_model] of one writer, stacked for experts."""

    weight: Tensor
    bias: Tensor | None


class LayerWeightsCache:
    """Clones of every stream writer's weight and bias, by layer and component.

    Embeddings, norms, query, key, value and up projections are never edited and not copied.
    """

    def __init__(self, anatomy: Anatomy) -> None:
        """Clone the writers of every layer.

        Raises:
            ModelLoadError: there are no layers, a layer has nothing to edit, a component is in no
                layer, memory runs out, or a tensor cannot be cloned.
        """
        self.layer_weights_cache: dict[int, dict[str, list[PristineParts]]] = {}
        if anatomy.n_layers == 0:
            raise ModelLoadError(
                "the weights cache would be empty: no decoder layers were found; this "
                "architecture is not supported"
            )
        for layer in range(anatomy.n_layers):
            by_component = anatomy.of_layer(layer)
            if not any(by_component.values()):
                raise ModelLoadError(
                    f"layer {layer} has nothing to cache; this architecture is not supported"
                )
            self.layer_weights_cache[layer] = {
                component: [_clone(writer) for writer in by_component[component]]
                for component in COMPONENTS
            }
        for component in COMPONENTS:
            if not any(cached[component] for cached in self.layer_weights_cache.values()):
                raise ModelLoadError(
                    f"no layer has an {component} to cache; this architecture is not supported"
                )
        log.info("Weights cache: %.2f GB in %d layers", self.bytes / 1e9, anatomy.n_layers)

    @property
    def bytes(self) -> int:
        """Size of the copies."""
        return sum(
            part.nbytes
            for by_component in self.layer_weights_cache.values()
            for copies in by_component.values()
            for parts in copies
            for part in (parts.weight, parts.bias)
            if part is not None
        )

    def check(self, anatomy: Anatomy) -> None:
        """Refuse a model that the cache was not made of, before any weight is touched.

        Raises:
            ModelLoadError: the number of layers, a layer, a component or a shape differs.
        """
        if len(self.layer_weights_cache) != anatomy.n_layers:
            raise ModelLoadError(
                f"the weights cache has {len(self.layer_weights_cache)} layers, the model "
                f"{anatomy.n_layers}; {PROGRAM_ERROR}"
            )
        for writer in anatomy.writers:
            cached = self.pristine(writer, anatomy)
            for now, then in ((writer.weight, cached.weight), (writer.bias, cached.bias)):
                shape, cached_shape = _shape(now), _shape(then)
                if shape != cached_shape:
                    raise ModelLoadError(
                        f"{writer.name} has shape {shape}, its cached copy {cached_shape}; "
                        f"{PROGRAM_ERROR}"
                    )

    def pristine(self, writer: StreamWriter, anatomy: Anatomy) -> PristineParts:
        """The copies of one writer.

        Raises:
            ModelLoadError: the cache lacks its layer or its component.
        """
        by_component = self.layer_weights_cache.get(writer.layer)
        if by_component is None:
            raise ModelLoadError(
                f"layer {writer.layer} is missing from the weights cache; {PROGRAM_ERROR}"
            )
        copies = by_component.get(writer.component, [])
        position = _position(anatomy.of_layer(writer.layer), writer)
        if position >= len(copies):
            raise ModelLoadError(
                f"{writer.component} of layer {writer.layer} is missing from the weights cache; "
                f"{PROGRAM_ERROR}"
            )
        return copies[position]


def _shape(tensor: Tensor | None) -> tuple[int, ...] | None:
    return None if tensor is None else tuple(tensor.shape)


def _position(by_component: Mapping[str, list[StreamWriter]], writer: StreamWriter) -> int:
    names = [other.name for other in by_component[writer.component]]
    return names.index(writer.name)


def _clone(writer: StreamWriter) -> PristineParts:
    try:
        bias = writer.bias
        return PristineParts(
            writer.weight.detach().clone(), None if bias is None else bias.detach().clone()
        )
    except (RuntimeError, MemoryError) as error:
        if is_out_of_memory(error):
            raise ModelLoadError(
                f"insufficient memory to cache {writer.name}; run with cache_weights=false, "
                "which re-reads edited matrices from disk"
            ) from error
        raise ModelLoadError(
            f"cannot clone {writer.name}: {error}; run with cache_weights=false"
        ) from error


def copy_back(writer: StreamWriter, parts: PristineParts) -> None:
    """Overwrite a writer with its pristine parts, bit for bit.

    Raises:
        ModelLoadError: the copy failed; the model must not be used any more.
    """
    with overwriting(writer), torch.no_grad():
        writer.weight.copy_(parts.weight)
        if writer.bias is not None and parts.bias is not None:
            writer.bias.copy_(parts.bias)


@contextmanager
def overwriting(writer: StreamWriter) -> Iterator[None]:
    """Name the writer whose weights were being overwritten when that failed.

    Raises:
        ModelLoadError: the writer may hold neither its old nor its new weights.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        raise ModelLoadError(
            f"cannot overwrite {writer.name}: {error}; the model in memory is no longer the "
            "original, load it again"
        ) from error
