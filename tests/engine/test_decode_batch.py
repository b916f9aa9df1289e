"""Rows of keys and values come and go without touching those of others."""

import torch
from torch import Tensor
from torch.testing import assert_close
from transformers import DynamicCache

from heretic.engine.kv_cache import (
    ROOM,
    empty_cache,
    join_rows,
    make_cache,
    read_key_values,
    select_rows,
)

torch.manual_seed(0)


def part(batch: int, tokens: int) -> Tensor:
    return torch.randn(batch, 2, tokens, 4)


def test_a_roomy_layer_is_a_growing_one_of_transformers() -> None:
    mine, theirs = empty_cache(), DynamicCache()
    for tokens in (3, 1, ROOM - 1, 1, 1):
        keys, values = part(2, tokens), part(2, tokens)
        found = mine.update(keys, values, 1)
        assert all(map(torch.equal, found, theirs.update(keys, values, 1)))
        assert mine.get_seq_length(1) == theirs.get_seq_length(1)


def test_what_a_cache_begins_with_is_not_written_over() -> None:
    keys, values = part(1, 3), part(1, 3)
    before = keys.clone()
    cache = make_cache([(keys.expand(4, -1, -1, -1), values.expand(4, -1, -1, -1))])
    cache.update(part(4, 2), part(4, 2), 0)
    assert keys.equal(before)


def test_rows_are_joined_at_their_ends_and_taken_out_again() -> None:
    long, short = make_cache([(part(2, 5), part(2, 5))]), make_cache([(part(3, 2), part(3, 2))])
    joined = join_rows([long, short])
    (all_rows,), (source,) = read_key_values(joined), read_key_values(short)
    assert all_rows is not None
    assert source is not None
    assert_close(all_rows[0][2:, :, -2:], source[0])
    assert all_rows[0][2:, :, :-2].count_nonzero() == 0
    (again,) = read_key_values(select_rows(joined, torch.tensor([4, 2]), 3))
    assert again is not None
    assert_close(again[1], source[1][[2, 0]])


def test_a_layer_without_keys_stays_one() -> None:
    cache = make_cache([None, (part(1, 2), part(1, 2))])
    joined = join_rows([cache, cache])
    assert [part is None for part in read_key_values(joined)] == [True, False]
    _, source = read_key_values(cache)
    for made in (joined, select_rows(cache, torch.tensor([0, 0]))):
        none, both = read_key_values(made)
        assert none is None
        assert source is not None
        assert both is not None
        assert both[0].equal(source[0].expand(2, -1, -1, -1))
