"""Prompts are put into the batches that cost least, and share what they begin with."""

from itertools import combinations, pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny_models import tiny_model

from heretic.engine.prefill import (
    MOST_TOKENS_OF_A_PASS,
    ON_A_CPU,
    batches_by_length,
    prefix_batch,
    prompt_batches,
    shared_prefix,
    tokens_of_a_pass,
)

COST = 128  # of a pass, in tokens
FEW = st.lists(st.integers(1, 400), min_size=1, max_size=7)


def cost(batches: list[list[int]], lengths: list[int]) -> int:
    widths = [max(lengths[i] for i in batch) for batch in batches]
    return sum(COST + len(b) * w for b, w in zip(batches, widths, strict=True))


@given(FEW, st.integers(1, 7))
def test_no_way_to_cut_the_sorted_prompts_costs_less(lengths: list[int], largest: int) -> None:
    batches = batches_by_length(lengths, largest, COST)
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
def test_prompts_share_what_all_begin_with(ids: list[list[int]], length: int) -> None:
    assert shared_prefix(ids, 0) == length


def test_a_prefix_is_not_shared_where_the_pass_for_it_costs_more() -> None:
    begins = [7] * 10
    assert shared_prefix([[*begins, i] for i in range(COST // 10)], COST) == 0
    assert shared_prefix([[*begins, i] for i in range(COST // 10 + 2)], COST) == 10


def test_a_pass_of_a_larger_network_costs_fewer_tokens_beside_its_own() -> None:
    small, large = tiny_model(num_hidden_layers=2), tiny_model(hidden_size=256)
    assert tokens_of_a_pass(small) == MOST_TOKENS_OF_A_PASS
    few = tokens_of_a_pass(large)
    assert ON_A_CPU < few < MOST_TOKENS_OF_A_PASS
    assert tokens_of_a_pass(tiny_model(hidden_size=512)) < few


def test_batches_hold_the_rest_of_each_prompt_at_its_positions() -> None:
    model, ids = tiny_model(), [[9, 8, 7, 6], [9, 8, 5]]
    (batch,) = prompt_batches(ids, 2, 8, model, COST)
    assert prefix_batch(ids, 2, model).inputs.tolist() == [[9, 8]]
    assert batch.indices == (0, 1)
    assert batch.n_cached == 2
    assert batch.inputs.tolist() == [[7, 6], [0, 5]]
    assert batch.mask.tolist() == [[1, 1, 1, 1], [1, 1, 0, 1]]
    assert batch.positions[batch.mask[:, 2:].bool()].tolist() == [2, 3, 2]
    assert torch.equal(batch.rows(1, 2).inputs, batch.inputs[1:])
