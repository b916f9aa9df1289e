"""Prompts are put into the batches that cost least, and share what they begin with."""

from itertools import combinations, pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny_models import tiny_model

from heretic.inference import prompt_batches as module
from heretic.inference.prompt_batches import (
    TOKENS_OF_A_PASS,
    batches_by_length,
    prefix_batch,
    prompt_batches,
    shared_prefix,
)

FEW = st.lists(st.integers(1, 400), min_size=1, max_size=7)


def cost(batches: list[list[int]], lengths: list[int]) -> int:
    widths = [max(lengths[i] for i in batch) for batch in batches]
    return sum(TOKENS_OF_A_PASS + len(b) * w for b, w in zip(batches, widths, strict=True))


@given(FEW, st.integers(1, 7))
def test_no_way_to_cut_the_sorted_prompts_costs_less(lengths: list[int], largest: int) -> None:
    batches = batches_by_length(lengths, largest, TOKENS_OF_A_PASS)
    order = sorted(range(len(lengths)), key=lambda i: -lengths[i])
    assert sorted(i for batch in batches for i in batch) == list(range(len(lengths)))
    assert max(map(len, batches)) <= largest
    for n_cuts in range(len(order)):
        for cuts in combinations(range(1, len(order)), n_cuts):
            ends = [0, *cuts, len(order)]
            other = [order[a:b] for a, b in pairwise(ends)]
            if max(map(len, other)) <= largest:
                assert cost(batches, lengths) <= cost(other, lengths)


@pytest.mark.parametrize(
    ("ids", "length"),
    [
        ([[1, 2, 3, 4], [1, 2, 5], [1, 2, 3]], 2),
        ([[1, 2], [1, 2]], 1),  # a token is left to each
        ([[1, 2], [3, 2]], 0),
        ([[1, 2, 3]], 0),  # nobody to share with
    ],
)
def test_prompts_share_what_all_begin_with(
    ids: list[list[int]], length: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "TOKENS_OF_A_PASS", 0)
    assert shared_prefix(ids) == length


def test_a_prefix_is_not_shared_where_the_pass_for_it_costs_more() -> None:
    begins = [7] * 10
    assert shared_prefix([[*begins, i] for i in range(TOKENS_OF_A_PASS // 10)]) == 0
    assert shared_prefix([[*begins, i] for i in range(TOKENS_OF_A_PASS // 10 + 2)]) == 10


def test_batches_hold_the_rest_of_each_prompt_at_its_positions() -> None:
    model, ids = tiny_model(), [[9, 8, 7, 6], [9, 8, 5]]
    (batch,) = prompt_batches(ids, 2, 8, model)
    assert prefix_batch(ids, 2, model).inputs.tolist() == [[9, 8]]
    assert batch.indices == (0, 1)
    assert batch.n_cached == 2
    assert batch.inputs.tolist() == [[7, 6], [0, 5]]
    assert batch.mask.tolist() == [[1, 1, 1, 1], [1, 1, 0, 1]]
    assert batch.positions[batch.mask[:, 2:].bool()].tolist() == [2, 3, 2]
    assert torch.equal(batch.rows(1, 2).inputs, batch.inputs[1:])
