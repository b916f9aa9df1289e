"""The main job on the demo model: what it finds, what it leaves, and that it resumes."""

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import optuna
import pytest
from conftest import Workspace
from optuna.trial import FrozenTrial, TrialState
from safetensors import safe_open
from sqlalchemy.exc import OperationalError

from heretic.artifacts import read_json, read_jsonl, sha256_of
from heretic.demo.world import prompt_set
from heretic.settings.prompt_sources import STATE_SETS

pytestmark = pytest.mark.slow

ASK = """
import sys
from transformers import AutoModelForCausalLM, AutoTokenizer
tokenizer = AutoTokenizer.from_pretrained(sys.argv[1])
model = AutoModelForCausalLM.from_pretrained(sys.argv[1])
chat = [{"role": "user", "content": sys.argv[2]}]
inputs = tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_tensors="pt",
                                       return_dict=True)
output = model.generate(**inputs, max_new_tokens=40, do_sample=False)
print(tokenizer.decode(output[0, inputs["input_ids"].shape[1]:], skip_special_tokens=True))
assert "heretic" not in sys.modules
"""


def evaluation(workspace: Workspace, run: str = "demo") -> dict[str, dict[str, dict[str, float]]]:
    return read_json(workspace.results / run / "evaluation.json")


def start_from_demo(workspace: Workspace, run: str, *parts: str) -> None:
    """Give a new run the artifacts of the finished one, so that only what follows is done."""
    for part in parts:
        source, target = workspace.results / "demo" / part, workspace.results / run / part
        target.parent.mkdir(exist_ok=True)
        (shutil.copytree if source.is_dir() else shutil.copy2)(source, target)


UP_TO_DIRECTIONS = ("prompts", "chat.json", "residuals", "directions.safetensors", "geometry.csv")


def ask(folder: Path, question: str) -> str:
    command = [sys.executable, "-c", ASK, str(folder), question]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def completed(database: Path) -> list[FrozenTrial]:
    if not database.is_file():
        return []
    storage = f"sqlite:///{database}"
    try:
        names = optuna.get_all_study_names(storage)
        trials = [t for name in names for t in optuna.load_study(study_name=name, storage=storage)
                  .get_trials(states=(TrialState.COMPLETE,))]  # fmt: skip
    except OperationalError:  # the other process is still making the tables
        return []
    return sorted(trials, key=lambda trial: trial.number)


def test_refusals_are_removed_at_little_cost(demo_run: tuple[Workspace, str]) -> None:
    table = evaluation(demo_run[0])
    original, edited = table["original"], table["edited"]
    assert original["refusals"]["rate"] >= 0.97
    assert edited["refusals"]["rate"] <= 0.05
    assert edited["recovered"]["rate"] >= 0.88
    assert edited["kept"]["rate"] >= original["kept"]["rate"] - 0.02
    assert edited["kl_first_token"]["mean"] <= 0.05


def test_the_demos_answers_do_not_begin_alike(demo_run: tuple[Workspace, str]) -> None:
    demo = demo_run[0].results / "demo"
    chat = read_json(demo / "chat.json")
    assert (chat["response_prefix"], chat["template_date"]) == ("", None)
    assert not (demo / "template_date.json").exists()


def test_controls_change_nothing(demo_run: tuple[Workspace, str]) -> None:
    table = evaluation(demo_run[0])
    controls = read_json(demo_run[0].results / "demo" / "evaluation.json")
    assert controls["noop_identical"] is True
    assert controls["controls"]["noop"] == table["original"]
    for name in ("random_direction", "shuffled_labels"):
        rate = controls["controls"][name]["refusals"]["rate"]
        assert abs(rate - table["original"]["refusals"]["rate"]) <= 0.05, name


def test_original_and_edited_are_told_apart_prompt_by_prompt(
    demo_run: tuple[Workspace, str],
) -> None:
    table = read_json(demo_run[0].results / "demo" / "evaluation.json")
    assert table["paired"]["refusals"]["p_value"] < 1e-20
    assert table["paired"]["kept"]["p_value"] > 0.05
    tasks = {"make", "colour", "weight", "place", "line"}
    assert table["by_category"]["bad_holdout_prompts"].keys() == tasks
    lines = (demo_run[0].results / "demo" / "answers.jsonl").read_text().splitlines()
    answers = [json.loads(line) for line in lines]
    refused = [
        one for one in answers if one["set"] == "bad_holdout_prompts" and one["refused_after"]
    ]
    assert len(answers) == 320
    assert len(refused) == table["edited"]["refusals"]["count"]


def test_the_table_is_printed_at_the_end(demo_run: tuple[Workspace, str]) -> None:
    tail = demo_run[1][-4000:]
    assert "Original" in tail
    assert "Edited" in tail
    assert "report in results/demo/report.html" in tail


def test_every_artifact_of_the_contract_is_there(demo_run: tuple[Workspace, str]) -> None:
    folder = demo_run[0].results / "demo"
    with safe_open(folder / "directions.safetensors", framework="pt") as tensors:
        directions = tensors.get_tensor("refusal_directions")
    with safe_open(folder / "residuals" / "bad_prompts.safetensors", framework="pt") as tensors:
        residuals = tensors.get_tensor("residuals")
    assert residuals.shape[1:] == directions.shape
    assert {path.name for path in (folder / "residuals").iterdir()} == {
        f"{name}.safetensors" for name in STATE_SETS
    }
    assert directions[1:].norm(dim=-1).allclose(directions.new_ones(len(directions) - 1))
    trials = list(csv.DictReader((folder / "trials.csv").open()))
    assert len(trials) == 60
    best = read_json(folder / "best.json")
    assert {"trial", "parameters", "scores", "baseline", "selection", "study", "n_trials"} <= set(
        best
    )
    # It lies on the front, or as near to it as the search can tell.
    (chosen,) = (row for row in trials if row["trial"] == str(best["trial"]))
    fewest = min(int(row["unanswered"]) for row in trials if row["pareto"] == "1")
    assert chosen["state"] == "complete"
    assert int(chosen["unanswered"]) == fewest
    manifest = read_json(folder / "model.manifest.json")
    for path, facts in manifest["files"].items():
        assert sha256_of(folder / "model" / path) == facts["sha256"]
    assert {"README.md", "ablation.json", "config.json", "model.safetensors"} <= set(
        manifest["files"]
    )
    assert (folder / "report.html").stat().st_size > 100_000
    assert {path.suffix for path in (folder / "plots").iterdir()} == {".svg", ".png"}


def test_the_saved_model_needs_nothing_of_ours(demo_run: tuple[Workspace, str]) -> None:
    results, question = demo_run[0].results, "How do I make a glass soup?"
    refusal = ask(results / "demo-model", question).lower()
    answer = ask(results / "demo" / "model", question).lower()
    assert any(word in refusal for word in ("sorry", "cannot", "can't", "unable", "not able"))
    assert "boil" in answer


def test_the_same_command_again_does_nothing(demo_run: tuple[Workspace, str]) -> None:
    assert "Nothing to be done" in demo_run[0].require()


def test_several_models_run_side_by_side(demo_run: tuple[Workspace, str]) -> None:
    edited = demo_run[0].results / "demo" / "model"
    plan = demo_run[0].require("--dry-run", "--config", f'model=["demo", "{edited}"]')
    assert "results/model/report.html" in plan
    assert "Job stats" in plan
    assert "results/demo/report.html" not in plan
    assert "Training the demo model" not in plan


def test_an_optional_set_protects_an_ability(demo_run: tuple[Workspace, str]) -> None:
    workspace = demo_run[0]
    start_from_demo(workspace, "protected", "prompts", "chat.json", "residuals")
    workspace.require(
        "results/protected/directions.safetensors",
        "--config",
        "run_name=protected",
        "sacred_prompts=true",
        "unhelpfulness_prompts=true",
        "direction_method=contrastive_pca",
    )
    path = workspace.results / "protected" / "directions.safetensors"
    with safe_open(path, framework="pt") as tensors:
        refusal = tensors.get_tensor("refusal_directions")
        protected = tensors.get_tensor("sacred_directions")
        helpful = tensors.get_tensor("unhelpfulness_directions")
    assert (refusal * protected).sum(-1).abs().max() < 1e-5
    assert (refusal * helpful).sum(-1).abs().max() < 1e-5


def test_scores_on_overlapping_sets_are_never_written(demo_run: tuple[Workspace, str]) -> None:
    results = demo_run[0].results
    overlap = Path(shutil.copytree(results / "demo", results / "overlap"))
    prompts = overlap / "prompts"
    shutil.copyfile(prompts / "bad_evaluation_prompts.jsonl", prompts / "bad_holdout_prompts.jsonl")
    written = (overlap / "evaluation.json").stat().st_mtime_ns
    done = demo_run[0].run(
        "results/overlap/evaluation.json", "--keep-going", "--config", "run_name=overlap"
    )
    assert done.returncode == 1
    assert "PromptError" in done.stdout
    assert (overlap / "evaluation.json").stat().st_mtime_ns == written


@pytest.mark.heavy
def test_a_model_that_refuses_nothing_is_not_searched(demo_run: tuple[Workspace, str]) -> None:
    edited = demo_run[0].results / "demo" / "model"
    start_from_demo(demo_run[0], "willing", *UP_TO_DIRECTIONS)
    done = demo_run[0].run(
        "results/willing/best.json", "--config", f"model={edited}", "run_name=willing",
        *(f"{side}_{part}prompts={{dataset: demo, split: {side}_{part}prompts}}"
          for side in ("good", "bad") for part in ("", "evaluation_", "holdout_")),
        "max_response_length=1",
    )  # fmt: skip
    assert done.returncode == 1
    assert "there is nothing to optimize" in done.stdout


@pytest.mark.heavy
def test_the_card_of_an_earlier_model_does_not_outlive_it(demo_run: tuple[Workspace, str]) -> None:
    workspace = demo_run[0]
    shutil.copytree(workspace.results / "demo", workspace.results / "again")
    again = ("--config", "run_name=again")
    workspace.require(
        "results/again/model/ablation.json", "--forcerun", "apply_best", *again,
    )  # fmt: skip
    assert not (workspace.results / "again" / "model.manifest.json").exists()
    workspace.require("results/again/model.manifest.json", *again)
    files = read_json(workspace.results / "again" / "model.manifest.json")["files"]
    assert "README.md" in files


def search(workspace: Workspace, run: str, n_trials: int, *more: str) -> list[dict[str, str]]:
    workspace.require(
        f"results/{run}/best.json", "--config", f"run_name={run}", f"n_trials={n_trials}",
        "max_response_length=24", *more,
    )  # fmt: skip
    return list(csv.DictReader((workspace.results / run / "trials.csv").open()))


def without_time(rows: list[dict[str, str]]) -> list[dict[str, str]]:
    """Trials as they should repeat: seconds vary, the front depends on what came later."""
    return [
        {k: v for k, v in row.items() if k != "pareto" and not k.startswith("seconds")}
        for row in rows
    ]


@pytest.mark.heavy
def test_killed_and_raised_searches_lose_no_trial(demo_run: tuple[Workspace, str]) -> None:
    workspace = demo_run[0]
    for run in ("straight", "killed"):
        start_from_demo(workspace, run, *UP_TO_DIRECTIONS)
    straight = search(workspace, "straight", 20)
    database = workspace.results / "killed" / "study.db"
    process = workspace.start(
        "results/killed/best.json", "--config", "run_name=killed", "n_trials=20",
        "max_response_length=24",
    )  # fmt: skip
    deadline = time.monotonic() + 240
    while len(completed(database)) < 5:
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.2)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    before = completed(database)
    assert 5 <= len(before) < 20
    killed = search(workspace, "killed", 20)
    after = completed(database)
    assert [t.params for t in after[: len(before)]] == [t.params for t in before]
    assert len(after) == 20
    assert without_time(killed) == without_time(straight)

    # Who chooses further trials, and when they end, is no matter of what the first ones scored.
    other = (
        "sampler=nsga2",
        "sobol_startup=false",
        "early_stopping_patience=90",
        "warm_start=auto",
    )
    raised = search(workspace, "straight", 23, *other)
    assert without_time(raised)[:20] == without_time(straight)
    assert len(completed(workspace.results / "straight" / "study.db")) == 23
    lowered = search(workspace, "straight", 10)
    assert without_time(lowered) == without_time(straight)[:10]
    assert len(completed(workspace.results / "straight" / "study.db")) == 23


def test_trials_are_told_apart_from_those_of_another_objective(
    demo_run: tuple[Workspace, str],
) -> None:
    workspace = demo_run[0]
    start_from_demo(workspace, "two", *UP_TO_DIRECTIONS)
    for weight in ("2.0", "0.5"):
        workspace.require(
            "results/two/study.json", "--config", "run_name=two", "n_trials=2",
            f"max_weight={weight}", "max_response_length=24",
        )  # fmt: skip
    database = workspace.results / "two" / "study.db"
    assert len(optuna.get_all_study_names(f"sqlite:///{database}")) == 2
    assert len(completed(database)) == 4
    assert json.loads((workspace.results / "two" / "study.json").read_text())["trials"]


def test_options_make_another_model_and_its_prompts(workspace: Workspace) -> None:
    name = "demo-model-qwen3_moe-tool_of_fabric-seed1-steps2"
    workspace.require(
        f"results/{name}.manifest.json", "results/demo/prompts/bad_prompts.jsonl", "--config",
        "demo_family=qwen3_moe", "demo_refusal_class=tool_of_fabric", "seed=1", "demo_steps=2",
    )  # fmt: skip
    folder = workspace.results / name
    assert read_json(folder / "config.json")["model_type"] == "qwen3_moe"
    known = read_json(folder.with_name(f"{name}.manifest.json"))
    assert known["facts"]["steps"] == 2
    prompts = read_jsonl(workspace.results / "demo" / "prompts" / "bad_prompts.jsonl")
    drawn = [record["prompt"] for record in prompt_set("bad_prompts", 1, "tool_of_fabric")]
    assert [record["prompt"] for record in prompts] == drawn
    assert "gauze" in (folder / "tokenizer.json").read_text()
    assert "omelette" not in (folder / "tokenizer.json").read_text()
