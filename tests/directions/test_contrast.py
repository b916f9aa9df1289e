"""Directions against naive references in float64."""

from typing import Literal

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from heretic.directions.contrast import contrastive_pca, mean_difference

torch.set_num_threads(1)
Center = Literal["good", "class"]


def cloud(n: int, layers: int, d: int, seed: int, shift: float = 0.0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    points = torch.randn(n, layers, d, dtype=torch.float64, generator=generator)
    return points * torch.linspace(2, 0.5, d) + shift


def dense_contrast(bad: Tensor, good: Tensor, alpha: float, center: Center) -> Tensor:
    """C_bad - alpha C_good [d, d] of one layer, as it is written down."""
    good_mean = good.mean(0)
    about = good_mean if center == "good" else bad.mean(0)
    c_bad = (bad - about).T @ (bad - about) / len(bad)
    c_good = (good - good_mean).T @ (good - good_mean) / len(good)
    return c_bad - alpha * c_good


@settings(max_examples=60, deadline=None)
@given(
    n_bad=st.integers(3, 14),
    n_good=st.integers(2, 14),
    d=st.integers(2, 40),
    alpha=st.floats(0, 5),
    center=st.sampled_from(["good", "class"]),
    seed=st.integers(0, 10_000),
)
def test_contrastive_pca_is_the_dense_top_eigenvector(
    n_bad: int, n_good: int, d: int, alpha: float, center: Center, seed: int
) -> None:
    bad, good = cloud(n_bad, 2, d, seed, shift=0.3), cloud(n_good, 2, d, seed + 1)
    found = contrastive_pca(bad, good, alpha, center)
    for layer in range(2):
        dense = dense_contrast(bad[:, layer], good[:, layer], alpha, center)
        values, vectors = torch.linalg.eigh(dense)
        direction = found[layer]
        assert direction.norm().item() == pytest.approx(1, abs=1e-10)
        # What makes it the top eigenvector, however close the next one is.
        assert (direction @ dense @ direction - values[-1]).abs() <= 1e-10 * values.abs().max()
        gap = (values[-1] - values[-2]) / values.abs().max() if d > 1 else 1.0
        if gap > 1e-3:
            aligned = vectors[:, -1] * torch.sign(vectors[:, -1] @ direction)
            assert (direction - aligned).abs().max() < 1e-10


@pytest.mark.parametrize("shape", [(6, 5, 40), (30, 25, 8)])
@pytest.mark.parametrize("alpha", [0.0, 1.0, 5.0])
@pytest.mark.parametrize("center", ["good", "class"])
def test_few_and_many_prompts(shape: tuple[int, int, int], alpha: float, center: Center) -> None:
    n_bad, n_good, d = shape
    bad, good = cloud(n_bad, 1, d, 1, shift=1.0), cloud(n_good, 1, d, 2)
    found = contrastive_pca(bad, good, alpha, center)[0]
    dense = dense_contrast(bad[:, 0], good[:, 0], alpha, center)
    vector = torch.linalg.eigh(dense).eigenvectors[:, -1]
    assert (found - vector * torch.sign(vector @ found)).abs().max() < 1e-10


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 1000), center=st.sampled_from(["good", "class"]))
def test_contrastive_pca_points_from_good_to_bad(seed: int, center: Center) -> None:
    bad, good = cloud(12, 3, 6, seed, shift=0.5), cloud(9, 3, 6, seed + 1)
    found = contrastive_pca(bad, good, 1.0, center)
    towards = (found * mean_difference(bad, good)).sum(-1)
    assert (towards > 0).all()
    # The other way round it points the other way, whatever the strength of either cloud.
    back = contrastive_pca(good, bad, 0.0, center)
    assert ((back * mean_difference(bad, good)).sum(-1) < 0).all()


def test_a_far_mean_is_found_when_the_centre_is_good_and_not_when_it_is_the_class() -> None:
    axis = torch.eye(10, dtype=torch.float64)[9]  # where the clouds vary least
    bad, good = cloud(80, 1, 10, 3) + 6 * axis, cloud(80, 1, 10, 4)
    assert float(contrastive_pca(bad, good, 1.0, "good")[0] @ axis) > 0.95
    assert abs(float(contrastive_pca(bad, good, 1.0, "class")[0] @ axis)) < 0.5


def test_mean_difference_is_that() -> None:
    bad = torch.tensor([[[3.0, 0.0]], [[5.0, 2.0]]])
    good = torch.tensor([[[1.0, 1.0]], [[1.0, 3.0]]])
    assert mean_difference(bad, good).tolist() == [[3.0, -1.0]]


def test_sums_are_taken_in_float64() -> None:
    # A float32 sum of these would lose the difference.
    bad = torch.full((1000, 1, 1), 4096.25)
    bad[0] += 1
    good = torch.full((1000, 1, 1), 4096.0)
    assert float(mean_difference(bad, good)) == pytest.approx(0.251, abs=1e-12)


def test_rows_that_do_not_differ_are_exactly_zero() -> None:
    same = torch.randn(1, 1, 8, generator=torch.Generator().manual_seed(0)).expand(7, 1, 8)
    noise = 1e-9 * torch.randn(7, 1, 8, generator=torch.Generator().manual_seed(1))
    good = torch.cat([same, torch.zeros(7, 1, 8)], 1)
    bad = torch.cat([same + noise, torch.ones(7, 1, 8)], 1)
    assert mean_difference(bad, good)[0].tolist() == [0.0] * 8
    found = contrastive_pca(bad, good, 1.0, "good")
    assert found[0].tolist() == [0.0] * 8
    assert found[1].norm().item() == pytest.approx(1)
