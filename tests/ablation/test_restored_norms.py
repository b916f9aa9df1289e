"""Factors found without the edited matrix, against those of the edited matrix."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from heretic.ablation.products import measure, restoring_factors
from heretic.ablation.projection import NormPreservation, ablate_matrix

KINDS: list[NormPreservation] = ["column", "row", "frobenius"]
sizes = st.integers(3, 20)
seeds = st.integers(0, 2**32 - 1)
strengths = st.lists(st.floats(0, 2.5), min_size=1, max_size=3).filter(any)


def matrix(rows: int, columns: int, seed: int, dtype: torch.dtype = torch.float64) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(rows, columns, generator=generator, dtype=torch.float64)
    return (weight * (torch.rand(columns, generator=generator) * 3 + 0.1)).to(dtype)


def orthonormal_rows(count: int, width: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    rows: Tensor = torch.linalg.qr(torch.randn(width, count, generator=generator).double()).Q.T
    return rows


def factors_of(
    weight: Tensor,
    directions: Tensor,
    chosen: list[float],
    kind: NormPreservation,
    limit: int = 2**23,
) -> Tensor:
    """From products made, and rows measured, in pieces of `limit` numbers."""
    products = measure(weight, directions, kind, limit=limit)
    return restoring_factors(products, chosen, kind, lambda: weight, limit)


def by_factors(
    weight: Tensor, directions: Tensor, chosen: list[float], kind: NormPreservation
) -> Tensor:
    """The edited matrix, by way of the factors."""
    factors = factors_of(weight, directions, chosen, kind)
    plain = ablate_matrix(weight, directions, chosen)
    return plain * (factors[:, None] if kind == "row" else factors)


@settings(deadline=None, max_examples=150)
@given(sizes, sizes, seeds, strengths, st.sampled_from(KINDS), st.booleans())
def test_the_factors_are_those_of_the_edited_matrix(
    rows: int, columns: int, seed: int, chosen: list[float], kind: NormPreservation, unequal: bool
) -> None:
    """Also where the directions are only as orthonormal as single precision makes them."""
    weight = matrix(rows, columns, seed)
    directions = orthonormal_rows(len(chosen), rows, seed + 1)
    if unequal:
        directions = directions.float()

    edited = ablate_matrix(weight, directions, chosen, kind)

    difference = by_factors(weight, directions, chosen, kind) - edited
    assert difference.norm() <= 1e-11 * weight.norm()


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("strength", [1.0, 1.0 - 1e-3])
def test_what_an_edit_leaves_next_to_nothing_of_is_measured(
    kind: NormPreservation, strength: float, dtype: torch.dtype
) -> None:
    """Two directions take two whole rows; the other kinds see a matrix of nothing else."""
    directions = torch.zeros(2, 6, dtype=torch.float64)
    directions[:, 2:4] = orthonormal_rows(2, 2, 0)
    weight = matrix(6, 5, 1)
    if kind != "row":
        weight = directions.T @ matrix(2, 5, 1)
    weight = weight.to(dtype)

    edited = ablate_matrix(weight, directions, [strength] * 2, kind)

    found = by_factors(weight, directions, [strength] * 2, kind)
    assert (found - edited).norm() <= (1e-9 if dtype == torch.float64 else 1e-3) * weight.norm()
    size = float(weight[2:4].norm()) if strength < 1 else 0.0
    assert float(found[2:4].norm()) == pytest.approx(size, rel=1e-3, abs=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_half_precision_weights_are_read_in_single(kind: NormPreservation) -> None:
    weight, directions = matrix(16, 12, 3, torch.bfloat16), orthonormal_rows(2, 16, 4)

    found = factors_of(weight, directions, [1.0, 0.5], kind)

    exact = factors_of(weight.double(), directions, [1.0, 0.5], kind)
    assert found.dtype == torch.float32
    assert (found - exact).abs().max() < 1e-5


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("limit", [1, 30, 100])
def test_experts_have_factors_of_their_own_whatever_the_pieces(
    kind: NormPreservation, limit: int
) -> None:
    """The second expert is one of which nothing, or whole rows, are left."""
    directions = torch.zeros(2, 6, dtype=torch.float64)
    directions[:, 2:4] = orthonormal_rows(2, 2, 0)
    other = matrix(6, 5, 1) if kind == "row" else directions.T @ matrix(2, 5, 1)
    stack = torch.stack([matrix(6, 5, 0), other, matrix(6, 5, 2)])

    found = factors_of(stack, directions, [1.0, 0.99], kind, limit)

    for expert, weight in zip(found, stack, strict=True):
        alone = factors_of(weight, directions, [1.0, 0.99], kind)
        torch.testing.assert_close(expert, alone, rtol=1e-9, atol=0)
    assert found[1].max() > 10


def test_products_without_norms_have_no_factors() -> None:
    products = measure(matrix(6, 5, 0), orthonormal_rows(1, 6, 0), "none")
    with pytest.raises(ValueError, match="without the norms"):
        restoring_factors(products, [1.0], "column", lambda: matrix(6, 5, 0))
