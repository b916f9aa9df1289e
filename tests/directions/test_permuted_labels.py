"""Directions of shuffled labels: found alike, and not where the real ones are."""

import logging
from dataclasses import replace

import pytest
import torch
from clouds import options_of, sets_of, states

from heretic.console import log
from heretic.directions import extract_directions, shuffled_label_directions

SETS = sets_of(good=states(40, 0), bad=states(40, 1, shift=4.0))
REAL = extract_directions(SETS, options_of()).refusal_directions


def cosines(seed: int) -> torch.Tensor:
    """With the real direction, of each layer."""
    found = shuffled_label_directions(SETS, options_of(seed=seed), -1)
    assert found is not None
    return (found[1:, 0] * REAL[1:]).sum(-1).abs()


def test_they_are_of_their_seed_and_miss_what_tells_bad_from_good() -> None:
    """The real direction holds most of the variance, so that a careless deal would find it."""
    assert torch.stack([cosines(seed) for seed in range(20)]).mean() < 0.3
    assert cosines(3).equal(cosines(3))
    assert not cosines(3).equal(cosines(4))


@pytest.mark.parametrize("method", ["mean_difference", "contrastive_pca", "probe"])
def test_method_number_and_protection_are_the_same(method: str) -> None:
    count = 1 if method == "mean_difference" else 2
    plain = states(18, 12, shift=-2.0)
    options = options_of(direction_method=method, n_directions=count, orthogonalize_to_good=True)
    found = shuffled_label_directions(sets_of(unhelpfulness=plain), options, -1)
    assert found is not None
    assert found.shape == (5, count, 12)
    assert found.dtype == torch.float32
    assert (found[1:] @ found[1:].mT - torch.eye(count)).abs().max() < 1e-5


def test_they_are_found_at_the_position_of_the_real_ones() -> None:
    first, last = SETS, sets_of(good=states(40, 5), bad=states(40, 6, shift=4.0))
    both = sets_of(
        **{name: torch.stack([getattr(first, name), getattr(last, name)], 1)
           for name in ("good", "bad", "held_out_good", "held_out_bad")}
    )  # fmt: skip
    for position, alone in ((-2, first), (-1, last)):
        found = shuffled_label_directions(both, options_of(), position)
        wanted = shuffled_label_directions(alone, options_of(), -1)
        assert found is not None
        assert wanted is not None
        assert found.equal(wanted)


def test_a_deal_that_leaves_no_direction_is_replaced(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log, "propagate", True)
    caplog.set_level(logging.INFO, logger="heretic")
    loose = options_of(orthogonalize_to_good=True)
    first = shuffled_label_directions(SETS, loose, -1)
    # The first deal of this seed leaves 0.87 of a layer's direction, the second 0.99.
    second = shuffled_label_directions(SETS, replace(loose, min_remaining_norm=0.95), -1)
    assert first is not None
    assert second is not None
    assert not second.equal(first)
    assert caplog.text.count("Reshuffling labels: after layer") == 1


def test_where_nothing_is_left_there_is_no_such_control(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log, "propagate", True)
    same = states(1, 0).expand(20, 5, 12)
    assert shuffled_label_directions(sets_of(good=same, bad=same), options_of(), -1) is None
    assert "Skipped the shuffled-labels control" in caplog.text
