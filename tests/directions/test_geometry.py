"""The numbers that say whether to trust a direction, on clouds made by hand."""

import math

import pytest
import torch
from torch import Tensor

from heretic.directions.contrast import mean_difference
from heretic.directions.geometry import cross_fitted_auroc, geometry_rows
from heretic.directions.orthogonalize import normalize
from heretic.errors import DirectionError

torch.set_num_threads(1)


def cloud(n: int, seed: int, shift: float = 0.0, d: int = 16) -> Tensor:
    """[n, 2, d]: state 0 is the same everywhere, state 1 a normal cloud."""
    generator = torch.Generator().manual_seed(seed)
    points = torch.randn(n, 2, d, generator=generator)
    points[:, 0] = 1.0
    points[:, 1, 0] += shift
    return points


def test_separated_clouds() -> None:
    bad, good = cloud(60, 0, shift=12.0), cloud(50, 1)
    directions = normalize(mean_difference(bad, good)).float()
    first, second = geometry_rows(bad, good, directions, seed=0)
    assert second["auroc"] == 1.0
    assert second["silhouette"] > 0.5
    assert second["explained_variance"] > 0.6
    assert second["direction_norm"] == pytest.approx(12.0, abs=1.0)
    assert second["cosine_bad_direction"] > 0.99
    # States that cannot differ say nothing, rather than no number.
    assert first["layer"] == 0
    assert first["auroc"] == 0.5
    assert first["silhouette"] == first["explained_variance"] == first["direction_norm"] == 0.0
    assert first["cosine_good_direction"] == 0.0
    assert first["cosine_good_bad"] == pytest.approx(1.0)


def test_alike_clouds_are_at_chance() -> None:
    # Fitted to the prompts that it is measured on, a direction would separate even these.
    aurocs = [
        cross_fitted_auroc(cloud(100, 2 * seed), cloud(100, 2 * seed + 1), seed)[1]
        for seed in range(20)
    ]
    assert sum(aurocs) / len(aurocs) == pytest.approx(0.5, abs=0.05)
    assert all(0.3 < auroc < 0.7 for auroc in aurocs)


def test_the_split_depends_on_the_seed_alone() -> None:
    bad, good = cloud(30, 0, shift=1.0), cloud(30, 1)
    once = cross_fitted_auroc(bad, good, seed=4)
    torch.manual_seed(99)
    assert cross_fitted_auroc(bad, good, seed=4) == once
    assert cross_fitted_auroc(bad, good, seed=5) != once


def test_explained_variance_and_cosines_by_hand() -> None:
    # Four points: variance 4 along x, 1 along y.
    good = torch.tensor([[[0.0, 1.0]], [[0.0, -1.0]]])
    bad = torch.tensor([[[4.0, 1.0]], [[4.0, -1.0]]])
    (row,) = geometry_rows(bad, good, torch.tensor([[1.0, 0.0]]), seed=0)
    assert row["explained_variance"] == pytest.approx(4 / 5)
    assert row["direction_norm"] == row["bad_norm"] == pytest.approx(4.0)
    assert row["good_norm"] == 0.0
    assert row["cosine_bad_direction"] == pytest.approx(1.0)
    # Silhouette of each point: its own side is 2 away, the other side 4 and sqrt(20).
    other = (4 + math.sqrt(20)) / 2
    assert row["silhouette"] == pytest.approx((other - 2) / other)
    (across,) = geometry_rows(bad, good, torch.tensor([[0.0, 1.0]]), seed=0)
    assert across["explained_variance"] == pytest.approx(1 / 5)


def test_two_prompts_a_set_are_enough_for_numbers() -> None:
    rows = geometry_rows(cloud(2, 0), cloud(2, 1), torch.zeros(2, 16), seed=0)
    assert all(math.isfinite(value) for row in rows for value in row.values())
    assert len({tuple(row) for row in rows}) == 1


def test_a_single_prompt_is_refused() -> None:
    with pytest.raises(DirectionError, match="at least 2 prompts"):
        geometry_rows(cloud(1, 0), cloud(9, 1), torch.zeros(2, 16), seed=0)
