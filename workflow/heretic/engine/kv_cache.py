"""Keys and values of some rows of tokens, as plain tensors and as transformers' cache.

Every layer keeps all of its keys, including layers that attend only to a window: their masks hide
the others, and rows can be removed and combined.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

# Keys and values [batch, heads, tokens, head] by layer; None for a layer without any.
KeyValues = list[tuple[Tensor, Tensor] | None]

# Room for new tokens reserved whenever keys and values are copied to larger tensors.
ROOM = 32


class PreallocatedLayer(DynamicLayer):  # type: ignore[no-untyped-call]
    """Keys and values with reserved room, so that not all are copied for each new token."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._places: tuple[Tensor, Tensor] | None = None

    def hold(self, keys: Tensor, values: Tensor, tokens: int | None) -> None:
        """Initialize with these [batch, heads, tokens, head], as in `make_cache`."""
        self.lazy_initialization(keys, values)
        if tokens is not None:
            self._places = keys, values
        self.keys, self.values = keys[:, :, :tokens], values[:, :, :tokens]

    def update(
        self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any
    ) -> tuple[Tensor, Tensor]:
        """Add the new tokens' keys and values [batch, heads, tokens, head]; return all."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
            self.keys, self.values = key_states[:, :, :0], value_states[:, :, :0]
        known: Any = (self.keys, self.values)
        length = known[0].shape[2]
        end = length + key_states.shape[2]
        if self._places is None or self._places[0].shape[2] < end:
            self._places = _with_room(known[0], end), _with_room(known[1], end)
        keys, values = self._places
        keys[:, :, length:end] = key_states
        values[:, :, length:end] = value_states
        self.keys, self.values = keys[:, :, :end], values[:, :, :end]
        return self.keys, self.values


def _with_room(part: Tensor, tokens: int) -> Tensor:
    place = _empty(part, len(part), tokens)
    place[:, :, : part.shape[2]] = part
    return place


def empty_cache() -> DynamicCache:
    """Return a cache of layers with reserved room, one for each layer that uses it."""
    cache = DynamicCache()
    cache.layer_class_to_replicate = PreallocatedLayer
    return cache


def make_cache(parts: KeyValues, tokens: int | None = None) -> DynamicCache:
    """Return a cache that begins with these keys and values, which it does not overwrite.

    If `tokens` is given, it begins with that many tokens, and uses the room behind them.
    """
    cache = empty_cache()
    for part in parts:
        layer = PreallocatedLayer()
        if part is not None:
            layer.hold(*part, tokens)
        cache.layers.append(layer)
    return cache


def read_key_values(cache: DynamicCache, first: int = 0) -> KeyValues:
    """Return a cache's contents from token `first` on, as views."""
    layers: Sequence[Any] = cache.layers
    return [
        (layer.keys[:, :, first:], layer.values[:, :, first:]) if layer.is_initialized else None
        for layer in layers
    ]


def of_batch(parts: KeyValues, batch: int) -> KeyValues:
    """Return keys and values of a single row, expanded to `batch` rows."""
    return each_part(parts, lambda part: part.expand(batch, -1, -1, -1))


def crop(cache: DynamicCache, tokens: int) -> None:
    """Discard all but the first tokens."""
    layers: Sequence[Any] = cache.layers
    for layer in layers:
        if layer.is_initialized:
            layer.keys, layer.values = layer.keys[:, :, :tokens], layer.values[:, :, :tokens]


def select_rows(cache: DynamicCache, rows: Tensor, first: int = 0) -> DynamicCache:
    """Return some rows of a cache, in the order of their indices [n], from token `first` on."""
    parts = read_key_values(cache, first)
    tokens = _length(parts)

    def select(part: Tensor) -> Tensor:
        place = _empty(part, len(rows), tokens)
        torch.index_select(part, 0, rows.to(part.device), out=place[:, :, :tokens])
        return place

    return make_cache(each_part(parts, select), tokens)


def join_rows(caches: Sequence[DynamicCache]) -> DynamicCache:
    """Return the rows of several caches; narrower ones are padded on the left, to be masked."""
    all_parts = [read_key_values(cache) for cache in caches]
    width = max(map(_length, all_parts))
    joined: KeyValues = []
    for layer in zip(*all_parts, strict=True):
        parts = [part for part in layer if part is not None]
        keys, values = zip(*parts, strict=True) if parts else ((), ())
        joined.append((_stack(keys, width), _stack(values, width)) if parts else None)
    return make_cache(joined, width)


def each_part(parts: KeyValues, change: Callable[[Tensor], Tensor]) -> KeyValues:
    """Return keys and values of all layers after applying `change` to each."""
    return [None if part is None else (change(part[0]), change(part[1])) for part in parts]


def _length(parts: KeyValues) -> int:
    return max((part[0].shape[2] for part in parts if part is not None), default=0)


def _empty(like: Tensor, rows: int, tokens: int) -> Tensor:
    """Return an uninitialized tensor for the given rows and tokens and for further tokens."""
    return like.new_empty(rows, like.shape[1], tokens + ROOM, like.shape[3])


def _stack(parts: Sequence[Tensor], width: int) -> Tensor:
    """Return all rows in one tensor, narrower ones with zeros before them."""
    place, row = _empty(parts[0], sum(map(len, parts)), width), 0
    for part in parts:
        rows, before = slice(row, row + len(part)), width - part.shape[2]
        place[rows, :, :before] = 0
        place[rows, :, before:width] = part
        row += len(part)
    return place
