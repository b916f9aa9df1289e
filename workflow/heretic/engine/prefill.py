"""Batches of prompts, and passes over them that start at the first changed layer."""

from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import takewhile

import torch
from torch import Tensor, nn
from transformers import DynamicCache

from heretic.engine.kv_cache import (
    KeyValues,
    empty_cache,
    make_cache,
    of_batch,
    read_key_values,
)
from heretic.model.decoding import cached_logits, pad_left
from heretic.model.loading import Model

# Fixed cost of a pass, in tokens: an accelerator reads all weights once. So does a CPU, in the time
# of fewer tokens, and calling a layer's modules takes the time of PARAMETERS_OF_CALLS products.
ON_AN_ACCELERATOR, ON_A_CPU, PARAMETERS_OF_CALLS = 128, 40, 12e6
MOST_TOKENS_OF_A_PASS = 256


@dataclass(frozen=True)
class PromptBatch:
    """Prompts that are prefilled together.

    Attributes:
        indices: indices of the prompts among all encoded ones.
        inputs: token ids [batch, tokens] without the shared prefix, padded on the left.
        mask: 1 where there is a token [batch, prefix + tokens].
        positions: positions of the inputs in their prompts [batch, tokens].
    """

    indices: tuple[int, ...]
    inputs: Tensor
    mask: Tensor
    positions: Tensor

    def __len__(self) -> int:
        return len(self.indices)

    @property
    def n_cached(self) -> int:
        """Number of prefix tokens, whose keys and values already exist."""
        return self.mask.shape[1] - self.inputs.shape[1]

    def rows(self, first: int, last: int) -> "PromptBatch":
        """Return the rows from `first` to `last` (exclusive), in the same columns."""
        part = slice(first, last)
        return PromptBatch(
            self.indices[part], self.inputs[part], self.mask[part], self.positions[part]
        )

    def shifted(self, by: int) -> "PromptBatch":
        """Return the same batch with its indices increased by `by`."""
        return replace(self, indices=tuple(index + by for index in self.indices))


def tokens_of_a_pass(model: Model) -> int:
    """Return the fixed cost of a pass in tokens; always the same for a given model.

    The values are those of common chips rather than measurements, which would make batches, and
    with them the last bits of all scores, vary between runs.
    """
    if model.device.type != "cpu":
        return min(ON_AN_ACCELERATOR, MOST_TOKENS_OF_A_PASS)
    calls = model.anatomy.n_layers * PARAMETERS_OF_CALLS / model.network.num_parameters()
    return min(round(ON_A_CPU + calls), MOST_TOKENS_OF_A_PASS)


def shared_prefix(ids: Sequence[Sequence[int]], cost_of_a_pass: int) -> int:
    """Return the number of tokens shared at the start of all prompts, less than the shortest has.

    0 if sharing them would save less than the additional pass, whose cost is in tokens.
    """
    columns = zip(*(row[:-1] for row in ids), strict=False)
    length = sum(1 for _ in takewhile(lambda column: len(set(column)) == 1, columns))
    return length if length * (len(ids) - 1) > cost_of_a_pass else 0


def batches_by_length(lengths: Sequence[int], largest: int, cost_of_a_pass: int) -> list[list[int]]:
    """Return indices in batches of similar lengths, the longest first, to minimize cost.

    A pass costs its padded tokens and `cost_of_a_pass`. The division of prompts in order of length
    with the lowest total cost is found by dynamic programming.

    Args:
        lengths: number of tokens of each prompt.
        largest: maximum number of prompts in a batch.
        cost_of_a_pass: fixed cost of a pass, in tokens.
    """
    order = sorted(range(len(lengths)), key=lambda index: -lengths[index])
    # Equal lengths stay together unless they exceed the maximum.
    cuts = [
        cut
        for cut in range(1, len(order))
        if len(order) > largest or lengths[order[cut]] < lengths[order[cut - 1]]
    ]
    costs, starts, within = {0: 0}, {0: 0}, deque([0])
    for end in [*cuts, len(order)] if order else []:
        while end - within[0] > largest:
            within.popleft()
        options = [
            (costs[start] + cost_of_a_pass + (end - start) * lengths[order[start]], start)
            for start in within
        ]
        costs[end], starts[end] = min(options)
        within.append(end)
    batches, end = [], len(order)
    while end > 0:
        batches.append(order[starts[end] : end])
        end = starts[end]
    return batches[::-1]


def prefix_batch(ids: Sequence[Sequence[int]], length: int, model: Model) -> PromptBatch:
    """Return the shared prefix as a batch of one, whose index has no meaning."""
    return _batch([0], [ids[0][:length]], 0, model)


def prompt_batches(
    ids: Sequence[Sequence[int]],
    prefix: int,
    largest: int,
    model: Model,
    cost_of_a_pass: int,
) -> list[PromptBatch]:
    """Return prompts in batches of similar lengths, without the first `prefix` tokens of each."""
    rests = [row[prefix:] for row in ids]
    return [
        _batch(indices, [rests[index] for index in indices], prefix, model)
        for indices in batches_by_length([len(rest) for rest in rests], largest, cost_of_a_pass)
    ]


def _batch(
    indices: Sequence[int], rows: Sequence[Sequence[int]], prefix: int, model: Model
) -> PromptBatch:
    inputs, mask = pad_left(rows, model)
    positions = (mask.cumsum(-1) - 1).clamp(min=0) + prefix
    cached = torch.ones(len(rows), prefix, dtype=mask.dtype, device=mask.device)
    return PromptBatch(tuple(indices), inputs, torch.cat([cached, mask], dim=1), positions)


@dataclass(frozen=True)
class ResumePoint:
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
    model: Model,
    batch: PromptBatch,
    prefix: KeyValues | None = None,
    start: ResumePoint | None = None,
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


def _completed(cache: DynamicCache, start: ResumePoint, n_cached: int) -> DynamicCache:
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
def starting(layers: Sequence[nn.Module], start: ResumePoint | None) -> Iterator[None]:
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
