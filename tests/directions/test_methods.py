"""Every method against a naive reference in float64, in the full stream."""

from typing import Literal, get_args

import numpy as np
import pytest
import torch
from clouds import cloud, options_of
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression
from torch import Tensor

from heretic.directions import directions_of, subspace
from heretic.directions.methods import mean_difference
from heretic.directions.options import METHODS
from heretic.errors import DirectionError

Center = Literal["good", "class"]
EVERY = [*METHODS, "ensemble"]


def dense_contrast(bad: Tensor, good: Tensor, alpha: float, center: Center) -> Tensor:
    """C_bad - alpha C_good [d, d] of one layer, as it is written down."""
    good_mean = good.mean(0)
    about = good_mean if center == "good" else bad.mean(0)
    c_bad = (bad - about).T @ (bad - about) / len(bad)
    c_good = (good - good_mean).T @ (good - good_mean) / len(good)
    return c_bad - alpha * c_good


def aligned(vector: Tensor, to: Tensor) -> Tensor:
    return vector * torch.sign(vector @ to)


@settings(max_examples=60, deadline=None)
@given(
    n_bad=st.integers(3, 14),
    n_good=st.integers(3, 14),
    d=st.integers(3, 40),
    k=st.integers(1, 3),
    alpha=st.floats(0, 5),
    center=st.sampled_from(get_args(Center)),
    seed=st.integers(0, 10_000),
)
def test_contrastive_pca_is_the_dense_eigendecomposition(
    n_bad: int, n_good: int, d: int, k: int, alpha: float, center: Center, seed: int
) -> None:
    bad, good = cloud(n_bad, 2, d, seed, shift=0.3), cloud(n_good, 2, d, seed + 1)
    options = options_of(
        direction_method="contrastive_pca", n_directions=k, cpca_alpha=alpha, cpca_center=center
    )
    found = directions_of(bad, good, options)
    assert found.shape == (2, k, d)
    for layer in range(2):
        dense = dense_contrast(bad[:, layer], good[:, layer], alpha, center)
        values, vectors = torch.linalg.eigh(dense)
        scale = values.abs().max()
        # The span of the states holds every eigenvector of an eigenvalue above zero.
        for number in range(min(k, int((values > 1e-9 * scale).sum()))):
            direction = found[layer, number]
            assert direction.norm().item() == pytest.approx(1, abs=1e-10)
            # What makes it that eigenvector, however close the next one is.
            wanted = values[-1 - number]
            assert (direction @ dense @ direction - wanted).abs() <= 1e-10 * scale
            gaps = (values - wanted).abs().sort().values[1:2]
            if (gaps > 1e-3 * scale).all():
                vector = aligned(vectors[:, -1 - number], direction)
                assert (direction - vector).abs().max() < 1e-10


@pytest.mark.parametrize("shape", [(6, 5, 40), (30, 25, 8)])
def test_pca_of_pairs_is_the_svd_of_their_differences(shape: tuple[int, int, int]) -> None:
    n_bad, n_good, d = shape
    bad, good = cloud(n_bad, 1, d, 1, shift=1.0), cloud(n_good, 1, d, 2)
    found = directions_of(bad, good, options_of(direction_method="pca", n_directions=3))[0]
    pairs = (bad[:n_good] - good[:n_bad])[:, 0]
    axes = torch.linalg.svd(pairs).Vh
    for number in range(3):
        assert (found[number] - aligned(axes[number], found[number])).abs().max() < 1e-10


def test_the_probe_is_scikit_learns_in_the_stream() -> None:
    bad, good = cloud(25, 1, 60, 1, shift=0.5), cloud(20, 1, 60, 2)
    options = options_of(direction_method="probe", probe_c=0.3)
    found = directions_of(bad, good, options)[0, 0]
    points = torch.cat([bad, good])[:, 0]
    points = (points - points.mean(0)) / (points - points.mean(0)).square().mean().sqrt()
    labels = np.r_[np.ones(25), np.zeros(20)]
    # The small space spans fewer dimensions, over which the mean square is taken.
    ratio = min(45, 60) / 60
    full = LogisticRegression(C=0.3 * ratio, tol=1e-8, max_iter=5000)
    normal = torch.from_numpy(full.fit(points.numpy(), labels).coef_[0])
    assert float(found @ normal / normal.norm()) > 1 - 1e-6


def test_the_penalty_of_the_probe_does_something() -> None:
    bad, good = cloud(25, 1, 30, 1, shift=0.5), cloud(20, 1, 30, 2)
    weak, strong = (
        directions_of(bad, good, options_of(direction_method="probe", probe_c=c))[0, 0]
        for c in (1e-6, 100.0)
    )
    means = mean_difference(bad.transpose(0, 1), good.transpose(0, 1))[0]
    # Under an overwhelming penalty the probe is the difference of means.
    assert float(weak @ means / means.norm()) > 0.999
    assert float(strong @ means / means.norm()) < 0.99


@settings(max_examples=25, deadline=None)
@given(method=st.sampled_from(EVERY), k=st.integers(1, 3), seed=st.integers(0, 1000))
def test_rows_are_orthonormal_and_point_from_good_to_bad(method: str, k: int, seed: int) -> None:
    k = 1 if method == "mean_difference" else k
    bad, good = cloud(12, 2, 9, seed, shift=0.5), cloud(9, 2, 9, seed + 1)
    found = directions_of(bad, good, options_of(direction_method=method, n_directions=k))
    assert found.shape == (2, k, 9)
    assert (found @ found.mT - torch.eye(k)).abs().max() < 1e-9
    difference = mean_difference(bad.transpose(0, 1), good.transpose(0, 1))
    assert ((found * difference[:, None]).sum(-1) > -1e-9).all()
    # The other way round the first points the other way.
    back = directions_of(good, bad, options_of(direction_method=method, n_directions=k))
    assert ((back[:, 0] * difference).sum(-1) < 0).all()


def test_a_far_mean_is_found_when_the_centre_is_good_and_not_when_it_is_the_class() -> None:
    axis = torch.eye(10, dtype=torch.float64)[9]  # where the clouds vary least
    bad, good = cloud(80, 1, 10, 3) + 6 * axis, cloud(80, 1, 10, 4)
    about_good, about_class = (
        directions_of(bad, good, options_of(direction_method="contrastive_pca", cpca_center=c))
        for c in get_args(Center)
    )
    assert float(about_good[0, 0] @ axis) > 0.95
    assert abs(float(about_class[0, 0] @ axis)) < 0.5


def test_mean_difference_is_that() -> None:
    bad = torch.tensor([[[3.0, 0.0]], [[5.0, 2.0]]])
    good = torch.tensor([[[1.0, 1.0]], [[1.0, 3.0]]])
    found = directions_of(bad, good, options_of())
    assert found[0, 0].tolist() == pytest.approx([3 / 10**0.5, -1 / 10**0.5])


def test_sums_are_taken_in_float64() -> None:
    # A float32 sum of these would lose the difference.
    bad = torch.full((1, 1000, 1), 4096.25)
    bad[0, 0] += 1
    good = torch.full((1, 1000, 1), 4096.0)
    assert float(mean_difference(bad, good)) == pytest.approx(0.251, abs=1e-12)


@pytest.mark.parametrize("method", EVERY)
def test_rows_that_do_not_differ_are_exactly_zero(method: str) -> None:
    bad, good = cloud(7, 2, 8, 0, shift=1.0), cloud(7, 2, 8, 1)
    bad[:, 0] = good[:, 0] = good[0, 0]
    found = directions_of(bad, good, options_of(direction_method=method))
    assert found[0].tolist() == [[0.0] * 8]
    assert found[1].norm().item() == pytest.approx(1)


@pytest.mark.parametrize("method", EVERY)
def test_layers_do_not_depend_on_their_neighbours(
    monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    bad, good = cloud(9, 5, 14, 0, shift=0.5), cloud(8, 5, 14, 1)
    options = options_of(direction_method=method)
    together = directions_of(bad, good, options)
    monkeypatch.setattr(subspace, "CHUNK_BYTES", 1)
    assert (directions_of(bad, good, options) - together).abs().max() < 1e-9


def test_an_ensemble_is_the_weighted_mean() -> None:
    bad, good = cloud(12, 3, 20, 0, shift=0.5), cloud(11, 3, 20, 1)
    weights = {"mean_difference": 2.0, "pca": 1.0, "probe": 0.0}
    options = options_of(direction_method="ensemble", ensemble_weights=weights)
    means, axes = (
        directions_of(bad, good, options_of(direction_method=name))
        for name in ("mean_difference", "pca")
    )
    mixed = 2 * means + axes
    found = directions_of(bad, good, options)
    assert (found - mixed / mixed.norm(dim=-1, keepdim=True)).abs().max() < 1e-12
    # Without weights every method takes part.
    rows = [directions_of(bad, good, options_of(direction_method=name)) for name in METHODS]
    mixed = torch.stack(rows).sum(0)
    found = directions_of(bad, good, options_of(direction_method="ensemble"))
    assert (found - mixed / mixed.norm(dim=-1, keepdim=True)).abs().max() < 1e-12


def test_further_directions_of_an_ensemble_lie_in_what_its_methods_span() -> None:
    bad, good = cloud(12, 1, 20, 0, shift=0.5), cloud(11, 1, 20, 1)
    weights = {"mean_difference": 1.0, "contrastive_pca": 1.0}
    options = options_of(direction_method="ensemble", ensemble_weights=weights, n_directions=2)
    found = directions_of(bad, good, options)[0]
    spanned = torch.cat(
        [
            directions_of(bad, good, options_of())[0],
            directions_of(
                bad, good, options_of(direction_method="contrastive_pca", n_directions=2)
            )[0],
        ]
    )
    basis = torch.linalg.qr(spanned.T)[0]
    assert (found - found @ basis @ basis.T).abs().max() < 1e-9


@pytest.mark.parametrize("method", ["mean_difference", "ensemble"])
def test_a_difference_of_means_is_one_direction(method: str) -> None:
    weights = {"mean_difference": 1.0, "probe": 0.0}
    options = options_of(direction_method=method, n_directions=2, ensemble_weights=weights)
    with pytest.raises(DirectionError, match="gives one direction; set n_directions=1"):
        directions_of(cloud(9, 1, 8, 0), cloud(9, 1, 8, 1), options)


@pytest.mark.parametrize("method", ["contrastive_pca", "pca", "probe"])
def test_more_directions_than_prompts_are_refused(method: str) -> None:
    options = options_of(direction_method=method, n_directions=4)
    with pytest.raises(DirectionError, match=r"^3 prompts .* 4 directions; lower n_directions"):
        directions_of(cloud(3, 1, 8, 0), cloud(9, 1, 8, 1), options)
