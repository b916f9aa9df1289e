"""What each rule receives, and how runs and prompt sources follow from the settings."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from heretic.settings import PROMPT_SETS, PromptSource, Settings
from heretic.settings.schema import safe_name

REPOSITORY = Path(__file__).parents[2]
# Neither read by a rule nor able to change how fast something is computed.
NAMES_ONLY = {"run_name"}
RULES = {path.stem for path in (REPOSITORY / "scripts").glob("*.py")}


def rules_of(name: str) -> list[str]:
    extra = Settings.model_fields[name].json_schema_extra
    assert isinstance(extra, dict)
    rules = extra["rules"]
    assert isinstance(rules, list)
    return [str(rule) for rule in rules]


def test_every_setting_has_a_reader() -> None:
    runtime = set(Settings().runtime())
    for name, field in Settings.model_fields.items():
        rules = rules_of(name)
        assert set(rules) <= RULES, name
        assert len(set(rules)) == len(rules), name
        readers = [bool(rules), name in runtime, name in NAMES_ONLY]
        assert sum(readers) == 1, name
        assert field.description
        assert field.description.endswith(".")


@pytest.mark.parametrize("rule", sorted(RULES))
def test_a_subset_is_plain_json_and_names_what_the_rule_reads(rule: str) -> None:
    settings = Settings(
        model="owner/name", bad_prompts=PromptSource(dataset="x.txt"), upload_to="a/b"
    )
    subset = settings.subset(rule)
    assert json.loads(json.dumps(subset, allow_nan=False)) == subset
    listed = {name for name in Settings.model_fields if rule in rules_of(name)}
    # Prompt sets reach their jobs one by one.
    assert subset.keys() == listed - set(PROMPT_SETS)


def test_only_the_rules_of_a_setting_see_it_change() -> None:
    before, after = Settings(), Settings(max_kl=0.5)
    changed = {rule for rule in RULES if before.subset(rule) != after.subset(rule)}
    assert changed == set(rules_of("max_kl"))
    assert "optimize" in changed


def test_how_to_compute_is_nobodys_parameter() -> None:
    before, after = Settings(), Settings(threads=3, device="cpu", cache_weights="false")
    assert all(before.subset(rule) == after.subset(rule) for rule in RULES)
    assert after.runtime()["threads"] == 3


def test_prompt_sources_name_every_set_in_use() -> None:
    required = [name for name in PROMPT_SETS if name in Settings.required_sets()]
    assert list(Settings().prompt_sources()) == required
    all_sets = Settings(model="owner/name", unhelpfulness_prompts=True, sacred_prompts=True)
    assert set(all_sets.prompt_sources()) == set(PROMPT_SETS)


def test_built_in_sets_share_no_row() -> None:
    sources = Settings(model="owner/name").prompt_sources()
    slices = [(source.dataset, source.split) for (source,) in sources.values()]
    assert len(set(slices)) == len(slices) == 6
    # A dataset may hold a prompt twice; its slices must not.
    assert all(source.distinct for (source,) in sources.values())


def settings_with(**texts: Any) -> Settings:
    """As a command line or a file says it."""
    return Settings(**texts)


def test_first_trials_as_text() -> None:
    for text, value in (("auto", "auto"), ("False", False), (True, "auto"), ("a/Mine.yaml",) * 2):
        assert settings_with(warm_start=text).warm_start == value
    with pytest.raises(ValidationError, match="warm_start"):
        Settings(warm_start="llama")


def test_bounds_of_the_search() -> None:
    settings = settings_with(edited_depth="0.4, 1", direction_depth=[0.2, 0.9])
    assert (settings.edited_depth, settings.direction_depth) == ((0.4, 1.0), (0.2, 0.9))
    assert settings.subset("optimize")["edited_depth"] == [0.4, 1.0]
    for wrong in ("0.9,0.4", "0.4", "-1,1", "0,2", "low,high", 3, None):
        with pytest.raises(ValidationError, match="give two fractions of depth from 0 to 1"):
            settings_with(edited_depth=wrong)
    assert Settings(min_weight=2.0).min_weight == 2.0
    with pytest.raises(ValidationError, match=r"min_weight \(2.1\) exceeds max_weight \(2.0\)"):
        Settings(min_weight=2.1)


def test_switches_as_text() -> None:
    settings = Settings.model_validate({"sacred_prompts": "True", "bad_prompts": "true"})
    assert settings.sacred_prompts is True
    assert settings.bad_prompts is True
    assert Settings.model_validate({"sacred_prompts": " false "}).sacred_prompts is False


@pytest.mark.parametrize(
    ("model", "name"),
    [
        ("demo", "demo"),
        ("Qwen/Qwen2.5-7B-Instruct", "Qwen--Qwen2.5-7B-Instruct"),
        ("/models/a b", "a--b"),
        ("./models/a/", "a"),
        ("模型", "model"),
    ],
)
def test_run_names(model: str, name: str) -> None:
    assert safe_name(model) == name


@settings(deadline=None)
@given(st.text(st.characters(exclude_characters="\0"), min_size=1, max_size=30))
def test_a_run_name_is_always_one_visible_folder(model: str) -> None:
    name = safe_name(model)
    assert Path(name).name == name
    assert not name.startswith((".", "-"))
    assert name.isascii()
    assert not set(name) & set(" /\\\n*?")
