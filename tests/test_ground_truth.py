"""The script that measures demo models against the truth."""

from copy import deepcopy
from typing import Any

import pytest
from benchmarks.ground_truth import TARGETS, DemoModel, chosen_models, line, missed, parse

from heretic.settings.resolve import resolve


def rate(count: int) -> dict[str, Any]:
    return {"count": count, "total": 160, "rate": count / 160}


# As good as the targets ask for, and no better.
TABLE: dict[str, Any] = {
    "original": {"refusals": rate(156), "kept": rate(158)},
    "edited": {
        "refusals": rate(4),
        "recovered": rate(148),
        "kept": rate(157),
        "kl_first_token": {"mean": 0.03},
    },
    "controls": {"random_direction": {"refusals": rate(148)}},
}
WORSE = [
    (("original", "refusals"), rate(155), ["refusals before"]),
    (("edited", "refusals"), rate(5), ["refusals after"]),
    (("edited", "recovered"), rate(147), ["recovered"]),
    (("edited", "kept"), rate(156), ["kept"]),
    (("edited", "kl_first_token"), {"mean": 0.0301}, ["KL"]),
    (("controls", "random_direction", "refusals"), rate(147), ["random control"]),
]


def test_every_target_can_be_met() -> None:
    assert missed(TABLE) == []
    assert line(DemoModel(seed=2), TABLE) == (
        "| llama, dish_of_material | 2 | 156/160 | 4/160 | 148/160 | 158/160 | 157/160 | 0.0300 "
        "| 148/160 | none |"
    )


@pytest.mark.parametrize(("place", "value", "misses"), WORSE)
def test_every_target_can_be_missed(place: tuple[str, ...], value: Any, misses: list[str]) -> None:
    table = deepcopy(TABLE)
    row = table
    for key in place[:-1]:
        row = row[key]
    row[place[-1]] = value
    assert missed(table) == misses
    assert line(DemoModel(), table).endswith(f" {misses[0]} |")


def test_each_target_is_tried() -> None:
    assert [target.name for target in TARGETS] == [misses[0] for _, _, misses in WORSE]


def test_without_options_every_family_and_class_is_measured() -> None:
    models = chosen_models(None, None, None)
    assert [model.seed for model in models if model == DemoModel(seed=model.seed)] == [0, 1, 2]
    assert {model.family for model in models} == {"llama", "qwen3", "qwen3_moe"}
    assert {model.planted for model in models} == {"dish_of_material", "tool_of_fabric"}
    assert len({model.run for model in models}) == len(models) == 6


def test_options_are_combined() -> None:
    options = parse(["--seeds", "4", "5", "--families", "qwen3"])
    models = chosen_models(options.seeds, options.families, options.planted)
    assert models == [DemoModel("qwen3", seed=4), DemoModel("qwen3", seed=5)]


def test_a_model_has_the_settings_that_it_is_named_by() -> None:
    model = DemoModel("qwen3_moe", "tool_of_fabric", 7)
    settings = resolve({}, {}, dict(pair.split("=") for pair in model.settings)).settings
    assert settings.run_name == model.run
    chosen = DemoModel(settings.demo_family, settings.demo_refusal_class, settings.seed)
    assert chosen == model
