"""What is protected is gone from a direction, and what cannot be left over is refused."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from heretic.directions.orthogonalize import normalize, orthogonalize
from heretic.errors import DirectionError

torch.set_num_threads(1)


def rows(layers: int, d: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(layers, d, dtype=torch.float64, generator=generator)


@settings(max_examples=60, deadline=None)
@given(d=st.integers(6, 30), k=st.integers(1, 3), seed=st.integers(0, 10_000))
def test_unit_orthogonal_idempotent_and_of_any_order(d: int, k: int, seed: int) -> None:
    directions = normalize(rows(4, d, seed))
    against = [100.0 ** (i - 1) * rows(4, d, seed + 1 + i) for i in range(k)]
    found = orthogonalize(directions, against, 1e-6)
    assert (found.norm(dim=-1) - 1).abs().max() < 1e-12
    for vectors in against:
        assert (found * normalize(vectors)).sum(-1).abs().max() < 1e-12
    assert (orthogonalize(found, against, 1e-6) - found).abs().max() < 1e-12
    assert (orthogonalize(directions, against[::-1], 1e-6) - found).abs().max() < 1e-9
    # Nothing but the protected part was taken: what is left lies in the span of all of them.
    for layer in range(4):
        span = torch.stack([directions[layer], *(vectors[layer] for vectors in against)])
        basis = torch.linalg.qr(span.T)[0]
        assert (basis @ (basis.T @ found[layer]) - found[layer]).norm() < 1e-9


def test_a_known_case() -> None:
    direction = torch.tensor([[0.6, 0.8, 0.0]], dtype=torch.float64)
    against = torch.tensor([[0.0, 5.0, 0.0]], dtype=torch.float64)
    assert orthogonalize(direction, [against], 0.1).tolist() == [[1.0, 0.0, 0.0]]


def test_the_same_vector_twice_protects_as_once() -> None:
    directions, vectors = normalize(rows(3, 9, 0)), rows(3, 9, 1)
    once = orthogonalize(directions, [vectors], 0.01)
    twice = orthogonalize(directions, [vectors, -2 * vectors], 0.01)
    assert (once - twice).abs().max() < 1e-12


def test_zero_rows_protect_nothing_and_stay_zero() -> None:
    directions, vectors = normalize(rows(3, 9, 0)), rows(3, 9, 1)
    directions[0], vectors[1] = 0, 0
    found = orthogonalize(directions, [vectors], 0.01)
    assert found[0].tolist() == [0.0] * 9
    assert (found[1] - directions[1]).abs().max() < 1e-15


def test_nothing_to_protect_changes_nothing() -> None:
    directions = normalize(rows(3, 9, 0))
    assert orthogonalize(directions, [], 0.5) is directions


@pytest.mark.parametrize(("row", "place"), [(0, "at the embeddings"), (2, "after layer 1")])
def test_an_empty_remainder_names_the_layer(row: int, place: str) -> None:
    directions = normalize(rows(4, 9, 0))
    vectors = rows(4, 9, 1)
    vectors[row] = -3 * directions[row] + 0.01 * vectors[row]
    with pytest.raises(DirectionError, match=rf"^{place} only 0\.0\d\d .*min_remaining_norm"):
        orthogonalize(directions, [vectors], 0.05)
    assert orthogonalize(directions, [vectors], 1e-6).norm(dim=-1).min() > 0.99


@settings(deadline=None)
@given(st.lists(st.floats(-1e6, 1e6), min_size=3, max_size=3))
def test_normalize(values: list[float]) -> None:
    row = torch.tensor([values], dtype=torch.float64)
    norm = float(normalize(row).norm())
    assert norm == pytest.approx(1 if row.norm() > 0 else 0, abs=1e-12)
