"""Prompts as tensors shared by all trials: tokenized, sorted and padded once."""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import takewhile

import torch
from torch import Tensor

from heretic.model.decoding import pad_left
from heretic.model.loading import Model

# What a pass costs beside its tokens, in tokens: an accelerator reads all weights once. So does a
# CPU, in the time of fewer tokens, and calls the modules of each layer in that of so many products.
ON_AN_ACCELERATOR, ON_A_CPU, PARAMETERS_OF_CALLS = 128, 40, 12e6
MOST_TOKENS_OF_A_PASS = 256


@dataclass(frozen=True)
class PromptBatch:
    """Prompts that are prefilled together.

    Attributes:
        indices: of the prompts among those that were encoded.
        inputs: token ids [batch, tokens] without the shared prefix, padded on the left.
        mask: 1 where there is a token [batch, prefix + tokens].
        positions: of the inputs in their prompts [batch, tokens].
    """

    indices: tuple[int, ...]
    inputs: Tensor
    mask: Tensor
    positions: Tensor

    def __len__(self) -> int:
        return len(self.indices)

    @property
    def n_cached(self) -> int:
        """Tokens of the prefix, of which keys and values are there already."""
        return self.mask.shape[1] - self.inputs.shape[1]

    def rows(self, first: int, last: int) -> "PromptBatch":
        """Return the rows from `first` to `last` (exclusive), in the same columns."""
        part = slice(first, last)
        return PromptBatch(
            self.indices[part], self.inputs[part], self.mask[part], self.positions[part]
        )

    def shifted(self, by: int) -> "PromptBatch":
        """Return the same batch with other indices."""
        return replace(self, indices=tuple(index + by for index in self.indices))


def tokens_of_a_pass(model: Model) -> int:
    """Return the fixed cost of a pass in tokens; the same for a model wherever it is called.

    The figures are those of common chips, not measured here: batches, and with them the last bits
    of all scores, would differ from run to run.
    """
    if model.device.type != "cpu":
        return min(ON_AN_ACCELERATOR, MOST_TOKENS_OF_A_PASS)
    calls = model.anatomy.n_layers * PARAMETERS_OF_CALLS / model.network.num_parameters()
    return min(round(ON_A_CPU + calls), MOST_TOKENS_OF_A_PASS)


def shared_prefix(ids: Sequence[Sequence[int]], cost_of_a_pass: int) -> int:
    """Return the number of tokens with which all prompts begin, less than the shortest has.

    0 where sharing them would save less than the pass that it takes, whose cost is in tokens.
    """
    columns = zip(*(row[:-1] for row in ids), strict=False)
    length = sum(1 for _ in takewhile(lambda column: len(set(column)) == 1, columns))
    return length if length * (len(ids) - 1) > cost_of_a_pass else 0


def batches_by_length(lengths: Sequence[int], largest: int, cost_of_a_pass: int) -> list[list[int]]:
    """Return indices in batches of similar lengths, the longest first, to minimize cost.

    A pass costs its padded tokens and `cost_of_a_pass`. The batches of prompts in order of
    length that are cheapest in sum are found by dynamic programming.

    Args:
        lengths: tokens of each prompt.
        largest: prompts that a batch may have.
        cost_of_a_pass: beside its tokens, in tokens.
    """
    order = sorted(range(len(lengths)), key=lambda index: -lengths[index])
    # Equal lengths stay together unless there are too many of them.
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
    """Return the shared prefix as a batch of one, of which the index says nothing."""
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
