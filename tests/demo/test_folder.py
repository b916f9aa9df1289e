"""Each set of options of the demo model has a folder of its own; the default keeps its name."""

from itertools import combinations
from typing import Any

import pytest

from heretic.demo.folder import folder_name, is_demo_folder
from heretic.settings.schema import Settings

OTHERS: dict[str, Any] = {
    "demo_family": "qwen3",
    "demo_refusal_class": "tool_of_fabric",
    "seed": 3,
    "demo_steps": 900,
}


def test_the_default_model_keeps_its_folder() -> None:
    assert folder_name(Settings()) == "demo-model"


NAMES = {
    "demo_family": "demo-model-qwen3",
    "demo_refusal_class": "demo-model-tool_of_fabric",
    "seed": "demo-model-seed3",
    "demo_steps": "demo-model-steps900",
}


@pytest.mark.parametrize(("option", "name"), list(NAMES.items()))
def test_an_option_is_told_by_the_name(option: str, name: str) -> None:
    assert folder_name(Settings(**{option: OTHERS[option]})) == name


def test_no_two_sets_of_options_share_a_folder() -> None:
    chosen = [c for count in range(len(OTHERS) + 1) for c in combinations(OTHERS, count)]
    names = {folder_name(Settings(**{key: OTHERS[key] for key in keys})) for keys in chosen}
    assert len(names) == 16
    assert all(is_demo_folder(name) for name in names)


def test_what_does_not_make_the_model_is_not_in_the_name() -> None:
    assert folder_name(Settings(n_trials=3, run_name="one", max_kl=2.0)) == "demo-model"


def test_other_folders_are_not_taken_for_a_demo_model() -> None:
    assert not any(map(is_demo_folder, ("demo", "demo-models", "my-demo-model")))
