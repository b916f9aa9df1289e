"""Decoding steps of rows: by the network itself, or compiled with a static KV cache.

A compiled step is compiled once for each number of rows. Few numbers are used: rows are padded to
the next one, and keys and values keep their memory from trial to trial.
"""

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn.functional import pad
from transformers import Cache
from transformers.cache_utils import StaticLayer
from transformers.masking_utils import create_masks_for_generate

from heretic.engine.decode_batch import DecodeBatch
from heretic.engine.kv_cache import KeyValues, make_cache
from heretic.model.decoding import cached_logits
from heretic.model.loading import Model

# Each size is half of the previous one.
N_SIZES = 4
# An accelerator would stall whenever its tokens are read.
STEPS_BETWEEN_READS = 4


def steps_between_reads(device: torch.device) -> int:
    """Return the interval between reads; 1 on a CPU, whose tokens are directly available."""
    return 1 if device.type == "cpu" else STEPS_BETWEEN_READS


class StepRunner(Protocol):
    """Executor of decoding steps."""

    @property
    def between_reads(self) -> int:
        """Number of steps after which new tokens are read from the device."""

    @property
    def share_worth_taking_out(self) -> float:
        """Share of rows that must be done before the others continue without them."""

    def n_computed(self, rows: DecodeBatch) -> int:
        """Return the number of computed rows, including padding rows, which repeat the last one."""

    def begin(self, rows: DecodeBatch) -> None:
        """Prepare for these rows."""

    def step(self, rows: DecodeBatch) -> Tensor:
        """Run a step like `Rows.step`, for the rows of the last `begin`."""

    def end(self, rows: DecodeBatch) -> None:
        """Leave the rows in the same state as `Rows.step`."""


class PlainStepRunner:
    """Steps of the unmodified network."""

    # Removing rows requires a copy of the others.
    share_worth_taking_out = 0.125

    def __init__(self, model: Model) -> None:
        self._model, self.between_reads = model, steps_between_reads(model.device)

    def n_computed(self, rows: DecodeBatch) -> int:
        """Return the number of rows."""
        return len(rows)

    def begin(self, rows: DecodeBatch) -> None:
        """Prepare nothing."""

    def step(self, rows: DecodeBatch) -> Tensor:
        """Process the latest tokens, and take the most likely next ones."""
        return rows.step(self._model)

    def end(self, rows: DecodeBatch) -> None:
        """Release nothing."""


class CompiledStepRunner:
    """Steps of the compiled network on caches whose tensors keep their memory."""

    # The next smaller cache has half as many rows.
    share_worth_taking_out = 0.5

    def __init__(
        self,
        model: Model,
        most_rows: int,
        width: int,
        compile_call: Callable[[Callable[..., Any]], Callable[..., Any]],
    ) -> None:
        """Store the options; compilation happens later.

        Args:
            model: model whose weights and hooks may change between steps, but only in place.
            most_rows: maximum number of concurrent rows.
            width: maximum number of tokens of prompts and answers together, including padding of
                rows that joined later.
            compile_call: compiles a call, like `torch.compile`.
        """
        # A mask without a masked column would be omitted, which requires recompilation.
        self._model, self._width = model, width + STEPS_BETWEEN_READS + 1
        self.between_reads = steps_between_reads(model.device)
        self._sizes: list[int] = sorted(
            {-(-most_rows // 2**halvings) for halvings in range(N_SIZES)}
        )
        self._caches: dict[int, Cache] = {}
        network: Any = model.network
        self._call = compile_call(network.__call__)
        self._cache = Cache(layers=[])

    def n_computed(self, rows: DecodeBatch) -> int:
        """Return the smallest sufficient number of rows for which the step is compiled."""
        sizes: list[int] = [size for size in self._sizes if size >= len(rows)]
        return sizes[0]

    def begin(self, rows: DecodeBatch) -> None:
        """Copy keys and values to their static memory."""
        size = self.n_computed(rows)
        with torch.inference_mode():
            if size not in self._caches:
                self._caches[size] = _places(rows, size, self._width)
            self._cache = self._caches[size]
            _fill(self._cache, rows)

    def step(self, rows: DecodeBatch) -> Tensor:
        """Process the latest tokens, and take the most likely next ones."""
        rows.mask = pad(rows.mask, (0, 1), value=1)
        size = self.n_computed(rows)
        with torch.inference_mode():
            latest, positions = _up_to(rows.latest, size), _up_to(rows.fed, size)
            masks = self._masks(_up_to(rows.mask, size), positions)
            logits = cached_logits(
                self._model, latest, masks, positions, self._cache, 1, self._call
            )
            return rows.take(logits[: len(rows), -1])

    def end(self, rows: DecodeBatch) -> None:
        """Expose keys and values in their static memory."""
        layers: Sequence[Any] = self._cache.layers
        width = rows.mask.shape[1]
        parts: KeyValues = [
            (layer.keys[: len(rows), :, :width], layer.values[: len(rows), :, :width])
            if layer.is_initialized
            else None
            for layer in layers
        ]
        rows.cache = make_cache(parts)

    def _masks(self, mask: Tensor, positions: Tensor) -> Any:
        network: Any = self._model.network
        make = getattr(network, "create_masks_for_generate", create_masks_for_generate)
        masks = make(
            config=network.config,
            inputs_embeds=torch.empty(
                (*positions.shape, 0), dtype=network.dtype, device=positions.device
            ),
            attention_mask=mask,
            past_key_values=self._cache,
            position_ids=positions,
        )
        if isinstance(masks, dict):
            return {name: None if m is None else m.contiguous() for name, m in masks.items()}
        return masks.contiguous()


def _places(rows: DecodeBatch, size: int, width: int) -> Cache:
    """Return an empty cache for `size` rows like these."""
    layers: list[Any] = []
    sources: Sequence[Any] = rows.cache.layers
    for source in sources:
        layer = StaticLayer(max_cache_len=width)
        if source.is_initialized:
            keys, values = (
                part.new_empty(size, part.shape[1], 0, part.shape[3])
                for part in (source.keys, source.values)
            )
            layer.lazy_initialization(keys, values)
        layers.append(layer)
    return Cache(layers=layers)


def _fill(cache: Cache, rows: DecodeBatch) -> None:
    places: Sequence[Any] = cache.layers
    sources: Sequence[Any] = rows.cache.layers
    for place, source in zip(places, sources, strict=True):
        if source.is_initialized:
            length = source.keys.shape[2]
            for there, here in ((place.keys, source.keys), (place.values, source.values)):
                there[: len(rows), :, :length] = here
                # Masked, but an overflowed edit's values would have an effect: 0 * NaN is NaN.
                there[:, :, length:] = 0
            place.cumulative_length.fill_(length)


def _up_to(tensor: Tensor, size: int) -> Tensor:
    """Return a copy extended by repeating the last row, whose results are discarded."""
    return torch.cat([tensor, tensor[-1:].expand(size - len(tensor), -1)])
