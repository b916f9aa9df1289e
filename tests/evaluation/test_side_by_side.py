"""Two models prompt by prompt, from answers written by hand."""

from typing import Any

import pytest
from measured_answers import measured

from heretic.evaluation.holdout import HoldoutProtocol, HoldoutSets
from heretic.evaluation.intervals import rate
from heretic.evaluation.measurement import Measurement
from heretic.evaluation.side_by_side import SideBySide, side_by_side
from heretic.prompts.prompt import Prompt

REFUSAL = "I'm sorry, but I cannot help with that."
SETS = HoldoutSets(
    good=[
        Prompt("g1", answers=("bake",), category="food"),
        Prompt("g2", answers=("paris",)),
    ],
    bad=[
        Prompt("b1", "Be brief.", ("boil",), "soup"),
        Prompt("b2", answers=("stir",), category="soup"),
        Prompt("b3", category="metal"),
        Prompt("b4", answers=("weld",), category="metal"),
    ],
)
PROTOCOL = HoldoutProtocol(8, 2, 100, 0)
ANSWERS_AFTER = ["Boil it.", REFUSAL, "Cut.", "", "Bake it.", REFUSAL]


def before(sets: HoldoutSets = SETS) -> Measurement:
    zeros = {"kl_first_token": [0.0, 0.0], "kl_teacher_forced": [0.0, 0.0]}
    return measured(sets, [REFUSAL] * 4 + ["Bake it.", "Paris."], zeros, PROTOCOL)


def after(sets: HoldoutSets = SETS) -> Measurement:
    divergences = {"kl_first_token": [0.1, 0.3], "kl_teacher_forced": [0.2, 0.4]}
    return measured(sets, ANSWERS_AFTER, divergences, PROTOCOL)


@pytest.fixture(scope="module")
def found() -> SideBySide:
    return side_by_side(before(), after(), SETS, PROTOCOL)


def counts(parts: dict[str, Any]) -> dict[str, tuple[int, int]]:
    return {name: (value["count"], value["total"]) for name, value in parts.items()}


def test_every_measure_of_both_models_is_tested(found: SideBySide) -> None:
    paired = found.table["paired"]
    split = {name: (test["only_original"], test["only_edited"]) for name, test in paired.items()}
    # Not every right answer to a bad prompt is known, so `recovered` is not there.
    assert split == {
        "refusals": (3, 0), "false_refusals": (0, 1), "degenerate": (0, 1), "kept": (1, 0),
    }  # fmt: skip
    assert paired["refusals"]["p_value"] == pytest.approx(0.25)


def test_categories_break_each_set_down(found: SideBySide) -> None:
    table = found.table["by_category"]
    assert {name: list(parts) for name, parts in table.items()} == {
        "bad_holdout_prompts": ["metal", "soup"],
        "good_holdout_prompts": ["food"],
    }
    soup, metal = (table["bad_holdout_prompts"][name] for name in ("soup", "metal"))
    assert counts(soup["original"]) == {"refusals": (2, 2), "recovered": (0, 2)}
    assert counts(soup["edited"]) == {"refusals": (1, 2), "recovered": (1, 2)}
    assert soup["edited"]["refusals"]["interval"] == rate([True, False])["interval"]
    assert counts(metal["edited"]) == {"refusals": (0, 2)}
    food = table["good_holdout_prompts"]["food"]
    assert counts(food["edited"]) == {"false_refusals": (0, 1), "kept": (1, 1)}


def test_sets_without_categories_are_not_broken_down() -> None:
    sets = HoldoutSets(good=[Prompt("g1"), Prompt("g2")], bad=[Prompt(f"b{n}") for n in range(4)])
    found = side_by_side(before(sets), after(sets), sets, PROTOCOL)
    assert found.table["by_category"] == {}


def test_every_answer_is_a_record(found: SideBySide) -> None:
    assert [record["prompt"] for record in found.answers] == ["b1", "b2", "b3", "b4", "g1", "g2"]
    assert found.answers[0] == {
        "set": "bad_holdout_prompts",
        "prompt": "b1",
        "system": "Be brief.",
        "category": "soup",
        "answers": ["boil"],
        "original": REFUSAL,
        "edited": "Boil it.",
        "refused_before": True,
        "refused_after": False,
        "degenerate_before": False,
        "degenerate_after": False,
        "right_before": False,
        "right_after": True,
        "kl_first_token": None,
        "kl_teacher_forced": None,
    }
    assert found.answers[2]["right_after"] is None
    assert found.answers[3]["degenerate_after"] is True
    last = found.answers[5]
    assert (last["category"], last["right_before"], last["right_after"]) == (None, True, False)
    assert (last["kl_first_token"], last["kl_teacher_forced"]) == (0.3, 0.4)


def test_samples_are_the_first_answers_of_each_set(found: SideBySide) -> None:
    assert [sample["prompt"] for sample in found.table["samples"]] == [
        "b1", "b2", "b3", "b4", "g1", "g2",
    ]  # fmt: skip
    assert found.table["samples"][0] == {
        "set": "bad_holdout_prompts",
        "prompt": "b1",
        "system": "Be brief.",
        "original": REFUSAL,
        "edited": "Boil it.",
        "refused_before": True,
        "refused_after": False,
    }
    many = HoldoutSets(SETS.good[:1], [Prompt(f"b{n}") for n in range(12)])
    answers = measured(many, ["Yes."] * 13, {}, PROTOCOL)
    first = side_by_side(answers, answers, many, PROTOCOL).table["samples"]
    assert [sample["prompt"] for sample in first] == [*(f"b{n}" for n in range(8)), "g1"]


def test_divergences_may_be_unknown() -> None:
    unknown = measured(SETS, ANSWERS_AFTER, {}, PROTOCOL)
    found = side_by_side(before(), unknown, SETS, PROTOCOL)
    assert not {"kl_first_token", "kl_teacher_forced"} & found.table["edited"].keys()
    assert all(record["kl_first_token"] is None for record in found.answers)
