"""What a trial may try."""

from typing import Any

import optuna
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from heretic.ablation.parameters import AblationParameters
from heretic.model.components import COMPONENTS
from heretic.optimization.search_space import SearchSpace

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


@settings(deadline=None)
@given(start=unit, span=unit, n_layers=st.integers(1, 80))
def test_every_sample_is_a_range_of_layers(start: float, span: float, n_layers: int) -> None:
    values = sampled(attn_layer_min=start, attn_layer_span=span, direction_index=1.0)
    part = suggest(SearchSpace(n_layers, "both", 2.0), **values).components["attn.o_proj"]
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
