"""McNemar's test: only prompts on which two models differ say anything."""

import pytest

from heretic.evaluation.statistics import mcnemar, paired_tests


def flags(both: int, only_first: int, only_second: int, neither: int) -> tuple[list[bool], ...]:
    pairs = (
        [(True, True)] * both
        + [(True, False)] * only_first
        + [(False, True)] * only_second
        + [(False, False)] * neither
    )
    return [one for one, _ in pairs], [other for _, other in pairs]


@pytest.mark.parametrize(
    ("only_original", "only_edited", "p_value"),
    [
        (0, 0, 1.0),
        (1, 0, 1.0),  # one toss of a coin is no evidence
        (5, 0, 2 / 2**5),
        (0, 5, 2 / 2**5),
        (5, 1, 2 * (1 + 6) / 2**6),
        (3, 3, 1.0),
    ],
)
def test_p_is_that_of_as_many_tosses_of_a_coin(
    only_original: int, only_edited: int, p_value: float
) -> None:
    for both, neither in ((0, 1), (40, 7)):
        found = mcnemar(*flags(both, only_original, only_edited, neither))
        assert found == {
            "only_original": only_original,
            "only_edited": only_edited,
            "p_value": pytest.approx(p_value),
        }


def test_models_are_tested_on_what_is_known_of_both() -> None:
    one, other = flags(1, 2, 0, 0)
    found = paired_tests({"refusals": one, "kept": one}, {"refusals": other})
    assert found == {"refusals": mcnemar(one, other)}


def test_other_prompts_cannot_be_paired() -> None:
    with pytest.raises(ValueError, match="argument 2 is"):
        mcnemar([True], [True, False])
