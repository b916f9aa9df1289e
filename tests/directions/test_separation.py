"""Separation of held-out prompts against what chance gives."""

import pytest
import torch
from clouds import options_of, sets_of, states

from heretic.directions import ResidualSets, extract_directions
from heretic.directions.separation import best_position, evaluate_separation, permutation_band


def along_first(layers: int = 5, d: int = 12) -> torch.Tensor:
    rows = torch.zeros(layers, d)
    rows[:, 0] = 1
    return rows


def test_known_separations() -> None:
    bad = torch.tensor([[[3.0, 0]], [[1.0, 0]], [[5.0, 0]]]).expand(3, 2, 2)
    good = torch.tensor([[[0.0, 0]], [[2.0, 0]]]).expand(2, 2, 2)
    rows = torch.tensor([[1.0, 0], [0, 1]])
    sets = ResidualSets(good, bad, good, bad)
    found = evaluate_separation(sets, rows, rows, (0.4, 0.6), seed=0)
    assert found.chance == (0.4, 0.6)
    # Of six pairs one is the wrong way round; nothing differs along the second row.
    assert list(found.auroc) == [pytest.approx(5 / 6), 0.5]
    # Squares about the means: 4 + 0 + 4 and 1 + 1, over three degrees of freedom.
    assert list(found.cohens_d) == [pytest.approx(2 / (10 / 3) ** 0.5), 0.0]


def test_relabelled_prompts_are_judged_by_their_new_labels() -> None:
    # By their true labels any direction with a part along the difference would separate them.
    sets = sets_of(held_out_bad=states(60, 0, shift=9.0), held_out_good=states(60, 1))
    band = permutation_band(sets, seed=3)
    found = evaluate_separation(sets, along_first(), along_first(), band, seed=3)
    assert found.auroc[1:] == (1.0,) * 4
    assert all(band[0] < value < band[1] for value in found.control_auroc)


def test_layers_are_discriminative_above_chance_alone() -> None:
    bad, good = states(40, 0, shift=6.0), states(40, 1)
    bad[:, 2] = states(40, 5)[:, 2]  # alike
    bad[:, 3, 0] -= 12  # the wrong way round
    sets = sets_of(held_out_bad=bad, held_out_good=good)
    found = evaluate_separation(
        sets, along_first(), along_first(), permutation_band(sets, 3), seed=3
    )
    assert found.discriminative.tolist() == [0, 1, 0, 0, 1]


def test_the_position_that_separates_best_is_used_throughout() -> None:
    sets = sets_of()
    by_position = {
        name: torch.stack([-values, values, 0.1 * values + torch.rand(values.shape)], 1)
        for name, values in vars(sets).items()
        if values is not None
    }
    by_position["bad"][:, 0] = by_position["good"][:15, 0]
    several = sets_of(**by_position)
    assert several.n_positions == 3
    assert best_position(several) == -2
    result = extract_directions(several, options_of())
    alone = extract_directions(sets, options_of())
    assert result.position == -2
    assert alone.position == -1
    assert result.refusal_directions.equal(alone.refusal_directions)
    assert result.separation.auroc == alone.separation.auroc
    # Choosing among positions is allowed for.
    assert result.separation.chance[1] >= alone.separation.chance[1]
