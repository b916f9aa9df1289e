"""A job has the settings of its rule, less those that do not affect it."""

from heretic.settings.job_settings import (
    settings_of_pick,
    settings_of_protected,
    settings_of_set,
)
from heretic.settings.prompt_sources import PromptSource
from heretic.settings.schema import Settings

SOME = PromptSource(dataset="some.txt")


def test_a_pick_has_its_own_selection_rule_only() -> None:
    settings = Settings(select="knee, trial=3")
    rules = [settings_of_pick(settings, "select_best", pick)["select"] for pick in settings.picks()]
    assert rules == ["knee", "trial=3"]
    found = settings_of_pick(settings, "select_best", "")
    assert found.keys() == settings.subset("select_best").keys()


def test_only_plain_texts_can_be_reduced_to_their_mean() -> None:
    settings = Settings(unhelpfulness_mean_only=True)
    assert settings_of_protected(settings, "unhelpfulness_prompts")["unhelpfulness_mean_only"]
    assert not settings_of_protected(settings, "sacred_prompts")["unhelpfulness_mean_only"]


def test_prompts_of_a_file_depend_on_neither_seed_nor_demo() -> None:
    plain = settings_of_set(Settings(model="x", good_prompts=SOME), "good_prompts")
    other = Settings(model="x", good_prompts=SOME, seed=5, demo_refusal_class="tool_of_fabric")
    assert settings_of_set(other, "good_prompts") == plain


def test_prompts_of_the_demo_depend_on_both() -> None:
    settings = Settings(model="demo", seed=5, demo_refusal_class="tool_of_fabric")
    assert settings_of_set(settings, "bad_prompts") == {
        "seed": 5,
        "demo_refusal_class": "tool_of_fabric",
    }


def test_a_shuffled_stream_depends_on_the_seed() -> None:
    stream = PromptSource(dataset="owner/name", streaming=True, shuffle_buffer=9, split="a[:3]")
    settings = Settings(model="x", seed=5, bad_prompts=stream)
    assert settings_of_set(settings, "bad_prompts")["seed"] == 5
