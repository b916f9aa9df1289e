"""What a trial may try."""

from typing import Any

import optuna
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from heretic.ablation.directions import AblationDirections
from heretic.ablation.parameters import (
    AblationParameters,
    ComponentParameters,
    KernelParameters,
)
from heretic.errors import StudyError
from heretic.model.stream_writers.components import ATTENTION, COMPONENTS, MLP
from heretic.search.samplers import Sampling
from heretic.search.search_space import Form, SearchSpace, usable_rows
from heretic.settings.schema import Settings

unit = st.floats(0, 1)


def suggest(space: SearchSpace, **fixed: Any) -> AblationParameters:
    return space.suggest(optuna.trial.FixedTrial(fixed))


def sampled(**changes: Any) -> dict[str, Any]:
    return {
        "direction_scope": "global",
        "direction_index": 2.5,
        "attn_layer_min": 0.25,
        "attn_layer_span": 0.5,
        "attn_weight": 1.5,
        "mlp_layer_min": 0.0,
        "mlp_layer_span": 1.0,
        "mlp_weight": 0.0,
        **changes,
    }


def test_parameters_by_name() -> None:
    found = suggest(SearchSpace(5, "both", 2.0), **sampled())
    assert (found.direction_scope, found.direction_index) == ("global", 2.5)
    assert found.components.keys() == set(COMPONENTS)
    strengths = found.strengths(5)
    # From a quarter of the depth over half of what is left, both ends included.
    assert strengths["attn.o_proj"] == [0, 1.5, 1.5, 0, 0] or strengths["attn.o_proj"] == [
        0,
        1.5,
        1.5,
        1.5,
        0,
    ]
    assert strengths["mlp.down_proj"] == [0.0] * 5


def test_the_index_means_nothing_to_layers_with_their_own_direction() -> None:
    found = suggest(SearchSpace(5, "both", 2.0), **sampled(direction_scope="per_layer"))
    assert found.direction_scope == "per_layer"
    assert found.direction_index is None


def test_embeddings_have_a_strength_of_their_own_where_they_are_edited() -> None:
    found = suggest(SearchSpace(5, "both", 2.0, embeddings=True), **sampled(embed_weight=1.25))
    assert found.strengths(5)["embed"] == [1.25]
    assert found.strengths(5).keys() == {*COMPONENTS, "embed"}
    with pytest.raises(ValueError, match="embed_weight"):
        suggest(SearchSpace(5, "both", 2.0, embeddings=True), **sampled())


@settings(deadline=None)
@given(start=unit, span=unit, n_layers=st.integers(1, 80))
def test_every_sample_is_a_range_of_layers(start: float, span: float, n_layers: int) -> None:
    values = sampled(attn_layer_min=start, attn_layer_span=span, direction_index=1.0)
    part = suggest(SearchSpace(n_layers, "both", 2.0), **values).components["attn.o_proj"]
    assert isinstance(part, ComponentParameters)
    assert 0 <= part.layer_min <= part.layer_max <= 1
    strengths = part.strengths(n_layers)
    assert 1.5 in strengths
    edited = [layer for layer, strength in enumerate(strengths) if strength]
    assert edited == list(range(edited[0], edited[-1] + 1))


@pytest.mark.parametrize("scope", ["global", "per_layer"])
def test_a_fixed_scope_is_the_only_one(scope: Any) -> None:
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    space = SearchSpace(4, scope, 1.5)
    for _ in range(10):
        trial = study.ask()
        found = space.suggest(trial)
        assert found.direction_scope == scope
        assert all(0 <= part.weight <= 1.5 for part in found.components.values())
        if scope == "global":
            assert found.direction_index is not None
            assert 1 <= found.direction_index <= 4
    # Every trial is asked for the same names, or the multivariate sampler learns nothing.
    assert trial.params.keys() == sampled().keys()


def tents(**changes: Any) -> dict[str, Any]:
    return {
        "direction_scope": "per_layer",
        "direction_index": 1.0,
        "mlp_edited": True,
        "attn_position": 0.5,
        "attn_weight": 1.5,
        "attn_min_share": 0.5,
        "attn_distance": 0.5,
        "mlp_position": 1.0,
        "mlp_weight": 1.0,
        "mlp_min_share": 0.0,
        "mlp_distance": 1.0,
        **changes,
    }


def test_a_kernel_is_a_tent_per_component() -> None:
    space = SearchSpace(5, "both", 2.0, form="kernel")
    assert suggest(space, **tents()).components == {
        ATTENTION: KernelParameters(0.5, 1.5, 0.5, 0.5),
        MLP: KernelParameters(1.0, 1.0, 0.0, 1.0),
    }
    without = suggest(space, **tents(mlp_edited=False)).strengths(5)
    assert without[MLP] == [0.0] * 5
    assert without[ATTENTION] == suggest(space, **tents()).strengths(5)[ATTENTION]


@pytest.mark.parametrize(
    ("edited", "weights"), [("attn", (1.5, 0)), ("mlp", (0, 1.25)), ("both", (1.5, 1.25))]
)
def test_components_are_edited_or_left_as_the_search_says(
    edited: str, weights: tuple[float, float]
) -> None:
    space = SearchSpace(5, "both", 2.0, form="components")
    values = sampled(edited=edited, mlp_weight=1.25)
    found = suggest(space, **values).strengths(5)
    assert (max(found[ATTENTION]), max(found[MLP])) == weights


@pytest.mark.parametrize("form", ["range", "kernel", "components"])
@settings(deadline=None)
@given(
    n_layers=st.integers(1, 80),
    seed=st.integers(0, 999),
    share=st.one_of(st.none(), st.floats(0, 1)),
)
def test_every_suggestion_is_valid(
    form: Form, n_layers: int, seed: int, share: float | None
) -> None:
    """And edits at least one layer of a component that is edited, confined or not."""
    rows = None if share is None else tuple(range(1 + int(share * (n_layers - 1)), n_layers + 1, 3))
    space = SearchSpace(n_layers, "both", 1.5, rows, form=form)
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=seed))
    trial = study.ask()
    found = space.suggest(trial)
    allowed = range(n_layers) if rows is None else [row - 1 for row in rows]
    for name, strengths in found.strengths(n_layers).items():
        assert len(strengths) == n_layers
        assert all(0 <= strength <= 1.5 for strength in strengths)
        edited = {layer for layer, strength in enumerate(strengths) if strength}
        assert edited <= set(allowed)
        assert bool(edited) == (found.components[name].weight > 0)
    assert AblationParameters.from_dict(found.to_dict()) == found
    # What was asked for is all that is needed to suggest the same once more.
    assert space.suggest(optuna.trial.FixedTrial(trial.params)) == found


@pytest.mark.parametrize("form", ["kernel", "components"])
def test_every_form_asks_for_the_same_names_in_every_trial(form: Form) -> None:
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    space = SearchSpace(4, "both", 1.5, form=form)
    names: set[tuple[str, ...]] = set()
    edited: set[tuple[str, ...]] = set()
    for _ in range(20):
        trial = study.ask()
        found = space.suggest(trial).components
        names.add(tuple(trial.params))
        edited.add(tuple(name for name, part in found.items() if part.weight))
    assert len(names) == 1
    assert edited == {(ATTENTION, MLP), (ATTENTION,)} | (
        {(MLP,)} if form == "components" else set()
    )


@settings(deadline=None)
@given(position=unit, rows=st.sets(st.integers(1, 40), min_size=1))
def test_a_confined_peak_is_at_a_layer_that_may_be_edited(position: float, rows: set[int]) -> None:
    space = SearchSpace(40, "both", 2.0, tuple(sorted(rows)), form="kernel")
    values = tents(attn_position=position, attn_distance=0.05, direction_index=float(min(rows)))
    strengths = suggest(space, **values).strengths(40)[ATTENTION]
    assert strengths.index(max(strengths)) + 1 in rows
    assert max(strengths) == pytest.approx(1.5)


ROWS = (2, 3, 6, 9)


@pytest.mark.parametrize(
    ("sample", "taken"),
    [
        (2.0, 2.0),
        (2.4, 2.4),
        (3.0, 3.0),
        (4.4, 3.0),
        (4.6, 6.0),
        (7.5, 6.0),
        (8.9, 9.0),
        (9.0, 9.0),
    ],
)
def test_an_index_between_rows_that_may_not_be_used_is_the_nearest_that_may(
    sample: float, taken: float
) -> None:
    found = suggest(SearchSpace(10, "both", 2.0, ROWS), **sampled(direction_index=sample))
    assert found.direction_index == taken


def test_only_layers_that_write_such_a_row_are_edited() -> None:
    values = sampled(attn_layer_min=0.0, attn_layer_span=1.0)
    found = suggest(SearchSpace(10, "both", 2.0, ROWS), **values).strengths(10)["attn.o_proj"]
    assert [layer for layer, strength in enumerate(found) if strength] == [1, 2, 5, 8]


@settings(deadline=None)
@given(start=unit, span=unit, rows=st.sets(st.integers(1, 40), min_size=1))
def test_a_confined_range_always_holds_a_layer(start: float, span: float, rows: set[int]) -> None:
    space = SearchSpace(40, "both", 2.0, tuple(sorted(rows)))
    values = sampled(attn_layer_min=start, attn_layer_span=span, direction_index=float(min(rows)))
    found = suggest(space, **values).strengths(40)["attn.o_proj"]
    edited = {layer + 1 for layer, strength in enumerate(found) if strength}
    assert edited
    assert edited <= rows


@pytest.mark.parametrize("rows", [ROWS, (4,)])
def test_the_index_is_sought_between_the_first_and_the_last_such_row(rows: tuple[int, ...]) -> None:
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    trial = study.ask()
    SearchSpace(10, "global", 2.0, rows).suggest(trial)
    index = trial.distributions["direction_index"]
    assert isinstance(index, optuna.distributions.FloatDistribution)
    assert (index.low, index.high) == (rows[0], rows[-1])


@pytest.mark.parametrize("form", ["range", "kernel", "components"])
@pytest.mark.parametrize("rows", [None, (2, 6, 9, 11)])
def test_the_search_stays_within_its_bounds(form: Form, rows: tuple[int, ...] | None) -> None:
    space = SearchSpace(
        11, "global", 2.0, rows, form=form, min_weight=0.5,
        layer_range=(0.3, 0.8), direction_layer_range=(0.4, 0.9),
    )  # fmt: skip
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    for _ in range(30):
        trial = study.ask()
        found = space.suggest(trial)
        assert 5 <= trial.params["direction_index"] <= 10
        assert found.direction_index in rows if rows else found.direction_index is not None
        for part in found.components.values():
            assert part.weight == 0 or 0.5 <= part.weight <= 2.0
            places = (
                (part.position,)
                if isinstance(part, KernelParameters)
                else (part.layer_min, part.layer_max)
            )
            # Of the depth of those layers alone, where a search is confined to some.
            low, high = (0.3, 0.8) if rows is None else (0.5, 0.8)
            assert all(low - 1e-9 <= place <= high + 1e-9 for place in places)


def test_the_setting_confines_a_search_to_what_separates() -> None:
    known = torch.tensor([1, 0, 1, 1])
    directions = AblationDirections.of(torch.eye(4), discriminative=known)
    assert usable_rows(directions, discriminative_layers=True) == (2, 3)
    assert usable_rows(directions, discriminative_layers=False) is None
    # Files from before it was known.
    assert usable_rows(AblationDirections.of(torch.eye(4)), True) == (1, 2, 3)


def test_a_search_without_layers_is_refused() -> None:
    directions = AblationDirections.of(torch.eye(3), discriminative=torch.tensor([1, 0, 0]))
    with pytest.raises(StudyError, match=r"none of 2 layers .*layers=true.*set it to"):
        usable_rows(directions, discriminative_layers=True)


def test_settings_say_what_a_trial_may_try_and_who_chooses() -> None:
    changes: dict[str, Any] = {
        "direction_scope": "global", "max_weight": 1.5, "min_weight": 0.5, "search_space": "kernel",
        "ablate_embeddings": True, "layer_range": "0.2,0.8", "direction_layer_range": "0.4,0.9",
        "seed": 3, "n_startup_trials": 7, "sampler": "gp", "sobol_startup": False,
    }  # fmt: skip
    told = Settings(**changes).subset("optimize")
    assert SearchSpace.from_settings(told, 12, (2, 3)) == SearchSpace(
        12, "global", 1.5, (2, 3), True, "kernel", 0.5, (0.2, 0.8), (0.4, 0.9)
    )
    assert Sampling.from_settings(told) == Sampling(3, 7, "gp", False)
