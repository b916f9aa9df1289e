"""From residuals to directions: methods, protection and what is refused."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from heretic.directions.contrast import contrastive_pca, mean_difference
from heretic.directions.extract import ExtractionOptions, extract_directions
from heretic.directions.orthogonalize import normalize
from heretic.errors import DirectionError
from heretic.settings import Settings

torch.set_num_threads(1)
LAYERS, D = 4, 12
OPTIONS = ExtractionOptions("mean_difference", 1.0, "good", False, 0.05)


def states(n: int, seed: int, shift: float = 0.0) -> Tensor:
    """Residuals whose first state is the same for all prompts, as chat templates make it."""
    generator = torch.Generator().manual_seed(seed)
    found = torch.randn(n, LAYERS + 1, D, generator=generator) + 1
    found[..., 0] += shift
    found[:, 0] = 0.5
    return found


GOOD, BAD = states(20, 0), states(15, 1, shift=4.0)
PLAIN, SACRED = states(18, 2, shift=-2.0), states(16, 3)
SACRED[..., 1] += 3


def unit(rows: Tensor) -> Tensor:
    return normalize(rows).float()


def test_options_are_the_settings_of_the_same_names() -> None:
    assert ExtractionOptions.from_settings(Settings().subset("compute_directions")) == OPTIONS


def test_the_difference_of_means_is_normalised() -> None:
    result = extract_directions(GOOD, BAD, OPTIONS)
    assert result.refusal_directions.dtype == torch.float32
    assert result.refusal_directions.equal(unit(mean_difference(BAD, GOOD)))
    assert result.refusal_directions[0].tolist() == [0.0] * D
    assert (result.refusal_directions[1:].norm(dim=-1) - 1).abs().max() < 1e-6
    assert result.tensors().keys() == {"refusal_directions"}


def test_contrastive_pca_is_chosen_by_name() -> None:
    options = replace(OPTIONS, direction_method="contrastive_pca", cpca_alpha=0.7)
    result = extract_directions(GOOD, BAD, options)
    assert result.refusal_directions.equal(contrastive_pca(BAD, GOOD, 0.7, "good").float())
    assert not result.refusal_directions.equal(unit(mean_difference(BAD, GOOD)))


def test_all_that_is_protected_is_taken_out() -> None:
    options = replace(OPTIONS, orthogonalize_to_good=True)
    result = extract_directions(GOOD, BAD, options, unhelpfulness=PLAIN, sacred=SACRED)
    assert result.tensors().keys() == {
        "refusal_directions",
        "unhelpfulness_directions",
        "sacred_directions",
    }
    helpful, sacred = result.unhelpfulness_directions, result.sacred_directions
    assert helpful is not None
    assert sacred is not None
    # From plain text to requests, and from plain text to the protected ability.
    assert helpful.equal(unit(mean_difference(GOOD, PLAIN)))
    assert sacred.equal(unit(mean_difference(SACRED, PLAIN)))
    for protected in (unit(GOOD.double().mean(0)), helpful, sacred):
        assert (result.refusal_directions * protected).sum(-1)[1:].abs().max() < 1e-6
    assert (result.refusal_directions[1:].norm(dim=-1) - 1).abs().max() < 1e-6
    plain = extract_directions(GOOD, BAD, OPTIONS).refusal_directions
    assert ((result.refusal_directions * plain).sum(-1)[1:] > 0).all()


def test_without_plain_text_the_protected_ability_stands_against_good_prompts() -> None:
    result = extract_directions(GOOD, BAD, OPTIONS, sacred=SACRED)
    assert result.sacred_directions is not None
    assert result.sacred_directions.equal(unit(mean_difference(SACRED, GOOD)))
    assert result.unhelpfulness_directions is None


def test_a_direction_that_is_all_protected_is_refused() -> None:
    plain = GOOD.clone()
    plain[:, 3] -= BAD[:, 3].mean(0) - GOOD[:, 3].mean(0)
    with pytest.raises(DirectionError, match=r"^after layer 2 only 0\.0"):
        extract_directions(GOOD, BAD, OPTIONS, unhelpfulness=plain)


@pytest.mark.parametrize("method", ["mean_difference", "contrastive_pca"])
def test_sets_that_the_model_treats_alike_are_refused(method: str) -> None:
    alike = BAD.clone()
    alike[:, 2] = GOOD[:15, 2].mean(0)
    good = GOOD.clone()
    good[:, 2] = alike[0, 2]
    options = ExtractionOptions.from_settings(
        {**Settings().model_dump(), "direction_method": method}
    )
    with pytest.raises(DirectionError, match="same state after layer 1; use prompt sets"):
        extract_directions(good, alike, options)


@pytest.mark.parametrize("method", ["mean_difference", "contrastive_pca"])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("spoilt", range(4))
def test_overflowed_residuals_are_called_that(method: str, value: float, spoilt: int) -> None:
    sets = [GOOD.clone(), BAD.clone(), PLAIN.clone(), SACRED.clone()]
    sets[spoilt][3, 2, 1] = value
    options = ExtractionOptions.from_settings(
        {**Settings().model_dump(), "direction_method": method}
    )
    with pytest.raises(DirectionError, match=r"no numbers.*dtype=bfloat16"):
        extract_directions(sets[0], sets[1], options, unhelpfulness=sets[2], sacred=sets[3])
