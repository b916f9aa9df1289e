"""One or several directions per layer: as they are stored, and between two layers."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from heretic.ablation.directions import AblationDirections, orthonormal
from heretic.errors import DirectionError

N, D = 4, 8
seeds = st.integers(0, 2**32 - 1)


def drawn(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def several(k: int, seed: int = 0) -> AblationDirections:
    """Random orthonormal rows in float64, with uneven weights."""
    rows = torch.stack([orthonormal(drawn(k, D, seed=seed + row)) for row in range(N)])
    return AblationDirections.of(rows, drawn(N, k, seed=seed).abs())


def test_one_direction_is_stored_without_its_number() -> None:
    rows = torch.eye(N, D)
    found = AblationDirections.from_tensors({"refusal_directions": rows})
    assert found.rows.equal(rows[:, None])
    assert found.weights.tolist() == [[1.0]] * N
    assert found.discriminative_rows == (1, 2, 3)
    of_layer, weights = found.of_layer(1)
    assert of_layer.equal(rows[2:3])
    assert weights == [1.0]


def test_several_come_with_their_weights_and_what_is_known_of_them() -> None:
    stored = {
        "refusal_directions": several(2).rows,
        "direction_weights": torch.tensor([[1.0, 0.5]] * N),
        "discriminative": torch.tensor([1, 0, 1, 1], dtype=torch.uint8),
    }
    found = AblationDirections.from_tensors(stored)
    assert found.of_layer(0)[1] == [1.0, 0.5]
    assert found.discriminative.dtype == torch.bool
    # Row 0 is the embeddings': no layer is edited along it.
    assert found.discriminative_rows == (2, 3)


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"refusal_directions": torch.zeros(D)}, "1 dimensions"),
        ({"direction_weights": torch.ones(N)}, r"direction_weights has shape \(4,\).*\(4, 2\)"),
        ({"discriminative": torch.ones(N + 1)}, r"discriminative has shape \(5,\).*\(4,\)"),
    ],
)
def test_shapes_that_do_not_fit_are_told(changed: dict[str, Tensor], says: str) -> None:
    with pytest.raises(DirectionError, match=f"{says}.*run again"):
        AblationDirections.from_tensors({"refusal_directions": several(2).rows, **changed})


def test_a_file_without_directions_is_told() -> None:
    with pytest.raises(DirectionError, match="no refusal_directions; delete"):
        AblationDirections.from_tensors({"helpfulness": torch.eye(N)})


def test_a_layer_beyond_the_rows_is_told() -> None:
    with pytest.raises(DirectionError, match="do the directions belong to this model"):
        several(2).of_layer(N)


@settings(deadline=None, max_examples=40)
@given(st.integers(1, 3), st.floats(0, N - 1), seeds)
def test_between_two_layers_they_are_orthonormal_and_the_first_keeps_its_place(
    k: int, index: float, seed: int
) -> None:
    directions = several(k, seed)
    found, weights = directions.at(index)
    identity = torch.eye(k, dtype=torch.float64)
    torch.testing.assert_close(found @ found.T, identity, rtol=0, atol=1e-10)
    low = min(int(index), N - 2)
    share = index - low
    below, above = directions.rows[low], directions.rows[low + 1]
    first = (1 - share) * below[0] + share * above[0]
    torch.testing.assert_close(found[0], first / first.norm(), rtol=0, atol=1e-10)
    mixed = (1 - share) * directions.weights[low] + share * directions.weights[low + 1]
    assert weights == pytest.approx(mixed.tolist())


@pytest.mark.parametrize("index", [0.0, 2.0, N - 1.0])
def test_a_whole_index_is_that_row(index: float) -> None:
    directions = several(3)
    torch.testing.assert_close(directions.at(index)[0], directions.rows[int(index)])


def test_the_sign_of_all_but_the_first_says_nothing() -> None:
    """Eigenvectors come with either sign; the mean lies between, not at their difference."""
    directions = several(3)
    turned = directions.rows.clone()
    turned[2, 1:] *= -1
    found = AblationDirections.of(turned, directions.weights)
    assert found.at(1.3)[0].equal(directions.at(1.3)[0])
    turned[2, 0] *= -1
    assert not found.at(1.3)[0][0].allclose(directions.at(1.3)[0][0])


@pytest.mark.parametrize("k", [1, 2])
def test_neighbours_that_cancel_are_refused(k: int) -> None:
    rows = torch.eye(2, D).repeat(2, 1, 1)[:, :k]
    rows[1, 0] *= -1
    with pytest.raises(DirectionError, match=r"0 and 1 cancel at index 0\.500.*per_layer"):
        AblationDirections.of(rows).at(0.5)


def test_several_that_come_to_lie_in_one_line_are_refused() -> None:
    """Half way between (e0, e1) and (e1, e0) both are the same."""
    rows = torch.stack([torch.eye(2), torch.eye(2).flip(0)])
    with pytest.raises(DirectionError, match="0 and 1 cancel"):
        AblationDirections.of(rows).at(0.5)
