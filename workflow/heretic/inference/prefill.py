"""Passes over prompts that start at the first changed layer."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers import DynamicCache

from heretic.inference.key_values import (
    KeyValues,
    empty_cache,
    make_cache,
    of_batch,
    read_key_values,
)
from heretic.inference.prompt_batches import PromptBatch
from heretic.model.decoding import cached_logits
from heretic.model.loading import Model


@dataclass(frozen=True)
class Start:
    """Data of an earlier pass over the same batch for a pass from a later layer.

    Attributes:
        layer: index of the first computed layer.
        inputs: input of that layer [batch, tokens, d_model].
        key_values: keys and values of the batch's own tokens, for the layers below.
        n_outputs: length of the tuple returned by a layer; 0 if it returns only the states.
    """

    layer: int
    inputs: Tensor
    key_values: KeyValues
    n_outputs: int


@dataclass(frozen=True)
class Prefilled:
    """Result of a pass over a batch.

    Attributes:
        logits: logits of the first response token [batch, vocabulary] in the network's dtype.
        cache: keys and values of prefix and batch.
    """

    logits: Tensor
    cache: DynamicCache


def prefill(
    model: Model, batch: PromptBatch, prefix: KeyValues | None = None, start: Start | None = None
) -> Prefilled:
    """Run one pass over a batch of prompts.

    Args:
        model: model in any state.
        batch: prompts.
        prefix: keys and values of the shared prefix [1, ...], in the model's current state; None if
            the batch has whole prompts.
        start: start of the pass; None for the embeddings. The model's computation before that layer
            must not have changed since.
    """
    cache = empty_cache() if prefix is None else make_cache(of_batch(prefix, len(batch)))
    with torch.inference_mode(), starting(model.get_layers(), start):
        logits = cached_logits(model, batch.inputs, batch.mask, batch.positions, cache, 1)[:, -1]
    if start is not None:
        cache = _completed(cache, start, batch.n_cached)
    return Prefilled(logits, cache)


def _completed(cache: DynamicCache, start: Start, n_cached: int) -> DynamicCache:
    """Add the keys and values of the skipped layers."""
    parts = read_key_values(cache)
    for layer, own in enumerate(start.key_values[: start.layer]):
        if own is not None:
            shared = parts[layer] if n_cached and layer < len(parts) else None
            ahead = ((), ()) if shared is None else ((shared[0],), (shared[1],))
            joined = [torch.cat([*a, o], dim=2) for a, o in zip(ahead, own, strict=True)]
            parts[layer : layer + 1] = [(joined[0], joined[1])]
    return make_cache(parts)


@contextmanager
def starting(layers: Sequence[nn.Module], start: Start | None) -> Iterator[None]:
    """Within the block, skip the layers before `start` and output its input."""
    if start is None:
        yield
        return
    states = start.inputs
    output = (states, *[None] * (start.n_outputs - 1)) if start.n_outputs else states
    skipped = layers[: start.layer]
    own = [layer.__dict__.get("forward") for layer in skipped]
    try:
        for layer in skipped:
            layer.forward = lambda *_, **__: output
        yield
    finally:
        for layer, forward in zip(skipped, own, strict=True):
            if forward is None:
                del layer.forward
            else:
                layer.forward = forward
