"""Several trials of one search are saved beside each other, and the first is the result."""

import shutil
from pathlib import Path

import pytest
from conftest import Workspace

from heretic.artifacts import read_json, sha256_of

pytestmark = [pytest.mark.slow, pytest.mark.heavy]

PICK = "min_refusals_under_kl"
FILES = ("finalists.json", "best.json", "model/model.safetensors", "evaluation.json")


def hashes(folder: Path) -> dict[str, str]:
    return {name: sha256_of(folder / name) for name in FILES}


def test_another_pick_leaves_the_result_as_it_is(
    demo_run: tuple[Workspace, str], tmp_path: Path
) -> None:
    workspace = Workspace(shutil.copytree(demo_run[0].folder, tmp_path / "picks"))
    demo = workspace.results / "demo"
    before = hashes(demo)
    printed = workspace.require("--config", f"select=closest,{PICK}")
    assert "Optimizing ablation parameters" not in printed
    assert hashes(demo) == before

    picked = demo / "picks" / PICK
    best = read_json(picked / "best.json")
    assert best["selection"].startswith(f"{PICK}: ")
    assert best["scores"]["kl_first_token"] <= 0.1
    assert best["scores"]["unanswered"] <= read_json(demo / "best.json")["scores"]["unanswered"]
    finals = read_json(picked / "finalists.json")
    assert finals["rescored"] is True
    assert best["trial"] in [finalist["trial"] for finalist in finals["finalists"]]
    manifest = read_json(picked / "model.manifest.json")
    assert manifest["parameters"] == best["parameters"]
    for path, facts in manifest["files"].items():
        assert sha256_of(picked / "model" / path) == facts["sha256"]
    assert read_json(picked / "evaluation.json")["edited"]["refusals"]["rate"] <= 0.05
    page = (demo / "report.html").read_text(encoding="utf-8")
    assert f"picks/{PICK}/model" in page

    # Without it again, nothing but the report is stale, and the pick stays where it is.
    printed = workspace.require("--config", "select=closest")
    assert "Writing the report" in printed
    assert "Comparing original" not in printed
    assert picked.is_dir()
    assert "All picks" not in (demo / "report.html").read_text(encoding="utf-8")


def test_a_trial_by_its_number_is_the_only_finalist(
    demo_run: tuple[Workspace, str], tmp_path: Path
) -> None:
    workspace = Workspace(shutil.copytree(demo_run[0].folder, tmp_path / "picks"))
    trials = read_json(workspace.results / "demo" / "study.json")["trials"]
    number = next(trial["number"] for trial in reversed(trials) if trial["feasible"])
    best, finals = (f"results/demo/{name}.json" for name in ("best", "finalists"))
    workspace.require(best, "--config", f"select=trial={number}")
    found = read_json(workspace.folder / finals)
    assert [finalist["trial"] for finalist in found["finalists"]] == [number]
    assert read_json(workspace.folder / best)["trial"] == number
    # The search's own scores load no model.
    printed = workspace.require(best, "--config", f"select=trial={number}", "n_finalists=1")
    assert "Finalists not re-scored: n_finalists is 1" in printed
    assert "Weights cache" not in printed
    assert read_json(workspace.folder / finals)["rescored"] is False
