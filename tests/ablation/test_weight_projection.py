"""The edit of a matrix, against the formulas written out in float64."""

import math
from typing import Any, get_args

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from heretic.ablation.projection import NormPreservation, ablate_bias, ablate_matrix

ALL: tuple[NormPreservation, ...] = get_args(NormPreservation)
# Relative to the size of the matrix: the storage type's precision, with room for summation.
TOLERANCE = {torch.float64: 1e-10, torch.float32: 2e-5, torch.bfloat16: 1e-2}

sizes = st.integers(2, 24)
seeds = st.integers(0, 2**32 - 1)
strengths = st.floats(0, 2.5)
preservations = st.sampled_from(ALL)
dtypes = st.sampled_from(list(TOLERANCE))


def example(rows: int, columns: int, seed: int, dtype: Any = torch.float64) -> tuple[Tensor, ...]:
    """A matrix of uneven columns and a unit direction."""
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(rows, columns, generator=generator, dtype=torch.float64)
    weight *= torch.rand(columns, generator=generator, dtype=torch.float64) * 3 + 0.1
    direction = torch.randn(rows, generator=generator, dtype=torch.float64)
    return weight.to(dtype), direction / direction.norm()


def reference(weight: Tensor, direction: Tensor, strength: float, kind: str) -> Tensor:
    """The edit entry by entry, as the module's formulas say it."""
    before = weight.double().tolist()
    d = direction.tolist()
    rows, columns = range(len(before)), range(len(before[0]))
    v = [sum(before[i][j] * d[i] for i in rows) for j in columns]
    after = [[before[i][j] - strength * d[i] * v[j] for j in columns] for i in rows]

    def norm(values: list[float]) -> float:
        return math.sqrt(sum(value * value for value in values))

    if kind == "column":
        for j in columns:
            scale = norm([before[i][j] for i in rows]) / norm([after[i][j] for i in rows])
            for i in rows:
                after[i][j] *= scale
    if kind == "row":
        for i in rows:
            scale = norm(before[i]) / norm(after[i])
            after[i] = [value * scale for value in after[i]]
    if kind == "frobenius":
        scale = norm([x for row in before for x in row]) / norm([x for row in after for x in row])
        after = [[value * scale for value in row] for row in after]
    return torch.tensor(after, dtype=torch.float64)


@settings(deadline=None, max_examples=150)
@given(sizes, sizes, seeds, strengths, preservations, dtypes)
def test_is_the_formula_in_every_dtype(
    rows: int, columns: int, seed: int, strength: float, kind: NormPreservation, dtype: torch.dtype
) -> None:
    weight, direction = example(rows, columns, seed, dtype)
    before = weight.clone()

    edited = ablate_matrix(weight, direction[None], (strength,), kind)

    expected = reference(weight, direction, strength, kind)
    # A column (or row) of which little is left is scaled up, and its rounding errors with it.
    left = weight.double() - strength * torch.outer(direction, weight.double().T @ direction)
    dim = {"column": 0, "row": 1}.get(kind)
    worst = 1.0
    if dim is not None:
        worst = float((weight.double().norm(dim=dim) / left.norm(dim=dim)).max())
    error = (edited.double() - expected).norm() / weight.double().norm()
    assert error <= TOLERANCE[dtype] * (1 if dtype == torch.bfloat16 else worst)
    assert edited.dtype == dtype
    assert weight.equal(before)


@settings(deadline=None)
@given(sizes, sizes, seeds, st.sampled_from(["none", "column", "frobenius"]))
def test_nothing_is_written_along_the_direction_at_strength_one(
    rows: int, columns: int, seed: int, kind: NormPreservation
) -> None:
    weight, direction = example(rows, columns, seed)

    edited = ablate_matrix(weight, direction[None], (1.0,), kind)

    assert (direction @ edited).abs().max() <= 1e-9 * weight.norm()


def test_row_norms_put_part_of_the_direction_back() -> None:
    weight, direction = example(64, 256, seed=0)

    edited = ablate_matrix(weight, direction[None], (1.0,), "row")

    residual = (direction @ edited).norm() / (direction @ weight).norm()
    assert 0.001 < residual < 0.2


@settings(deadline=None)
@given(sizes, sizes, seeds, strengths, st.sampled_from(ALL[1:]))
def test_promised_norms_are_restored(
    rows: int, columns: int, seed: int, strength: float, kind: NormPreservation
) -> None:
    weight, direction = example(rows, columns, seed)
    dims = {"column": (0,), "row": (1,), "frobenius": (0, 1)}[kind]

    edited = ablate_matrix(weight, direction[None], (strength,), kind)

    before, after = (torch.linalg.vector_norm(x, dim=dims) for x in (weight, edited))
    torch.testing.assert_close(after, before, rtol=1e-10, atol=0)


@pytest.mark.parametrize("kind", ["column", "row", "frobenius"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_what_lies_along_the_direction_is_removed_not_refilled_with_noise(
    kind: NormPreservation, dtype: torch.dtype
) -> None:
    """Scaling what rounding leaves of a removed column back to its norm would write noise."""
    direction = example(16, 1, seed=3)[1].to(dtype)
    weight = torch.outer(direction, torch.linspace(1, 5, 16, dtype=dtype))

    edited = ablate_matrix(weight, direction[None], (1.0,), kind)

    assert edited.norm() < 1e-5 * weight.norm()


@pytest.mark.parametrize("kind", ALL)
def test_a_zero_matrix_stays_zero(kind: NormPreservation) -> None:
    direction = example(8, 4, seed=0)[1]

    assert not ablate_matrix(torch.zeros(8, 4), direction[None], (1.3,), kind).any()


@pytest.mark.parametrize("kind", ALL)
@pytest.mark.parametrize("dtype", TOLERANCE)
def test_strength_zero_is_bit_identical(kind: NormPreservation, dtype: torch.dtype) -> None:
    weight, direction = example(12, 20, seed=1, dtype=dtype)

    assert ablate_matrix(weight, direction[None], (0.0,), kind).equal(weight)
    assert ablate_bias(weight[:, 0], direction[None], (0.0,)).equal(weight[:, 0])


def test_strength_two_reflects() -> None:
    weight, direction = example(12, 20, seed=1)

    edited = ablate_matrix(weight, direction[None], (2.0,))

    torch.testing.assert_close(direction @ edited, -(direction @ weight))


@pytest.mark.parametrize("kind", ALL)
@pytest.mark.parametrize("dtype", TOLERANCE)
def test_writes_through_a_transposed_view(kind: NormPreservation, dtype: torch.dtype) -> None:
    weight, direction = example(12, 20, seed=1, dtype=dtype)
    stored = torch.full((20, 12), 7.0, dtype=dtype)  # as Conv1D keeps it

    result = ablate_matrix(weight, direction[None], (1.2,), kind, out=stored.T)

    # The kernels of the two memory layouts may round the last bit apart.
    expected = ablate_matrix(weight, direction[None], (1.2,), kind)
    torch.testing.assert_close(stored.T, expected)
    assert result.data_ptr() == stored.data_ptr()


@pytest.mark.parametrize("kind", ALL)
@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("as_view", [False, True])
def test_may_overwrite_its_own_memory(
    kind: NormPreservation, dtype: torch.dtype, as_view: bool
) -> None:
    weight, direction = example(12, 20, seed=1, dtype=dtype)
    expected = ablate_matrix(weight, direction[None], (1.2,), kind)

    ablate_matrix(weight, direction[None], (1.2,), kind, out=weight[:] if as_view else weight)

    assert weight.equal(expected)


def test_half_precision_keeps_a_difference_below_its_own_steps() -> None:
    """Multiplying in bfloat16 would lose an edit that is small beside the weights."""
    weight, direction = example(64, 64, seed=2, dtype=torch.bfloat16)

    edited = ablate_matrix(weight, direction[None], (1.0,))

    along = (direction @ edited.double()).norm() / (direction @ weight.double()).norm()
    assert along < 0.02


@settings(deadline=None)
@given(sizes, seeds, strengths, dtypes)
def test_bias_is_edited_like_a_column(
    rows: int, seed: int, strength: float, dtype: torch.dtype
) -> None:
    weight, direction = example(rows, 1, seed, dtype)
    bias = weight[:, 0].contiguous()

    edited = ablate_bias(bias, direction[None], (strength,))

    expected = reference(weight, direction, strength, "none")[:, 0]
    assert (edited.double() - expected).norm() <= TOLERANCE[dtype] * bias.double().norm()
    assert edited.dtype == dtype


def orthonormal_example(
    rows: int, columns: int, seed: int, k: int
) -> tuple[Tensor, Tensor, tuple[float, ...]]:
    """A matrix, orthonormal directions [k, rows] and a strength for each."""
    weight, _ = example(rows, columns, seed)
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randn(rows, k, generator=generator, dtype=torch.float64)
    strengths = torch.rand(k, generator=generator, dtype=torch.float64) * 2.5
    return weight, torch.linalg.qr(drawn).Q.T, tuple(strengths.tolist())


several = st.integers(1, 4)
larger = st.integers(6, 24)


@settings(deadline=None)
@given(larger, sizes, seeds, several, preservations)
def test_several_directions_are_the_formula_with_a_diagonal_matrix(
    rows: int, columns: int, seed: int, k: int, kind: NormPreservation
) -> None:
    weight, directions, found = orthonormal_example(rows, columns, seed, k)
    plain = weight - directions.T @ torch.diag(torch.tensor(found).double()) @ directions @ weight
    dims = {"none": None, "column": 0, "row": 1, "frobenius": (0, 1)}[kind]
    expected = plain
    if dims is not None:
        norms = [torch.linalg.vector_norm(x, dim=dims, keepdim=True) for x in (weight, plain)]
        expected = plain * norms[0] / norms[1]

    edited = ablate_matrix(weight, directions, found, kind)

    assert (edited - expected).norm() <= 1e-6 * weight.norm()
    if kind == "none":
        column = ablate_bias(weight[:, 0], directions, found)
        torch.testing.assert_close(column, plain[:, 0], rtol=0, atol=1e-6)


@settings(deadline=None)
@given(larger, sizes, seeds, several, st.sampled_from(["none", "column", "frobenius"]))
def test_no_direction_is_left_at_strength_one(
    rows: int, columns: int, seed: int, k: int, kind: NormPreservation
) -> None:
    weight, directions, _ = orthonormal_example(rows, columns, seed, k)

    edited = ablate_matrix(weight, directions, (1.0,) * k, kind)

    assert (directions @ edited).abs().max() <= 1e-9 * weight.norm()


@settings(deadline=None)
@given(larger, sizes, seeds, several)
def test_each_direction_is_edited_by_its_own_strength_in_any_order(
    rows: int, columns: int, seed: int, k: int
) -> None:
    weight, directions, found = orthonormal_example(rows, columns, seed, k)

    edited = ablate_matrix(weight, directions, found)

    along = directions @ weight
    left = torch.tensor([1 - strength for strength in found], dtype=torch.float64)
    torch.testing.assert_close(directions @ edited, left[:, None] * along, rtol=0, atol=1e-9)
    turned = ablate_matrix(weight, directions.flip(0), found[::-1])
    torch.testing.assert_close(turned, edited, rtol=0, atol=1e-9)
    one_by_one = weight
    for direction, strength in zip(directions, found, strict=True):
        one_by_one = ablate_matrix(one_by_one, direction[None], (strength,))
    torch.testing.assert_close(one_by_one, edited, rtol=0, atol=1e-9)


@pytest.mark.parametrize("kind", ALL)
@pytest.mark.parametrize("dtype", TOLERANCE)
def test_several_may_overwrite_the_matrix_or_a_transposed_one(
    kind: NormPreservation, dtype: torch.dtype
) -> None:
    weight, directions, found = orthonormal_example(12, 20, 1, 3)
    weight = weight.to(dtype)
    expected = ablate_matrix(weight, directions, found, kind)
    stored = torch.full((20, 12), 7.0, dtype=dtype)
    ablate_matrix(weight, directions, found, kind, out=stored.T)
    torch.testing.assert_close(stored.T, expected)
    assert ablate_matrix(weight, directions, (0.0,) * 3, kind).equal(weight)
    ablate_matrix(weight, directions, found, kind, out=weight)
    assert weight.equal(expected)


@pytest.mark.parametrize("kind", ALL)
@pytest.mark.parametrize("dtype", list(TOLERANCE))
@pytest.mark.parametrize("transposed", [False, True])
def test_each_expert_is_edited_on_its_own(
    kind: NormPreservation, dtype: torch.dtype, transposed: bool
) -> None:
    examples = [orthonormal_example(12, 7, seed, 2) for seed in range(3)]
    units, strengths = examples[0][1:]
    # One is far larger: norms must not be taken of all together.
    stack = torch.stack([weight * 10**n for n, (weight, _, _) in enumerate(examples)]).to(dtype)
    stored = stack.mT.contiguous() if transposed else stack.clone()
    place = stored.mT if transposed else stored

    edited = ablate_matrix(place, units, strengths, kind, out=place)

    alone = [ablate_matrix(weight, units, strengths, kind) for weight in stack]
    torch.testing.assert_close(edited, torch.stack(alone))
    assert edited.data_ptr() == stored.data_ptr()


def test_biases_of_experts_are_edited_each_on_its_own() -> None:
    _, units, strengths = orthonormal_example(12, 7, 0, 2)
    biases = torch.randn(3, 12, generator=torch.Generator().manual_seed(1), dtype=torch.float64)

    edited = ablate_bias(biases, units, strengths)

    alone = [ablate_bias(bias, units, strengths) for bias in biases]
    torch.testing.assert_close(edited, torch.stack(alone))
