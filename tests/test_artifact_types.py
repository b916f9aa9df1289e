"""Artifacts are read as they were written, in their own format only, and match their schemas."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import jsonschema  # type: ignore[import-untyped]
import pytest

from heretic.artifact_types import (
    ARTIFACTS,
    Best,
    Evaluation,
    ModelComparison,
    ObjectiveFacts,
    Rate,
    Variant,
)
from heretic.errors import HereticError

REPOSITORY = Path(__file__).parents[1]
RATE = Rate(count=1, total=4, rate=0.25, interval=(0.01, 0.7))
VARIANT = Variant(refusals=RATE, false_refusals=RATE, degenerate=RATE)
BEST = Best(
    trial=3,
    parameters={"direction_scope": "per_layer"},
    scores={"refusals": 1, "kl_first_token": 0.25, "refusal_log_odds": None},
    search_scores={"refusals": 2},
    baseline={"refusals": 4, "total": 4},
    model={"dtype": "float32"},
    rule="closest",
    selection="closest: nearest of 9",
    objectives=[{"name": "refusals", "direction": "minimize", "best": 0.0, "worst": 4.0}],
    study="ablation-1234",
    n_trials=9,
    strengths={"mlp.down_proj": [0.0, 1.5]},
    directions={"scope": "per_layer", "index": None},
    provenance={"settings": {"n_trials": 9}},
)


def test_an_artifact_is_read_as_it_was_written(tmp_path: Path) -> None:
    path = tmp_path / "best.json"
    BEST.write(path)
    assert json.loads(path.read_text())["format"] == 1
    assert Best.read(path) == BEST
    evaluation = Evaluation(original=VARIANT, edited=VARIANT, noop_identical=True)
    evaluation.write(path)
    assert Evaluation.read(path) == evaluation


def test_a_comparison_without_a_run_is_an_evaluation(tmp_path: Path) -> None:
    comparison = ModelComparison(original=VARIANT, edited=VARIANT, models={}, prompts={})
    comparison.write(tmp_path / "evaluation.json")
    found = Evaluation.read(tmp_path / "evaluation.json")
    assert (found.original, found.controls, found.noop_identical) == (VARIANT, {}, None)


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"format": 2}, r"has format 2, not 1; delete it"),
        ({"format": None}, r"has format None, not 1"),
        ({"trial": "3"}, r"damaged \(trial: Input should be a valid integer\)"),
        ({"strengths": {}}, r"strengths: .* at least 1"),
        ({"strengths": {"mlp": [None]}}, r"strengths\.mlp\.0"),
        ({"directions": {"scope": "all", "index": 1}}, r"directions\.scope"),
        ({"scores": {"refusals": "none"}}, r"scores\.refusals"),
    ],
)
def test_damaged_or_foreign_files_are_refused_in_one_line(
    changes: dict[str, Any], complaint: str
) -> None:
    with pytest.raises(HereticError, match=rf"^best\.json .*{complaint}") as caught:
        Best.from_dict({**BEST.to_dict(), **changes}, "best.json")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("direction", "before", "after", "unimproved"),
    [
        ("minimize", 4, 3, ()),
        ("minimize", 4, 4, ("words",)),
        ("minimize", 4, 5, ("words",)),
        ("maximize", 4, 5, ()),
        ("maximize", 4, 4, ("words",)),
        ("minimize", 4, None, ("words",)),
    ],
)
def test_a_trial_without_an_effect_is_recognized(
    direction: Any, before: float, after: float | None, unimproved: tuple[str, ...]
) -> None:
    words = ObjectiveFacts(name="words", direction=direction, best=0.0, worst=9.0)
    kl = ObjectiveFacts(name="kl_first_token", direction="minimize", best=0.0, worst=0.5)
    best = replace(
        BEST,
        objectives=[kl, words],
        baseline={"words": before, "kl_first_token": 1.0},
        scores={"words": after, "kl_first_token": 0.0},
    )
    assert best.unimproved() == unimproved
    assert replace(best, objectives=[kl]).unimproved() == ()


def test_a_missing_field_is_named() -> None:
    values = BEST.to_dict()
    del values["rule"]
    with pytest.raises(HereticError, match="rule: Field required"):
        Best.from_dict(values, "best.json")


def test_intervals_are_ordered() -> None:
    wrong = {**VARIANT, "refusals": {**RATE, "interval": [0.5, 0.1]}}
    values = {**Evaluation(original=VARIANT, edited=VARIANT).to_dict(), "edited": wrong}
    with pytest.raises(HereticError, match=r"edited\.refusals\.interval.*\[0\.5, 0\.1\]"):
        Evaluation.from_dict(values, "evaluation.json")


@pytest.mark.parametrize("name", ARTIFACTS)
def test_schemas_are_valid(name: str) -> None:
    schema = json.loads((REPOSITORY / "docs" / "schemas" / name).read_text())
    jsonschema.Draft202012Validator.check_schema(schema)
    assert "format" in schema["required"]


def test_written_files_match_their_schemas(tmp_path: Path) -> None:
    for name, artifact in (
        ("best.json", BEST),
        ("evaluation.json", Evaluation(original=VARIANT, edited=VARIANT)),
    ):
        artifact.write(tmp_path / name)
        written = json.loads((tmp_path / name).read_text())
        schema = json.loads((REPOSITORY / "docs" / "schemas" / name).read_text())
        jsonschema.validate(written, schema)
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate({**written, "format": 2}, schema)
