"""Which writer is edited along which direction."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_models import D_MODEL, LAYERS, tiny_network

from heretic.ablation.parameters import AblationParameters, ComponentParameters
from heretic.ablation.plan import direction_at, plan_edits
from heretic.errors import DirectionError
from heretic.model.anatomy import Anatomy, dissect
from heretic.model.components import ATTENTION, MLP


@pytest.fixture(scope="module")
def anatomy() -> Anatomy:
    return dissect(tiny_network())


@pytest.fixture(scope="module")
def directions() -> torch.Tensor:
    rows = torch.randn(LAYERS + 1, D_MODEL, generator=torch.Generator().manual_seed(5))
    unit: torch.Tensor = rows / rows.norm(dim=1, keepdim=True)
    return unit


def edit_of(
    scope: str, index: float | None, attention: ComponentParameters, mlp: ComponentParameters
) -> AblationParameters:
    return AblationParameters.from_dict(
        {
            "direction_scope": scope,
            "direction_index": index,
            "components": {ATTENTION: vars(attention), MLP: vars(mlp)},
        }
    )


EVERYWHERE = ComponentParameters(0, 1, 1.5)
NOWHERE = ComponentParameters(0, 1, 0.0)


def test_a_whole_index_is_that_row(directions: torch.Tensor) -> None:
    for index in range(len(directions)):
        torch.testing.assert_close(direction_at(directions, float(index)), directions[index])


@settings(deadline=None)
@given(st.floats(0, LAYERS))
def test_a_fraction_lies_between_its_neighbours(index: float) -> None:
    rows = torch.eye(LAYERS + 1, dtype=torch.float64)

    found = direction_at(rows, index)

    low = min(int(index), LAYERS - 1)
    share = index - low
    expected = (1 - share) * rows[low] + share * rows[low + 1]
    torch.testing.assert_close(found, expected / expected.norm())
    assert float(found.norm()) == pytest.approx(1)


def test_neighbours_that_cancel_are_refused() -> None:
    rows = torch.tensor([[1.0, 0.0], [-1.0, 0.0]])

    with pytest.raises(DirectionError, match=r"0 and 1 cancel at index 0\.500.*per_layer"):
        direction_at(rows, 0.5)


@pytest.mark.parametrize("index", [-0.5, LAYERS + 0.5])
def test_an_index_beyond_the_model_is_refused(directions: torch.Tensor, index: float) -> None:
    with pytest.raises(DirectionError, match=f"not in 0 to {LAYERS}"):
        direction_at(directions, index)


def test_per_layer_takes_the_state_that_the_layer_writes(
    anatomy: Anatomy, directions: torch.Tensor
) -> None:
    edits = plan_edits(edit_of("per_layer", None, EVERYWHERE, EVERYWHERE), directions, anatomy)

    assert [edit.writer for edit in edits] == list(anatomy.writers)
    assert all(edit.direction.equal(directions[edit.writer.layer + 1]) for edit in edits)


def test_global_takes_one_direction_everywhere(anatomy: Anatomy, directions: torch.Tensor) -> None:
    edits = plan_edits(edit_of("global", 1.25, EVERYWHERE, EVERYWHERE), directions, anatomy)

    expected = direction_at(directions, 1.25)
    assert len(edits) == len(anatomy.writers)
    assert all(edit.direction.equal(expected) for edit in edits)


def test_global_without_an_index_is_refused(anatomy: Anatomy, directions: torch.Tensor) -> None:
    with pytest.raises(DirectionError, match="direction_index"):
        plan_edits(edit_of("global", None, EVERYWHERE, EVERYWHERE), directions, anatomy)


def test_writers_without_strength_are_left_alone(
    anatomy: Anatomy, directions: torch.Tensor
) -> None:
    last = ComponentParameters(1, 1, 0.7)

    edits = plan_edits(edit_of("per_layer", None, NOWHERE, last), directions, anatomy)

    assert [(e.writer.component, e.writer.layer, e.strength) for e in edits] == [
        (MLP, LAYERS - 1, 0.7)
    ]
