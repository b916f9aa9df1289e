"""From residuals to directions: methods, protection and what is refused."""

import pytest
import torch
from clouds import options_of, sets_of, states
from torch import Tensor

from heretic.ablation.linalg import normalize
from heretic.directions import ResidualSets, directions_of, extract_directions
from heretic.directions.options import ExtractionOptions
from heretic.errors import DirectionError
from heretic.settings.schema import Settings

D = 12
SETS = sets_of()
PLAIN, SACRED = states(18, 12, shift=-2.0), states(16, 13)
SACRED[..., 1] += 3


def unit(rows: Tensor) -> Tensor:
    return normalize(rows).float()


def test_options_are_the_settings_of_the_same_names() -> None:
    settings = Settings(n_directions=2, direction_method="pca", direction_weights=[1, 0.5])
    options = ExtractionOptions.from_settings(settings.subset("compute_directions"))
    assert options == options_of(
        n_directions=2, direction_method="pca", direction_weights=(1.0, 0.5)
    )


def test_the_difference_of_means_is_normalised() -> None:
    result = extract_directions(SETS, options_of())
    assert result.refusal_directions.dtype == torch.float32
    difference = SETS.bad.double().mean(0) - SETS.good.double().mean(0)
    assert (result.refusal_directions[1:] - unit(difference)[1:]).abs().max() < 1e-6
    assert result.refusal_directions[0].tolist() == [0.0] * D
    assert (result.refusal_directions[1:].norm(dim=-1) - 1).abs().max() < 1e-6
    assert result.tensors().keys() == {
        "refusal_directions",
        "direction_weights",
        "discriminative",
        "position",
    }
    assert result.tensors()["discriminative"].tolist() == [0, 1, 1, 1, 1]
    assert result.remaining[1:].tolist() == [[pytest.approx(1)]] * 4


@pytest.mark.parametrize("method", ["contrastive_pca", "pca", "probe", "ensemble"])
def test_the_method_is_chosen_by_name(method: str) -> None:
    options = options_of(direction_method=method, cpca_alpha=0.7)
    found = extract_directions(SETS, options).refusal_directions
    assert (found - directions_of(SETS.bad, SETS.good, options)[:, 0]).abs().max() < 1e-6
    assert not torch.allclose(found, extract_directions(SETS, options_of()).refusal_directions)


def test_several_directions_are_orthonormal_and_protected() -> None:
    options = options_of(
        direction_method="contrastive_pca", n_directions=3, orthogonalize_to_good=True
    )
    result = extract_directions(SETS, options)
    rows = result.refusal_directions
    assert rows.shape == (5, 3, D)
    assert (rows[1:] @ rows[1:].mT - torch.eye(3)).abs().max() < 1e-6
    assert (rows @ unit(SETS.good.double().mean(0))[..., None])[1:].abs().max() < 1e-6
    difference = (SETS.bad.double().mean(0) - SETS.good.double().mean(0)).float()
    assert ((rows * difference[:, None]).sum(-1) > -1e-6).all()


def test_weights_are_equal_given_or_by_explained_variance() -> None:
    base = {"direction_method": "contrastive_pca", "n_directions": 2}
    equal = extract_directions(SETS, options_of(**base))
    assert equal.direction_weights.tolist() == [[1.0, 1.0]] * 5
    given = extract_directions(SETS, options_of(**base, direction_weights=(1.0, 0.25)))
    assert given.direction_weights.tolist() == [[1.0, 0.25]] * 5
    shares = extract_directions(SETS, options_of(**base, direction_weights="explained_variance"))
    about = (SETS.bad - SETS.good.mean(0)).double()
    for layer in range(1, 5):
        rows = shares.refusal_directions[layer].double()
        moments = (about[:, layer] @ rows.T).square().mean(0)
        wanted = (moments / moments.max()).float()
        assert (shares.direction_weights[layer] - wanted).abs().max() < 1e-6
        # The difference of means outweighs the rest, yet leaves it some.
        assert shares.direction_weights[layer, 0] == 1
        assert 0 < shares.direction_weights[layer, 1] < 0.5


@pytest.mark.parametrize("how", ["joint", "sequential"])
def test_all_that_is_protected_is_taken_out(how: str) -> None:
    sets = sets_of(unhelpfulness=PLAIN, sacred=SACRED)
    options = options_of(orthogonalize_to_good=True, orthogonalization=how, n_sacred_directions=2)
    result = extract_directions(sets, options)
    helpful, sacred = result.unhelpfulness_directions, result.sacred_directions
    assert helpful is not None
    assert sacred is not None
    assert {"unhelpfulness_directions", "sacred_directions"} <= result.tensors().keys()
    # From plain text to requests, and from plain text to the protected ability.
    difference = sets.good.double().mean(0) - PLAIN.double().mean(0)
    assert (helpful - unit(difference))[1:].abs().max() < 1e-6
    ability = options_of(direction_method="contrastive_pca", n_directions=2)
    assert sacred.equal(directions_of(SACRED, PLAIN, ability).float())
    units = result.refusal_directions[..., None]
    assert (sacred @ units)[1:, 1].abs().max() < 1e-6  # the last one to be removed
    good = unit(sets.good.double().mean(0))
    others = torch.stack([good, helpful, sacred[:, 0]], 1)
    assert ((others @ units)[1:].abs().max() < 1e-6) == (how == "joint")
    assert (result.refusal_directions[1:].norm(dim=-1) - 1).abs().max() < 1e-6
    assert (result.remaining[1:] < 0.999).all()


def test_a_mean_that_was_streamed_does_what_the_states_do() -> None:
    whole = extract_directions(sets_of(unhelpfulness=PLAIN), options_of())
    mean = PLAIN.double().mean(0)
    streamed = extract_directions(sets_of(unhelpfulness_mean=mean), options_of())
    assert streamed.refusal_directions.equal(whole.refusal_directions)
    assert streamed.unhelpfulness_directions is not None
    # Sacred prompts then stand against the good ones, as without any plain texts.
    both = extract_directions(sets_of(unhelpfulness_mean=mean, sacred=SACRED), options_of())
    alone = extract_directions(sets_of(sacred=SACRED), options_of())
    assert both.sacred_directions is not None
    assert alone.sacred_directions is not None
    assert both.sacred_directions.equal(alone.sacred_directions)
    assert alone.unhelpfulness_directions is None


def test_a_direction_that_is_all_protected_is_refused() -> None:
    plain = SETS.good.clone()
    plain[:, 3] -= SETS.bad[:, 3].mean(0) - SETS.good[:, 3].mean(0)
    with pytest.raises(DirectionError, match=r"^after layer 2 only 0\.0"):
        extract_directions(sets_of(unhelpfulness=plain), options_of())


@pytest.mark.parametrize("method", ["mean_difference", "contrastive_pca", "probe", "ensemble"])
def test_sets_that_the_model_treats_alike_are_refused(method: str) -> None:
    good, bad = SETS.good.clone(), SETS.bad.clone()
    good[:, 2] = bad[:, 2] = good[0, 2]
    with pytest.raises(DirectionError, match="same state after layer 1; use prompt sets"):
        extract_directions(sets_of(good=good, bad=bad), options_of(direction_method=method))


def tensors_of(sets: ResidualSets) -> dict[str, dict[str, Tensor]]:
    """What the files of the sets hold."""
    found = {
        "good_prompts": {"residuals": sets.good},
        "bad_prompts": {"residuals": sets.bad},
        "good_evaluation_prompts": {"residuals": sets.held_out_good},
        "bad_evaluation_prompts": {"residuals": sets.held_out_bad},
    }
    if sets.unhelpfulness_mean is not None:
        found["unhelpfulness_prompts"] = {"mean": sets.unhelpfulness_mean}
    if sets.sacred is not None:
        found["sacred_prompts"] = {"residuals": sets.sacred}
    return found


def test_files_become_sets() -> None:
    sets = sets_of(sacred=SACRED, unhelpfulness_mean=PLAIN.mean(0))
    found = ResidualSets.from_tensors(tensors_of(sets))
    assert all(getattr(found, name) is value for name, value in vars(sets).items())


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("spoilt", ["good", "bad", "held_out_bad", "sacred"])
def test_overflowed_residuals_are_called_that(value: float, spoilt: str) -> None:
    sets = sets_of(sacred=SACRED.clone())
    changed = getattr(sets, spoilt).clone()
    changed[3, 2, 1] = value
    tensors = tensors_of(sets_of(**{"sacred": SACRED, spoilt: changed}))
    with pytest.raises(DirectionError, match=r"non-finite values.*dtype=bfloat16"):
        ResidualSets.from_tensors(tensors)


def test_directions_that_good_prompts_vary_more_along_are_refused() -> None:
    options = options_of(direction_method="contrastive_pca", n_directions=8, cpca_alpha=5)
    with pytest.raises(
        DirectionError, match=r"after layer 0 .* finds only \d of 8 directions .*; low"
    ):
        extract_directions(SETS, options)
    options = options_of(n_sacred_directions=9, cpca_alpha=5)
    with pytest.raises(DirectionError, match=r"of 9 directions .*lower .* n_sacred_directions"):
        extract_directions(sets_of(unhelpfulness=PLAIN, sacred=SACRED), options)


def test_a_single_prompt_is_refused() -> None:
    tensors = tensors_of(sets_of(bad=SETS.bad[:1]))
    with pytest.raises(DirectionError, match="at least 2 prompts"):
        ResidualSets.from_tensors(tensors)


def test_residuals_of_another_model_are_refused() -> None:
    tensors = tensors_of(sets_of(held_out_bad=states(9, 0, layers=3)))
    with pytest.raises(
        DirectionError, match=r"held_out_bad have shape \[4, 12\].*\[5, 12\]; delete"
    ):
        ResidualSets.from_tensors(tensors)
    del tensors["bad_prompts"]["residuals"]
    with pytest.raises(DirectionError, match="lack 'residuals'; extract them again"):
        ResidualSets.from_tensors(tensors)
