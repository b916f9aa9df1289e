"""The chance band holds what chance gives, and nothing that is there."""

import pytest
import torch
from clouds import options_of, sets_of, states
from sklearn.metrics import roc_auc_score
from torch import Tensor

from heretic.ablation.linalg import normalize
from heretic.directions import ResidualSets, extract_directions
from heretic.directions.separation import (
    _auroc_of_ranks,
    best_position,
    evaluate_separation,
    permutation_band,
)


def noise(seed: int, n: int = 24, positions: int = 1, layers: int = 6) -> ResidualSets:
    """Sets that do not differ, with neighbouring layers alike."""
    generator = torch.Generator().manual_seed(seed)

    def draw() -> Tensor:
        steps = torch.randn(n, positions, layers + 1, 16, generator=generator)
        return steps.cumsum(2) if positions > 1 else steps.cumsum(2)[:, 0]

    return ResidualSets(draw(), draw(), draw(), draw())


@pytest.mark.parametrize("positions", [1, 4])
def test_nothing_is_found_in_noise_19_times_of_20(positions: int) -> None:
    """Over all layers, and after the best of several positions was chosen."""
    found = 0
    for seed in range(40):
        sets = noise(seed, positions=positions)
        band = permutation_band(sets, seed)
        chosen = sets.at(best_position(sets))
        rows = normalize(chosen.bad.mean(0) - chosen.good.mean(0))
        separation = evaluate_separation(chosen, rows, rows, band, seed)
        found += bool(separation.discriminative[1:].any())
    assert found <= 5  # 97.5% of 40 are 39; six would be a chance of one in a thousand


def test_controls_of_sets_in_one_order_are_not_related() -> None:
    # Ten subjects, in the same order in every set: prompts of one place resemble each other.
    outside = 0
    for seed in range(30):
        generator = torch.Generator().manual_seed(seed)
        subjects = 3 * torch.randn(10, 1, 2, 16, generator=generator)

        def draw(subjects: Tensor = subjects, generator: torch.Generator = generator) -> Tensor:
            own = torch.randn(10, 4, 2, 16, generator=generator)
            return (subjects + own).flatten(0, 1)

        sets = ResidualSets(draw(), draw(), draw(), draw())
        found = extract_directions(sets, options_of(seed=seed)).separation
        outside += not found.chance[0] <= found.control_auroc[1] <= found.chance[1]
    assert outside <= 5


def test_the_band_is_narrow_enough_for_what_is_there() -> None:
    sets = sets_of(held_out_good=states(60, 2), held_out_bad=states(60, 3, shift=1.0))
    result = extract_directions(sets, options_of())
    assert result.separation.discriminative.tolist() == [0, 1, 1, 1, 1]
    low, high = result.separation.chance
    assert 0.25 < low < 0.42
    assert 0.58 < high < 0.75


def test_many_prompts_narrow_it_and_a_few_tell_nothing() -> None:
    assert permutation_band(noise(0, n=400), 0)[1] < permutation_band(noise(0, n=24), 0)[1] < 0.9
    assert permutation_band(noise(0, n=2), 0) == (0.0, 1.0)


def test_it_depends_on_the_seed_alone() -> None:
    once = permutation_band(noise(0), 4)
    torch.manual_seed(99)
    assert permutation_band(noise(0), 4) == once
    assert permutation_band(noise(0), 5) != once


def test_ranks_give_the_auroc() -> None:
    scores = torch.randn(30, 5, generator=torch.Generator().manual_seed(0))
    positive = torch.rand(30, 5, generator=torch.Generator().manual_seed(1)) < 0.4
    wanted = [
        roc_auc_score(labels, column)
        for labels, column in zip(positive.T.numpy(), scores.T.numpy(), strict=True)
    ]
    assert _auroc_of_ranks(scores, positive).tolist() == pytest.approx(wanted)
