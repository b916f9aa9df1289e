"""Strengths by layer, and the trip through best.json."""

import json

from hypothesis import given
from hypothesis import strategies as st

from heretic.ablation.parameters import AblationParameters, ComponentParameters
from heretic.model.components import ATTENTION, MLP

fractions = st.floats(0, 1)


def test_a_range_includes_both_ends() -> None:
    assert ComponentParameters(0.25, 0.75, 1.5).strengths(5) == [0.0, 1.5, 1.5, 1.5, 0.0]


def test_the_whole_depth_is_every_layer() -> None:
    assert ComponentParameters(0.0, 1.0, 2.0).strengths(4) == [2.0] * 4


def test_a_point_is_one_layer() -> None:
    assert ComponentParameters(1.0, 1.0, 0.5).strengths(3) == [0.0, 0.0, 0.5]


def test_one_layer_is_always_in_range() -> None:
    assert ComponentParameters(0.3, 0.4, 0.5).strengths(1) == [0.5]


@given(fractions, fractions, st.floats(0.01, 3), st.integers(1, 80))
def test_edited_layers_are_one_unbroken_stretch(
    one: float, other: float, weight: float, n_layers: int
) -> None:
    strengths = ComponentParameters(min(one, other), max(one, other), weight).strengths(n_layers)

    edited = [layer for layer, strength in enumerate(strengths) if strength]
    assert len(strengths) == n_layers
    assert edited == list(range(edited[0], edited[-1] + 1))
    assert {strengths[layer] for layer in edited} == {weight}


def test_components_keep_their_own_ranges() -> None:
    parameters = AblationParameters(
        "per_layer",
        None,
        {ATTENTION: ComponentParameters(0, 0.5, 1.0), MLP: ComponentParameters(0.5, 1, 2.0)},
    )

    assert parameters.strengths(3) == {ATTENTION: [1.0, 1.0, 0.0], MLP: [0.0, 2.0, 2.0]}


def test_only_the_layers_that_may_be_edited_have_a_strength() -> None:
    parts = {ATTENTION: ComponentParameters(0, 1, 1.0), MLP: ComponentParameters(0.5, 1, 2.0)}
    found = AblationParameters("per_layer", None, parts, layers=(0, 3, 7)).strengths(5)
    assert found == {ATTENTION: [1.0, 0, 0, 1.0, 0], MLP: [0.0, 0, 0, 2.0, 0]}


def test_a_record_from_before_edits_in_every_layer() -> None:
    parameters = AblationParameters("per_layer", None, {MLP: ComponentParameters(0, 1, 1.0)})
    old = parameters.to_dict()
    del old["layers"]
    assert AblationParameters.from_dict(old) == parameters
    assert parameters.strengths(3) == {MLP: [1.0] * 3}


@given(
    fractions,
    fractions,
    st.floats(0, 3),
    st.one_of(st.none(), st.floats(0, 30)),
    st.one_of(st.none(), st.lists(st.integers(0, 30))),
)
def test_survives_json(
    low: float, high: float, weight: float, index: float | None, layers: list[int] | None
) -> None:
    parameters = AblationParameters(
        "per_layer" if index is None else "global",
        index,
        {ATTENTION: ComponentParameters(low, high, weight), MLP: ComponentParameters(0, 1, 0.0)},
        None if layers is None else tuple(layers),
    )

    read = AblationParameters.from_dict(json.loads(json.dumps(parameters.to_dict())))

    assert read == parameters
