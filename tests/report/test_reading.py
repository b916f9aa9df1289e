"""Reading a run: what contradicts itself is named, what was not measured is None."""

import json
from pathlib import Path
from typing import Any

import pytest

from heretic.errors import HereticError
from heretic.report.reading import flat, read_run


def change(path: Path, **values: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def test_trials_keep_parameters_apart_from_scores(run_folder: Path) -> None:
    run = read_run(run_folder)
    chosen = run.chosen()
    assert (chosen.number, chosen.kl, chosen.unanswered) == (17, 0.0211, 1)
    assert set(chosen.parameters) == {
        "direction_scope", "direction_index", "attn_weight", "mlp_weight",
    }  # fmt: skip
    infeasible = [trial for trial in run.trials if not trial.feasible]
    assert [trial.number for trial in infeasible] == [2, 9, 21]
    assert all(trial.refusals is None and trial.unanswered is None for trial in infeasible)
    assert run.objective == "Unanswered (of 64)"


def test_refusals_stand_for_unanswered_where_a_search_knows_no_more(run_folder: Path) -> None:
    lines = (run_folder / "trials.csv").read_text().replace("unanswered", "spare")
    (run_folder / "trials.csv").write_text(lines)
    change(run_folder / "best.json", baseline={"refusals": 60, "total": 64})
    run = read_run(run_folder)
    assert run.chosen().unanswered == 1
    assert (run.objective, run.baseline) == ("Refusals (of 64)", 60)


def test_what_is_not_finite_is_none(run_folder: Path) -> None:
    assert read_run(run_folder).geometry["silhouette"][0] is None
    assert read_run(run_folder).geometry["auroc"][3] == 1.0


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"trial": 99}, "no trial 99"),
        ({"strengths": {}}, "no strengths"),
        ({"strengths": {"attn.o_proj": [None]}}, "not a number"),
        ({"baseline": {"refusals": 3}}, "'total' is missing"),
        ({"directions": {"scope": "global"}}, "'index' is missing"),
    ],
)
def test_best_must_be_whole(run_folder: Path, changes: dict[str, Any], complaint: str) -> None:
    change(run_folder / "best.json", **changes)
    with pytest.raises(HereticError, match=complaint) as caught:
        read_run(run_folder)
    assert "best.json" in str(caught.value)


def test_intervals_must_be_ordered(run_folder: Path, evaluation: dict[str, Any]) -> None:
    evaluation["edited"]["kl_first_token"]["interval"] = [0.5, 0.1]
    (run_folder / "evaluation.json").write_text(json.dumps(evaluation))
    with pytest.raises(HereticError, match=r"evaluation\.json.*\[0\.5, 0\.1\]"):
        read_run(run_folder)


def test_a_table_cut_short_is_named(run_folder: Path) -> None:
    path = run_folder / "geometry.csv"
    path.write_text(path.read_text()[:-12])
    with pytest.raises(HereticError, match=r"geometry\.csv is damaged: a row"):
        read_run(run_folder)


def test_flat_joins_keys_with_dots() -> None:
    assert flat({"a": {"b": 1, "c": {"d": "x"}}, "e": [1]}) == {
        "a.b": "1", "a.c.d": "x", "e": "[1]",
    }  # fmt: skip
