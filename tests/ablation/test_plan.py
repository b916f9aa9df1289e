"""Which writer is edited along which directions."""

import json
from dataclasses import replace

import pytest
import torch
from tiny_models import D_MODEL, LAYERS, tiny_network

from heretic.ablation.directions import AblationDirections
from heretic.ablation.parameters import AblationParameters, ComponentParameters
from heretic.ablation.plan import plan_edits, suited
from heretic.ablation.records import plan_recorded, record_writers
from heretic.errors import DirectionError
from heretic.model.stream_writers.anatomy import Anatomy, find_stream_writers
from heretic.model.stream_writers.components import ATTENTION, MLP


@pytest.fixture(scope="module")
def anatomy() -> Anatomy:
    return find_stream_writers(tiny_network())


@pytest.fixture(scope="module")
def directions() -> AblationDirections:
    draw = torch.Generator().manual_seed(5)
    rows = torch.linalg.qr(torch.randn(LAYERS + 1, D_MODEL, 2, generator=draw)).Q.mT
    return AblationDirections.of(rows, torch.tensor([[1.0, 0.5]] * (LAYERS + 1)))


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


@pytest.mark.parametrize("index", [-0.5, LAYERS + 0.5])
def test_an_index_beyond_the_model_is_refused(
    anatomy: Anatomy, directions: AblationDirections, index: float
) -> None:
    with pytest.raises(DirectionError, match=f"must be from 0 to {LAYERS}"):
        plan_edits(edit_of("global", index, EVERYWHERE, NOWHERE), directions, anatomy)


def test_per_layer_takes_the_state_that_the_layer_writes(
    anatomy: Anatomy, directions: AblationDirections
) -> None:
    edits = plan_edits(edit_of("per_layer", None, EVERYWHERE, EVERYWHERE), directions, anatomy)

    assert [edit.writer for edit in edits] == list(anatomy.writers)
    assert all(e.directions.equal(directions.rows[e.writer.layer + 1]) for e in edits)
    assert {edit.strengths for edit in edits} == {(1.5, 0.75)}


def test_global_takes_one_direction_everywhere(
    anatomy: Anatomy, directions: AblationDirections
) -> None:
    edits = plan_edits(edit_of("global", 1.25, EVERYWHERE, EVERYWHERE), directions, anatomy)

    expected, _ = directions.at(1.25)
    assert len(edits) == len(anatomy.writers)
    assert all(edit.directions.equal(expected) for edit in edits)
    assert {edit.strengths for edit in edits} == {(1.5, 0.75)}


def test_global_without_an_index_is_refused(
    anatomy: Anatomy, directions: AblationDirections
) -> None:
    with pytest.raises(DirectionError, match="direction_index"):
        plan_edits(edit_of("global", None, EVERYWHERE, EVERYWHERE), directions, anatomy)


def test_writers_without_strength_are_left_alone(
    anatomy: Anatomy, directions: AblationDirections
) -> None:
    last = ComponentParameters(1, 1, 0.7)

    edits = plan_edits(edit_of("per_layer", None, NOWHERE, last), directions, anatomy)

    assert [(e.writer.component, e.writer.layer, e.strengths) for e in edits] == [
        (MLP, LAYERS - 1, (0.7, 0.35))
    ]


@pytest.mark.parametrize(("scope", "index"), [("per_layer", None), ("global", 1.0)])
def test_layers_that_may_not_be_edited_are_left_alone(
    anatomy: Anatomy, directions: AblationDirections, scope: str, index: float | None
) -> None:
    chosen = replace(edit_of(scope, index, EVERYWHERE, NOWHERE), layers=(0, 2))

    edits = plan_edits(chosen, directions, anatomy)

    assert [edit.writer.layer for edit in edits] == [0, 2]


def test_directions_without_weight_make_no_edit(
    anatomy: Anatomy, directions: AblationDirections
) -> None:
    weights = directions.weights.clone()
    weights[2] = 0
    without = AblationDirections.of(directions.rows, weights)

    edits = plan_edits(edit_of("per_layer", None, EVERYWHERE, NOWHERE), without, anatomy)

    assert [edit.writer.layer for edit in edits] == [0, 2]


def test_without_a_gain_directions_stay_as_they_are(directions: AblationDirections) -> None:
    rows = directions.rows[1]

    assert suited(rows, None) is rows


def test_behind_a_gain_what_is_left_cannot_reach_the_stream_along_the_directions(
    directions: AblationDirections,
) -> None:
    rows = directions.rows[1].double()
    gain = torch.linspace(0.2, 3, D_MODEL, dtype=torch.float64)

    units = suited(rows, gain)
    outputs = torch.eye(D_MODEL).double() - units.T @ units

    torch.testing.assert_close(units @ units.T, torch.eye(2).double())
    assert (rows @ (gain[:, None] * outputs)).abs().max() < 1e-12


def test_a_gain_that_silences_a_direction_is_refused() -> None:
    rows = torch.eye(D_MODEL)[:1]
    gain = torch.ones(D_MODEL)
    gain[0] = 0

    with pytest.raises(DirectionError, match="span"):
        suited(rows, gain)


@pytest.mark.parametrize("family", ["gemma2", "gpt_oss", "mixtral"])
def test_writers_known_by_name_get_the_same_edits(
    family: str, directions: AblationDirections
) -> None:
    anatomy = find_stream_writers(tiny_network(family, num_hidden_layers=LAYERS))
    parameters = edit_of("per_layer", None, EVERYWHERE, EVERYWHERE)
    written = json.dumps([writer.to_dict() for writer in record_writers(anatomy)])
    facts = {"layers": anatomy.n_layers, "writers": json.loads(written)}

    edits = plan_edits(parameters, directions, anatomy)
    recorded = plan_recorded(parameters, directions, facts)

    assert len(edits) == len(recorded) == len(anatomy.writers)
    for one, other in zip(edits, recorded, strict=True):
        assert other.writer.parameter_name == one.writer.parameter_name
        assert other.writer.bias == (one.writer.bias_name is not None)
        if other.writer.bias:
            assert other.writer.bias_name == one.writer.bias_name
        assert one.directions.equal(other.directions)
        assert one.strengths == other.strengths
