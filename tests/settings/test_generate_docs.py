"""The files in config/ are what the settings model says, and the schema accepts what it should."""

import json
from pathlib import Path
from typing import Any

import jsonschema  # type: ignore[import-untyped]
import pytest
import yaml

from generate_docs import (
    COMMAND,
    STALENESS,
    documents,
    replace_section,
    staleness_table,
    write_documents,
)
from heretic.settings.resolve import resolve
from heretic.settings.schema import Settings

REPOSITORY = Path(__file__).parents[2]
CONFIG = REPOSITORY / "config"


@pytest.fixture(scope="module")
def schema() -> Any:
    return json.loads((CONFIG / "schema.json").read_text(encoding="utf-8"))


def uncommented() -> dict[str, Any]:
    """config.yaml with every setting active."""
    lines = (CONFIG / "config.yaml").read_text(encoding="utf-8").splitlines()
    names = Settings.model_fields
    return dict(
        pair
        for line in lines
        if line.removeprefix("# ").split(":")[0] in names
        for pair in yaml.safe_load(line.removeprefix("# ")).items()
    )


@pytest.mark.parametrize("name", documents())
def test_committed_files_are_those_that_the_model_generates(name: str) -> None:
    assert (REPOSITORY / name).read_text(encoding="utf-8") == documents()[name], f"run `{COMMAND}`"


def test_the_committed_table_of_what_reruns_is_the_generated_one() -> None:
    page = (REPOSITORY / "workflow" / "README.md").read_text(encoding="utf-8")
    assert replace_section(page, STALENESS, staleness_table()) == page, f"run `{COMMAND}`"
    assert staleness_table() in page


def test_write_documents(tmp_path: Path) -> None:
    for folder in ("config", "workflow"):
        (tmp_path / folder).mkdir()
    page = tmp_path / "workflow" / "README.md"
    marks = f"<!-- {STALENESS}: begin -->\nold\n<!-- {STALENESS}: end -->"
    page.write_text(f"before\n{marks}\nafter\n")
    write_documents(tmp_path)
    assert {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*.*") if path != page} == {
        *documents()
    }
    text = page.read_text()
    assert text.startswith("before\n")
    assert text.endswith("\nafter\n")
    assert "| `n_trials` | `optimize`, `score_finalists`, `select_best` |" in text
    assert "\nold\n" not in text


def test_the_yaml_shows_every_default(schema: Any) -> None:
    shown = uncommented()
    assert shown.keys() == Settings.model_fields.keys()
    file = {key: value for key, value in shown.items() if value is not None}
    assert resolve(file, {}).settings == Settings()
    jsonschema.validate(shown, schema)


def test_the_committed_configuration_changes_nothing(schema: Any) -> None:
    active = yaml.safe_load((CONFIG / "config.yaml").read_text(encoding="utf-8"))
    jsonschema.validate(active, schema)
    assert resolve(active, {}).settings == Settings()


@pytest.mark.parametrize("path", sorted((CONFIG / "examples").glob("*.yaml")), ids=lambda p: p.name)
def test_examples_resolve(path: Path, schema: Any) -> None:
    example = yaml.safe_load(path.read_text(encoding="utf-8"))
    jsonschema.validate(example, schema)
    assert resolve(example, {}).settings != Settings()


@pytest.mark.parametrize(
    "good",
    [
        {"cache_weights": True},
        {"cache_weights": "auto"},
        {"low_memory_export": False},
        {"export": "adapter"},
        {"model": ["a/b", "c/d"]},
        {"select": "trial=12"},
        {"select": "knee, trial=0"},
        {"select": ["knee", "trial=12"]},
        {"bad_prompts": "file.txt"},
        {"bad_prompts": {"dataset": "file.csv", "column": "x"}},
        {"bad_prompts": ["file.txt", {"dataset": "file.csv", "column": "x"}]},
        {"sacred_prompts": True, "run_name": None},
    ],
)
def test_the_schema_accepts(good: dict[str, Any], schema: Any) -> None:
    jsonschema.validate(good, schema)
    resolve(good, {})


@pytest.mark.parametrize(
    "bad",
    [
        {"n_trails": 5},
        {"n_trials": 0},
        {"cache_weights": "perhaps"},
        {"bad_prompts": {"dataset": "file.csv", "colum": "x"}},
        {"bad_prompts": ["file.txt", {"dataset": "file.csv", "colum": "x"}]},
        {"select": "best"},
        {"select": "knee,best"},
        {"select": ["knee", "best"]},
        {"select": ["knee", "knee"]},
        {"select": []},
        {"run_name": "a/b"},
    ],
)
def test_the_schema_refuses(bad: dict[str, Any], schema: Any) -> None:
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(bad, schema)


def test_the_table_names_every_setting_and_its_rules() -> None:
    table = (CONFIG / "README.md").read_text(encoding="utf-8")
    rows = {line.split("`")[1]: line for line in table.splitlines() if line.startswith("| `")}
    for name, field in Settings.model_fields.items():
        extra = field.json_schema_extra
        assert isinstance(extra, dict)
        rules = extra["rules"]
        assert isinstance(rules, list)
        assert all(f"`{rule}`" in rows[name] for rule in rules), name
