"""Strengths by layer, and the trip through best.json."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from heretic.ablation.parameters import (
    AblationParameters,
    ComponentParameters,
    KernelParameters,
)
from heretic.model.stream_writers.components import ATTENTION, MLP

fractions = st.floats(0, 1)
tents = st.builds(KernelParameters, fractions, st.floats(0.01, 3), fractions, st.floats(0.0125, 1))
ranges = st.builds(
    lambda low, high, weight: ComponentParameters(min(low, high), max(low, high), weight),
    fractions,
    fractions,
    st.floats(0, 3),
)


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


def test_a_tent_falls_from_its_peak_to_the_minimum_and_then_to_nothing() -> None:
    # The peak at layer 4 of 0 to 8, and a quarter of 2.0 three layers away.
    tent = KernelParameters(position=0.5, weight=2.0, min_share=0.25, distance=0.375)
    assert tent.strengths(9) == pytest.approx([0, 0.5, 1, 1.5, 2, 1.5, 1, 0.5, 0])


def test_a_peak_between_two_layers_is_reached_by_neither() -> None:
    tent = KernelParameters(position=0.375, weight=2.0, min_share=0.0, distance=0.25)
    assert tent.strengths(5) == pytest.approx([0, 1, 1, 0, 0])


def test_a_tent_whose_minimum_is_its_peak_is_a_range() -> None:
    tent = KernelParameters(position=1.0, weight=1.5, min_share=1.0, distance=0.5)
    assert tent.strengths(5) == ComponentParameters(0.5, 1.0, 1.5).strengths(5)


@given(tents, st.integers(1, 80))
def test_a_tent_is_highest_at_its_peak_and_nothing_beyond_its_distance(
    tent: KernelParameters, n_layers: int
) -> None:
    strengths = tent.strengths(n_layers)
    peak, reach = tent.position * (n_layers - 1), tent.distance * (n_layers - 1)
    assert len(strengths) == n_layers
    assert all(0 <= strength <= tent.weight for strength in strengths)
    for layer, strength in enumerate(strengths):
        offset = abs(layer - peak)
        if offset > reach:
            assert strength == 0
        elif reach > 0:
            lowest = tent.min_share * tent.weight
            straight = lowest + (tent.weight - lowest) * (1 - offset / reach)
            assert strength == pytest.approx(straight, abs=1e-12)
        assert strength <= strengths[round(peak)]
    by_distance = sorted(range(n_layers), key=lambda layer: abs(layer - peak))
    falling = [strengths[layer] for layer in by_distance]
    assert falling == sorted(falling, reverse=True)


def test_a_model_of_one_layer_is_edited_at_the_peak() -> None:
    assert KernelParameters(0.3, 1.5, 0.0, 1.0).strengths(1) == [1.5]


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


def test_an_edit_without_layers_edits_all_of_them() -> None:
    parameters = AblationParameters("per_layer", None, {MLP: ComponentParameters(0, 1, 1.0)})
    old = parameters.to_dict()
    del old["layers"]
    assert AblationParameters.from_dict(old) == parameters
    assert parameters.strengths(3) == {MLP: [1.0] * 3}


@given(
    st.one_of(ranges, tents),
    st.one_of(ranges, tents),
    st.one_of(st.none(), st.floats(0, 30)),
    st.one_of(st.none(), st.lists(st.integers(0, 30))),
)
def test_survives_json(
    attention: ComponentParameters | KernelParameters,
    mlp: ComponentParameters | KernelParameters,
    index: float | None,
    layers: list[int] | None,
) -> None:
    parameters = AblationParameters(
        "per_layer" if index is None else "global",
        index,
        {ATTENTION: attention, MLP: mlp},
        None if layers is None else tuple(layers),
    )

    read = AblationParameters.from_dict(json.loads(json.dumps(parameters.to_dict())))

    assert read == parameters


def test_a_tent_is_confined_like_a_range() -> None:
    parts = {MLP: KernelParameters(0.5, 1.0, 1.0, 0.5)}
    found = AblationParameters("per_layer", None, parts, layers=(0, 3)).strengths(5)
    assert found == {MLP: [1.0, 0, 0, 1.0, 0]}
