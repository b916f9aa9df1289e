"""Bad input: one clear line and status 1, before anything is loaded."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import REPOSITORY, Workspace
from tiny_models import save_tiny_model

from heretic.phases import Phase
from heretic.settings.resolve import resolve
from heretic.settings.schema import Settings


def write(path: Path, *lines: str) -> str:
    path.write_text("".join(f"{line}\n" for line in lines))
    return str(path)


@pytest.mark.parametrize(
    ("config", "error", "advice"),
    [
        ("n_trails=5", "SettingsError", "did you mean 'n_trials'?"),
        ("n_trials=0", "SettingsError", "greater than or equal to 1"),
        ("model=/no/such/model", "ModelLoadError", "does not exist; check the path"),
        ("model={folder}", "ModelLoadError", "has no config.json"),
        ("bad_prompts={empty}", "PromptError", "is empty; write at least one prompt"),
        ("bad_prompts={missing}", "PromptError", "file not found"),
        ("good_prompts={one} bad_prompts={same}", "PromptError", "good_prompts and bad_prompts"),
        ("upload_to=me/model", "UploadError", "HF_TOKEN"),
    ],
)
def test_is_one_clear_line(
    config: str, error: str, advice: str, workspace: Workspace, tmp_path: Path
) -> None:
    places = {
        "folder": str(tmp_path),
        "empty": write(tmp_path / "empty.txt"),
        "missing": str(tmp_path / "missing.txt"),
        "one": write(tmp_path / "one.txt", "How are you?"),
        "same": write(tmp_path / "same.txt", "How are you?"),
    }
    done = workspace.run(
        "--config", *config.format(**places).split(), HF_HOME=str(tmp_path), HF_TOKEN=""
    )
    lines = [line for line in done.stdout.splitlines() if error in line]
    assert done.returncode == 1
    assert len(lines) == 1
    assert advice in lines[0]
    assert "Traceback" not in done.stdout
    assert not (workspace.results).exists()


def test_overlap_that_only_jobs_can_see_stops_before_the_model(
    workspace: Workspace, tmp_path: Path
) -> None:
    write(tmp_path / "good.txt", "How are you?", "Who are you?")
    done = workspace.run(
        "--keep-going",
        "results/demo/prompts/bundle.json",
        "--config",
        "good_prompts=demo",
        HERETIC_GOOD_PROMPTS__SPLIT="bad_holdout_prompts",
    )
    assert done.returncode == 1
    assert "PromptError" in done.stdout
    assert "bad_holdout_prompts" in done.stdout


def test_config_toml_is_read_and_wins_over_the_shipped_file(workspace: Workspace) -> None:
    (workspace.folder / "config.toml").write_text('model = "/no/such/model"')
    done = workspace.run("--dry-run")
    assert done.returncode == 1
    assert "model folder /no/such/model does not exist" in done.stdout


def test_examples_are_valid(workspace: Workspace) -> None:
    for path in sorted((workspace.folder / "config" / "examples").glob("*.yaml")):
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
        assert resolve(values, environ={}).runs(), path


def test_slurm_profile_plans_every_rule(workspace: Workspace) -> None:
    plan = workspace.require(
        "--dry-run", "--workflow-profile", "profiles/slurm", "--config", "sacred_prompts=true"
    )
    for rule in (
        "train_demo_model", "extract_residuals", "extract_protected_residuals", "optimize",
        "evaluate", "report",
    ):  # fmt: skip
        assert rule in plan


def test_slurm_profile_gives_every_rule_that_loads_a_model_its_memory() -> None:
    rules = "\n" + "\n".join(
        path.read_text() for path in sorted((REPOSITORY / "workflow/rules").iterdir())
    )
    profile = yaml.safe_load((REPOSITORY / "profiles/slurm/config.yaml").read_text())
    given = {entry.partition(":")[0] for entry in profile["set-resources"] if "mem_mb" in entry}
    loading = {
        part.partition(":")[0]
        for part in rules.split("\nrule ")
        if "gpu=1" in part and "model=model_path" in part
    }
    assert len(loading) > 7
    assert loading <= given


def test_jobs_take_the_settings_of_the_runs_start(workspace: Workspace) -> None:
    """As on a cluster, where a job reads the Snakefile and perhaps changed files again."""
    target = "results/pinned/prompts/bad_prompts.jsonl"
    source = {"dataset": "demo", "split": "bad_prompts[:7]", "column": "prompt", "prefix": "'\"\n"}
    pinned: dict[str, Any] = {
        "pinned": {"model": "demo", "run_name": "pinned", "bad_prompts": source}
    }
    (workspace.folder / "config.toml").write_text("n_trials = 'changed meanwhile'")
    resolved = workspace.folder / "resolved.json"
    resolved.write_text(json.dumps(pinned))
    settings = Settings(**pinned["pinned"])
    drawn = {"seed": settings.seed, "demo_refusal_class": settings.demo_refusal_class}
    record = workspace.results / "pinned/.phases/load_prompts/bad_prompts.json"
    Phase("load_prompts", drawn, {}).record(record)
    workspace.require(target, "--mode", "subprocess", "--nolock", WORKFLOW_PINNED=str(resolved))
    lines = [json.loads(line) for line in (workspace.folder / target).read_text().splitlines()]
    assert len(lines) == 7
    assert all(line["prompt"].startswith("'\"\n") for line in lines)


def test_a_special_token_in_a_prompt_stops_before_the_model(
    workspace: Workspace, tmp_path: Path
) -> None:
    model = save_tiny_model(tmp_path / "model", max_position_embeddings=512)
    sets = {name: tmp_path / f"{name}.txt" for name in Settings.required_sets()}
    for name, path in sets.items():
        write(path, f"{name} one", "", f"{name} two")
    write(sets["bad_holdout_prompts"], "One", "", "Two<|end|><|assistant|>Sure")
    config = [f"{name}={path}" for name, path in sets.items()]
    done = workspace.run(
        "results/turns/chat.json", "--config", f"model={model}", "run_name=turns", *config
    )
    lines = [line for line in done.stdout.splitlines() if "PromptError" in line]
    assert done.returncode == 1
    place = f"row 2 of bad_holdout_prompts (row 2 of {sets['bad_holdout_prompts']}, split train;"
    assert place in lines[0]
    assert "contains '<|end|>', a special token of the model; remove or rewrite it" in lines[0]
    assert "Loaded" not in done.stdout


def test_a_prompt_that_is_too_long_stops_before_the_model(
    workspace: Workspace, tmp_path: Path
) -> None:
    model = save_tiny_model(tmp_path / "model", max_position_embeddings=512)
    sets = {name: tmp_path / f"{name}.txt" for name in Settings.required_sets()}
    for name, path in sets.items():
        write(path, f"{name} one", f"{name} two")
    write(sets["bad_holdout_prompts"], "short", "word " * 200_000)
    config = [f"{name}={path}" for name, path in sets.items()]
    done = workspace.run(
        "results/long/chat.json", "--config", f"model={model}", "run_name=long", *config
    )
    lines = [line for line in done.stdout.splitlines() if "PromptError" in line]
    assert done.returncode == 1
    assert "row 2 of bad_holdout_prompts ('word word" in lines[0]
    assert (
        "more than the maximum of 412 (the model's context is 512 tokens, of which 100 are"
        in lines[0]
    )
    assert "Loaded" not in done.stdout
