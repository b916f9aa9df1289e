"""What is protected is gone from a direction, and what cannot be left over is refused."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from heretic.ablation.linalg import normalize, orthonormalize
from heretic.directions.orthogonalize import orthogonalize
from heretic.errors import DirectionError

torch.set_num_threads(1)
LAYERS = 4


def rows(k: int, d: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(LAYERS, k, d, dtype=torch.float64, generator=generator)


def directions(k: int, d: int, seed: int) -> Tensor:
    return orthonormalize(rows(k, d, seed))[0]


def protected(m: int, d: int, seed: int) -> dict[str, Tensor]:
    """`m` sets of one or two vectors of very different lengths."""
    return {str(i): 100.0 ** (i - 1) * rows(1 + i % 2, d, seed + 1 + i) for i in range(m)}


@settings(max_examples=60, deadline=None)
@given(d=st.integers(9, 30), k=st.integers(1, 3), m=st.integers(1, 3), seed=st.integers(0, 10_000))
def test_unit_orthogonal_idempotent_and_of_any_order(d: int, k: int, m: int, seed: int) -> None:
    before, against = directions(k, d, seed), protected(m, d, seed)
    found, left = orthogonalize(before, against, 1e-9)
    assert (found @ found.mT - torch.eye(k)).abs().max() < 1e-12
    for vectors in against.values():
        assert (found @ normalize(vectors).mT).abs().max() < 1e-12
    again, all_left = orthogonalize(found, against, 1e-9)
    assert (again - found).abs().max() < 1e-12
    assert (all_left - 1).abs().max() < 1e-12
    assert ((left > 0) & (left <= 1 + 1e-12)).all()
    turned = dict(reversed(against.items()))
    assert (orthogonalize(before, turned, 1e-9)[0] - found).abs().max() < 1e-9
    # Nothing but the protected part was taken: what is left lies in the span of all of them.
    span = torch.cat([before, *map(normalize, against.values())], 1)
    basis = torch.linalg.qr(span.mT)[0]
    assert (found @ basis @ basis.mT - found).abs().max() < 1e-9


@settings(max_examples=30, deadline=None)
@given(d=st.integers(6, 30), k=st.integers(1, 3), seed=st.integers(0, 10_000))
def test_in_sequence_the_last_is_gone_and_orthogonal_ones_all_are(
    d: int, k: int, seed: int
) -> None:
    before = directions(k, d, seed)
    against = {"first": rows(1, d, seed + 1), "last": rows(1, d, seed + 2)}
    found, _ = orthogonalize(before, against, 1e-9, "sequential")
    assert (found @ found.mT - torch.eye(k)).abs().max() < 1e-12
    assert (found @ normalize(against["last"]).mT).abs().max() < 1e-6
    apart = dict(zip(against, torch.split(directions(2, d, seed + 3), 1, 1), strict=True))
    one, two = (orthogonalize(before, apart, 1e-9, how)[0] for how in ("joint", "sequential"))
    assert (one - two).abs().max() < 1e-9


def test_the_order_counts_in_sequence() -> None:
    before = directions(1, 3, 0)
    against = {"a": rows(1, 3, 1), "b": rows(1, 3, 2)}
    turned = dict(reversed(against.items()))
    one, two = (orthogonalize(before, a, 1e-9, "sequential")[0] for a in (against, turned))
    assert (one - two).abs().max() > 1e-3


def test_a_known_case() -> None:
    direction = torch.tensor([[[0.6, 0.8, 0.0]]], dtype=torch.float64)
    against = torch.tensor([[[0.0, 5.0, 0.0]]], dtype=torch.float64)
    found, left = orthogonalize(direction, {"y": against}, 0.1)
    assert found.tolist() == [[[1.0, 0.0, 0.0]]]
    assert left.tolist() == [[pytest.approx(0.6)]]


def test_the_same_vector_twice_protects_as_once() -> None:
    before, vectors = directions(1, 9, 0), rows(1, 9, 1)
    once = orthogonalize(before, {"a": vectors}, 0.01)[0]
    twice = orthogonalize(before, {"a": vectors, "b": -2 * vectors}, 0.01)[0]
    assert (once - twice).abs().max() < 1e-12


def test_zero_rows_protect_nothing_and_stay_zero() -> None:
    before, vectors = directions(1, 9, 0), rows(1, 9, 1)
    before[0], vectors[1] = 0, 0
    found, left = orthogonalize(before, {"a": vectors}, 0.01)
    assert found[0].tolist() == [[0.0] * 9]
    assert left[0].tolist() == [0.0]
    assert (found[1] - before[1]).abs().max() < 1e-15


def test_nothing_to_protect_changes_nothing() -> None:
    before = directions(2, 9, 0)
    found, left = orthogonalize(before, {}, 0.5)
    assert (found - before).abs().max() < 1e-15
    assert left.tolist() == [[pytest.approx(1)] * 2] * LAYERS


@pytest.mark.parametrize("how", ["joint", "sequential"])
def test_an_empty_remainder_names_the_layer(how: str) -> None:
    before, vectors = directions(1, 9, 0), rows(1, 9, 1)
    vectors[2] = -3 * before[2] + 0.01 * vectors[2]
    with pytest.raises(
        DirectionError, match=r"^after layer 1 only 0\.0\d\d of the .*min_remaining"
    ):
        orthogonalize(before, {"a": vectors}, 0.05, how)  # type: ignore[arg-type]
    assert orthogonalize(before, {"a": vectors}, 1e-6)[0].norm(dim=-1).min() > 0.99


def test_an_empty_remainder_of_the_embeddings_stops_nothing() -> None:
    before, vectors = directions(1, 9, 0), rows(1, 9, 1)
    vectors[0] = before[0]
    found, _ = orthogonalize(before, {"a": vectors}, 0.05)
    assert found[0].tolist() == [[0.0] * 9]
    assert (found[1:].norm(dim=-1) - 1).abs().max() < 1e-12


def test_an_empty_remainder_names_which_of_several() -> None:
    before = directions(3, 9, 0)
    with pytest.raises(DirectionError, match=r"after layer 0 only 0\.000 of direction 2 remains"):
        orthogonalize(
            before, {"a": before[:, 1:2] * torch.tensor([0.0, 1, 0, 0])[:, None, None]}, 0.05
        )


# Squares of those left out have lost digits or are zero.
NUMBERS = st.floats(-1e6, 1e6).filter(lambda x: x == 0 or abs(x) > 1e-100)


@settings(deadline=None)
@given(st.lists(NUMBERS, min_size=3, max_size=3))
def test_normalize(values: list[float]) -> None:
    row = torch.tensor([values], dtype=torch.float64)
    norm = float(normalize(row).norm())
    assert norm == pytest.approx(1 if row.norm() > 0 else 0, abs=1e-12)


def test_gram_schmidt_keeps_the_first_direction() -> None:
    given_rows = rows(3, 7, 5)
    found, lengths = orthonormalize(given_rows)
    assert (found[:, 0] - normalize(given_rows[:, 0])).abs().max() < 1e-15
    assert (found @ found.mT - torch.eye(3)).abs().max() < 1e-12
    assert (lengths[:, 0] - given_rows[:, 0].norm(dim=-1)).abs().max() < 1e-12
