"""What each rule receives, and how runs and prompt sources follow from the settings."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from heretic.settings.prompt_sources import PROMPT_SETS, PromptSource
from heretic.settings.schema import Settings, safe_name

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


@pytest.mark.parametrize(
    ("select", "value", "picks"),
    [
        ("knee", "knee", {"": "knee"}),
        (["knee"], "knee", {"": "knee"}),
        (
            "knee, trial=12,closest",
            ["knee", "trial=12", "closest"],
            {"": "knee", "/picks/trial-12": "trial=12", "/picks/closest": "closest"},
        ),
        (["trial=1", "trial=2"], None, {"": "trial=1", "/picks/trial-2": "trial=2"}),
    ],
)
def test_the_first_pick_is_the_result(select: object, value: object, picks: dict[str, str]) -> None:
    settings = Settings.model_validate({"select": select})
    assert settings.select == (value or select)
    assert settings.picks() == picks


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
    settings = settings_with(layer_range="0.4, 1", direction_layer_range=[0.2, 0.9])
    assert (settings.layer_range, settings.direction_layer_range) == ((0.4, 1.0), (0.2, 0.9))
    assert settings.subset("optimize")["layer_range"] == [0.4, 1.0]
    for wrong in ("0.9,0.4", "0.4", "-1,1", "0,2", "low,high", 3, None):
        with pytest.raises(ValidationError, match="expected two fractions of depth from 0 to 1"):
            settings_with(layer_range=wrong)
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


def test_scorers_are_named_or_told_with_settings() -> None:
    def read(value: Any) -> list[tuple[str, str | None, dict[str, Any]]]:
        return [(s.scorer, s.name, s.settings) for s in Settings(scorers=value).scorers]

    told = {"scorer": "judge", "name": "rude", "settings": {"threshold": 0.5, "side": "good"}}
    known = [("words", None, {}), ("judge", "rude", {"threshold": 0.5, "side": "good"})]
    assert read("words, perplexity") == [("words", None, {}), ("perplexity", None, {})]
    assert read(["words", told]) == known
    assert read(json.dumps(["words", told])) == known
    # A command line gives texts.
    texts = {**told, "settings": {"threshold": "0.5", "side": "good"}}
    assert read(["words", texts]) == known
    assert read("") == []
    wrongs: list[tuple[Any, str]] = [
        ("[words", "is not a valid JSON list"),
        ([{"name": "x"}], "scorer"),
        ([{"scorer": "words", "size": 3}], "size"),
    ]
    for wrong, message in wrongs:
        with pytest.raises(ValidationError, match=message):
            Settings(scorers=wrong)


def test_the_teacher_forced_kl_of_trials_is_that_of_the_table_unless_told() -> None:
    def tokens(**more: Any) -> Any:
        settings = Settings(kl_tokens=5, **more)
        return [s["settings"] for s in settings.subset("optimize")["scorers"]]

    assert tokens() == []
    assert tokens(scorers="kl_teacher_forced,words") == [{"tokens": 5}, {}]
    told = [{"scorer": "kl_teacher_forced", "settings": {"tokens": 3}}]
    assert tokens(scorers=told) == [{"tokens": 3}]

    def names(*numbers: int) -> list[str | None]:
        scorers: Any = [{"scorer": "kl_teacher_forced", "settings": {"tokens": n}} for n in numbers]
        found = Settings(kl_tokens=5, scorers=scorers).subset("evaluate")["scorers"]
        return [each["name"] for each in found]

    # The table already has a column for the number of the setting.
    assert names(5, 3) == [None, "kl_teacher_forced_3"]
    sides: Any = [
        {"scorer": "kl_teacher_forced", "settings": {"side": side}} for side in ("good", "bad")
    ]
    found = Settings(scorers=sides).subset("evaluate")["scorers"]
    assert [each["name"] for each in found] == [None, "kl_teacher_forced_bad"]


@pytest.mark.parametrize("names", ["unanswered", "unanswered,unanswered", []])
def test_a_search_is_for_two_or_more_scores(names: Any) -> None:
    with pytest.raises(ValidationError, match=r"at least 2|lists a metric twice"):
        Settings(objectives=names)
