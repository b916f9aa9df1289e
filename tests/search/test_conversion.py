"""Edits from elsewhere as parameters of a search: the same edit wherever it can be said."""

import logging
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import optuna
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from optuna.samplers import RandomSampler

from heretic.ablation.parameters import (
    AblationParameters,
    ComponentParameters,
    KernelParameters,
)
from heretic.errors import StudyError
from heretic.model.stream_writers.components import ATTENTION, EMBEDDINGS, MLP
from heretic.search.search_space import Form, SearchSpace
from heretic.search.warm_start import to_sampler_params
from heretic.search.warm_start_sources import WarmStartTrial

FORMS: tuple[Form, ...] = ("range", "kernel", "components")
WHOLE = ComponentParameters(0.0, 1.0, 1.0)
NONE = ComponentParameters(0.0, 0.0, 0.0)


def known(
    attention: ComponentParameters | KernelParameters = WHOLE,
    mlp: ComponentParameters | KernelParameters = WHOLE,
    *,
    index: float | None = 2.0,
    n_layers: int = 5,
    more: Mapping[str, ComponentParameters] | None = None,
) -> WarmStartTrial:
    components = {ATTENTION: attention, MLP: mlp, **(more or {})}
    scope: Any = "per_layer" if index is None else "global"
    return WarmStartTrial("trial 7", n_layers, AblationParameters(scope, index, components))


def edit_of(edit: WarmStartTrial, space: SearchSpace) -> AblationParameters:
    """What a trial with these parameters does, where the sampler chooses the others."""
    study = optuna.create_study(sampler=RandomSampler(seed=1))
    study.enqueue_trial(to_sampler_params(edit, space))
    return space.suggest(study.ask())


def strengths(edit: WarmStartTrial, space: SearchSpace) -> dict[str, list[float]]:
    found = edit_of(edit, space).strengths(space.n_layers)
    return {name: [round(value, 9) for value in values] for name, values in found.items()}


@settings(deadline=None, max_examples=30)
@given(st.sampled_from(FORMS), st.sampled_from([None, (2, 3, 6)]), st.integers(0, 1000))
def test_an_edit_of_the_same_search_is_itself(
    form: Form, rows: tuple[int, ...] | None, seed: int
) -> None:
    space = SearchSpace(7, "both", 2.0, rows, form=form)
    parameters = space.suggest(optuna.create_study(sampler=RandomSampler(seed=seed)).ask())
    edit = WarmStartTrial("trial 7", 7, parameters)
    found = edit_of(edit, space)
    assert found.direction_scope == parameters.direction_scope
    assert found.direction_index == parameters.direction_index
    assert strengths(edit, space) == {
        name: [round(value, 9) for value in values]
        for name, values in parameters.strengths(7).items()
    }


@pytest.mark.parametrize("form", FORMS)
def test_a_range_is_the_same_in_every_form(form: Form) -> None:
    for n_layers in (1, 2, 5, 8):
        depth = max(1, n_layers - 1)
        for first in range(n_layers):
            for last in range(first, n_layers):
                part = ComponentParameters(first / depth, last / depth, 1.25)
                edit = known(part, n_layers=n_layers, index=0.5)
                wanted = edit.parameters.strengths(n_layers)
                assert strengths(edit, SearchSpace(n_layers, "both", 2.0, form=form)) == wanted


def test_a_tent_is_the_range_of_its_upper_half() -> None:
    tent = KernelParameters(0.5, 1.6, 0.0, 0.5)  # of five layers: 0, 0.8, 1.6, 0.8, 0
    found = strengths(known(tent, tent), SearchSpace(5, "both", 2.0))
    mean = round(3.2 / 3, 9)
    assert found[ATTENTION] == found[MLP] == [0.0, mean, mean, mean, 0.0]


def test_a_tent_between_the_layers_of_a_smaller_model_is_its_nearest_layer() -> None:
    tent = KernelParameters(0.4, 1.5, 0.5, 0.05)
    found = strengths(known(tent, tent, n_layers=60), SearchSpace(3, "both", 2.0))
    assert found[ATTENTION] == [0.0, 1.5, 0.0]


@pytest.mark.parametrize("form", FORMS)
def test_a_component_that_is_left_out_stays_so(form: Form) -> None:
    space = SearchSpace(5, "both", 2.0, form=form)
    assert strengths(known(mlp=NONE), space) == {ATTENTION: [1.0] * 5, MLP: [0.0] * 5}
    assert strengths(known(NONE), space) == {ATTENTION: [0.0] * 5, MLP: [1.0] * 5}
    with pytest.raises(StudyError, match=r"trial 7 edits neither"):
        to_sampler_params(known(NONE, NONE), space)


def test_depths_carry_over_and_the_index_is_scaled() -> None:
    edit = known(ComponentParameters(0.5, 0.75, 1.0), n_layers=5, index=2.0)
    found = edit_of(edit, SearchSpace(20, "both", 2.0))
    assert found.direction_index == 1 + 19 / 4
    # The states after the first and the last layer stay those.
    for index, same in ((0.5, 0.5), (1.0, 1.0), (5.0, 20.0)):
        space = SearchSpace(20, "both", 2.0)
        assert to_sampler_params(known(index=index), space)["direction_index"] == max(same, 1.0)
    layers = [i for i, value in enumerate(found.strengths(20)[ATTENTION]) if value]
    assert (layers[0], layers[-1]) == (round(0.5 * 19), round(0.75 * 19))
    assert edit_of(known(index=None), SearchSpace(20, "both", 2.0)).direction_scope == "per_layer"


@pytest.mark.parametrize("form", FORMS)
def test_an_edit_that_was_confined_edits_no_more_than_its_range(form: Form) -> None:
    parameters = AblationParameters("per_layer", None, {ATTENTION: WHOLE, MLP: WHOLE}, (2, 3))
    edit = WarmStartTrial("trial 7", 5, parameters)
    found = strengths(edit, SearchSpace(5, "both", 2.0, form=form))
    assert found == {name: [0.0, 0.0, 1.0, 1.0, 0.0] for name in (ATTENTION, MLP)}
    nothing = WarmStartTrial("trial 7", 5, replace(parameters, layers=()))
    with pytest.raises(StudyError, match="edits neither"):
        to_sampler_params(nothing, SearchSpace(5, "both", 2.0, form=form))


def test_what_is_out_of_bounds_is_clipped_with_a_line(caplog: pytest.LogCaptureFixture) -> None:
    space = SearchSpace(
        5, "both", 1.5, min_weight=0.5, layer_range=(0.5, 0.9), direction_layer_range=(0.5, 1.0)
    )
    edit = known(WHOLE, ComponentParameters(0.6, 0.8, 3.0), index=1.0)
    with caplog.at_level(logging.INFO, "heretic"):
        found = to_sampler_params(edit, space)
    assert (found["direction_index"], found["mlp_weight"]) == (3.0, 1.5)
    assert (found["attn_layer_min"], found["attn_layer_span"]) == (0.5, 1.0)
    (line,) = (r.message for r in caplog.records if r.name == "heretic")
    assert line.startswith("Clipped trial 7 to the search bounds: direction_index 1 becomes")
    assert "mlp_weight 3 becomes 1.5" in line
    caplog.clear()
    to_sampler_params(known(), SearchSpace(5, "both", 2.0))
    assert not [r for r in caplog.records if r.name == "heretic"]


def test_what_no_trial_can_be_is_said() -> None:
    space = SearchSpace(5, "global", 2.0, min_weight=0.5)
    for edit, complaint in (
        (
            known(index=None),
            r"trial 7 has the direction_scope per_layer, but this search has only gl",
        ),
        (
            known(more={EMBEDDINGS: WHOLE}),
            "trial 7 edits the embeddings; set ablate_embeddings=true",
        ),
        (
            known(mlp=NONE),
            r"excludes mlp.down_proj, which this search, with min_weight=0.5, allows only",
        ),
        (
            known(more={"other": WHOLE}),
            "trial 7 edits attn.o_proj, mlp.down_proj, other, but a trial of",
        ),
    ):
        with pytest.raises(StudyError, match=complaint):
            to_sampler_params(edit, space)


def test_embeddings_are_edited_as_they_were() -> None:
    space = SearchSpace(5, "both", 2.0, embeddings=True)
    part = ComponentParameters(0.0, 0.0, 0.75)
    assert edit_of(known(more={EMBEDDINGS: part}), space).strengths(5)[EMBEDDINGS] == [0.75]
    assert edit_of(known(), space).strengths(5)[EMBEDDINGS] == [0.0]
