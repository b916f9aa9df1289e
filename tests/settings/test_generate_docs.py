"""The files in config/ are what the settings model says, and the schema accepts what it should."""

import json
from pathlib import Path
from typing import Any

import jsonschema  # type: ignore[import-untyped]
import pytest
import yaml

from generate_docs import (
    COMMAND,
    documents,
    page_sections,
    replace_section,
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


@pytest.mark.parametrize("name", page_sections())
def test_committed_sections_are_the_generated_ones(name: str) -> None:
    page = (REPOSITORY / name).read_text(encoding="utf-8")
    for section, body in page_sections()[name].items():
        assert replace_section(page, section, body) == page, f"run `{COMMAND}`"
        assert body in page


def test_write_documents(tmp_path: Path) -> None:
    (tmp_path / "config").mkdir()
    for name, sections in page_sections().items():
        page = tmp_path / name
        page.parent.mkdir()
        marks = [f"<!-- {each}: begin -->\nold\n<!-- {each}: end -->\n" for each in sections]
        page.write_text(f"before\n{'between'.join(marks)}after\n")
    write_documents(tmp_path)
    written = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*.*")}
    assert written == {*documents(), *page_sections()}
    text = (tmp_path / "workflow" / "README.md").read_text()
    assert text.startswith("before\n")
    assert text.endswith("\nafter\n")
    assert "| `n_trials` | `optimize`, `score_finalists`, `select_best` |" in text
    text = (tmp_path / "docs" / "scores.md").read_text()
    assert text.startswith("before\n")
    assert text.endswith("\nafter\n")
    assert "\nbetween" in text
    assert (
        "good prompts answered correctly, under the same conditions as `recovered` | high |" in text
    )
    assert "| `tokens` (default: `kl_tokens`), `side` |" in text
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
