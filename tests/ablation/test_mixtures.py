"""A trial's directions are known as combinations of the study's, whatever is done to them."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from heretic.ablation.directions import AblationDirections, DirectionCombination, orthonormal
from heretic.ablation.plan import AMPLIFICATION, suited, suited_mixture

N, D = 4, 9
seeds = st.integers(0, 2**32 - 1)


def drawn(*shape: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def study(k: int, seed: int, likeness: float) -> AblationDirections:
    """Rows that have more or less in common, of which some point away from their neighbours'."""
    common = drawn(k, D, seed=seed)
    rows = [
        orthonormal(likeness * common + drawn(k, D, seed=seed + number)) for number in range(1, N)
    ]
    turned = drawn(N - 1, k, seed=seed).sign()
    turned[:, 0] = 1.0
    found = torch.stack([torch.eye(k, D).double(), *rows])
    found[1:] *= turned[:, :, None]
    return AblationDirections.of(found)


@settings(deadline=None, max_examples=120)
@given(
    st.integers(1, 3),
    st.one_of(st.none(), st.floats(0, N - 1)),
    seeds,
    st.floats(0, 5),
    st.booleans(),
)
def test_a_mixture_of_rows_is_the_directions(
    k: int, index: float | None, seed: int, likeness: float, with_gain: bool
) -> None:
    directions = study(k, seed, likeness)
    gain = drawn(D, seed=seed).exp() if with_gain else None
    if index is None:
        rows, mixture = directions.of_layer(1)[0], directions.mixture_of_layer(1)
    else:
        rows, mixture = directions.at(index)[0], directions.mixture_at(index)

    units, found = suited(rows, gain), suited_mixture(mixture, gain)

    if found is None:
        assert k > 1 or (index is not None and index % 1 > 0)
    else:
        assert (found.coefficients @ found.rows(gain) - units).abs().max() < 1e-11


@settings(deadline=None, max_examples=60)
@given(st.integers(1, 3), st.floats(0, N - 1), seeds, st.booleans(), st.booleans())
def test_products_of_rows_make_those_of_directions(
    k: int, index: float, seed: int, with_gain: bool, experts: bool
) -> None:
    """To the precision of the products, because what would make it worse is not offered."""
    directions = study(k, seed, 1.0)
    gain = drawn(D, seed=seed).exp() if with_gain else None
    matrix = drawn(*((3,) if experts else ()), D, 7, seed=seed + 9).float()
    found = suited_mixture(directions.mixture_at(index), gain)
    if found is None:
        return
    every = directions.rows.flatten(0, 1) * (1 if gain is None else gain)

    products = found.combine(every.float() @ matrix)

    exact = suited(directions.at(index)[0], gain) @ matrix.double()
    assert products.dtype == torch.float32
    assert (products - exact).abs().max() < AMPLIFICATION * 1e-6 * matrix.norm()


def test_rows_of_a_layer_are_their_own_mixture() -> None:
    directions = study(2, 0, 1.0)
    mixture = directions.mixture_of_layer(2)
    assert mixture.indices == (6, 7)
    assert mixture.coefficients.equal(torch.eye(2).double())
    assert mixture.study is directions.rows


def test_where_rows_all_but_cancel_no_mixture_is_offered() -> None:
    angle = torch.tensor(torch.pi - 0.01).double()
    rows = torch.stack([torch.eye(1, D).double()[0]] * 2)
    rows[1, :2] = torch.stack([angle.cos(), angle.sin()])
    directions = AblationDirections.of(rows)
    mixture = directions.mixture_at(0.5)

    torch.testing.assert_close(mixture.coefficients @ mixture.rows(), directions.at(0.5)[0])
    assert mixture.amplification() == pytest.approx(200, rel=0.01)
    assert suited_mixture(mixture, None) is None
    assert suited_mixture(directions.mixture_at(0.1), None) is not None


def test_a_study_is_told_by_its_rows() -> None:
    one, other = study(1, 0, 1.0), study(1, 0, 1.0)
    assert DirectionCombination.of_rows(one.rows, 1).study is not other.rows
