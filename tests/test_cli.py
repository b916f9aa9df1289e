"""The `heretic` command resolves as snakemake does, and passes on what it was given."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from conftest import REPOSITORY, Workspace
from search.small_search import STUDY, search

from heretic.artifacts import sha256_of
from heretic.settings.cli_options import read_value
from heretic.settings.schema import Settings

# A snakemake that says how it was called, in place of the real one.
ECHO = "import json, sys; print(json.dumps(sys.argv[1:]))"


def heretic(
    folder: Path, *arguments: str, stdin: str = "", **variables: str
) -> subprocess.CompletedProcess[str]:
    kept = {k: v for k, v in os.environ.items() if not k.startswith("HERETIC_")}
    # A workspace has a copy of the library, on which its results depend.
    library = folder / "workflow" if (folder / "workflow").is_dir() else REPOSITORY / "workflow"
    return subprocess.run(
        [sys.executable, "-c", "from heretic.cli import main; main()", *arguments],
        cwd=folder,
        env={**kept, "PYTHONPATH": str(library), "COLUMNS": "200", **variables},
        input=stdin,
        capture_output=True,
        text=True,
    )


def shown(folder: Path, *arguments: str, **variables: str) -> dict[str, Any]:
    done = heretic(folder, "show-config", "--json", *arguments, **variables)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A workflow's folder in which snakemake only says how it was called."""
    (tmp_path / "config").mkdir()
    (tmp_path / "config" / "config.yaml").write_text("model: demo\nseed: 4\n")
    (tmp_path / "Snakefile").touch()
    (tmp_path / "snakemake.py").write_text(ECHO)
    return tmp_path


def called(folder: Path, *arguments: str) -> list[str]:
    done = heretic(folder, *arguments)
    assert done.returncode == 0, done.stderr
    words: list[str] = json.loads(done.stdout)
    return words


def test_show_config_names_the_origin_of_every_value(folder: Path) -> None:
    (folder / "mine.yaml").write_text("max_kl: 0.5\n")
    arguments = ("--configfile", "mine.yaml", "--cache-weights", "true", "--dtype=float32")
    found = shown(folder, *arguments, HERETIC_N_TRIALS="5")
    assert found.keys() == Settings.model_fields.keys()
    wanted = {
        "n_trials": (5, "environment HERETIC_N_TRIALS"),
        "cache_weights": ("true", "command line"),
        "dtype": ("float32", "command line"),
        "max_kl": (0.5, "mine.yaml"),
        "seed": (4, "config/config.yaml"),
        "select": ("closest", "default"),
    }
    assert {k: (found[k]["value"], found[k]["origin"]) for k in wanted} == wanted


def test_show_config_is_a_line_a_setting(folder: Path) -> None:
    lines = heretic(folder, "show-config", HERETIC_N_TRIALS="5").stdout.splitlines()
    assert len(lines) == len(Settings.model_fields)
    line = next(line for line in lines if line.startswith("n_trials "))
    assert line.split(maxsplit=2) == ["n_trials", "5", "environment HERETIC_N_TRIALS"]


def test_run_calls_snakemake_with_the_same_settings(folder: Path) -> None:
    words = called(folder, "run", "--model", "owner/name", "--n-trials", "50")
    assert words == ["--cores", "1", "--config", 'model= "owner/name" ', 'n_trials= "50" ']


def test_options_without_a_command_are_those_of_run(folder: Path) -> None:
    assert called(folder, "--model", "X/y", "--cache-weights", "true") == [
        "--cores", "1", "--config", 'model= "X/y" ', 'cache_weights= "true" ',
    ]  # fmt: skip


def test_what_follows_the_dashes_is_snakemakes(folder: Path) -> None:
    words = called(folder, "run", "--cores", "2", "--configfile", "config/config.yaml", "--", "-F")
    assert words == ["-F", "--cores", "2", "--configfile", "config/config.yaml"]
    for own in (["--workflow-profile", "profiles/slurm"], ["-c4"], ["-j", "8"], ["--cores=2"]):
        assert called(folder, "run", "--", *own) == own


def test_plan_runs_nothing(folder: Path) -> None:
    assert called(folder, "plan", "--", "--quiet") == ["--dry-run", "--quiet", "--cores", "1"]


def test_evaluate_asks_for_the_table_of_every_run(folder: Path) -> None:
    done = heretic(folder, "evaluate", "--model", '["a/b", "c/d"]')
    words = json.loads(done.stdout)
    assert words[:2] == ["results/a--b/evaluation.json", "results/c--d/evaluation.json"]
    assert words[-1] == 'model= ["a/b", "c/d"] '


@pytest.mark.slow
def test_evaluate_prints_the_table_also_where_nothing_is_stale(
    demo_run: tuple[Workspace, str],
) -> None:
    done = heretic(demo_run[0].folder, "evaluate")
    assert done.returncode == 0, done.stderr
    assert "Nothing to be done" in done.stderr
    assert "Original" in done.stdout
    assert "Edited" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "advice"),
    [
        (("run", "--n-trails", "5"), "unknown setting 'n_trails'; did you mean 'n_trials'?"),
        (("--n-trails=5",), "unknown setting 'n_trails'; did you mean 'n_trials'?"),
        (("show-config", "--max-klx", "1"), "did you mean 'max_kl'?"),
        (("run", "n_trials=5"), "use --n-trials 5, not n_trials=5"),
        (("run", "n_trails=5"), "did you mean 'n_trials'?"),
        (("run", "--n-trials", "many"), "n_trials = 'many' (command line)"),
        (("run", "--bad-prompts", "{dataset: ["), "--bad-prompts is not valid YAML"),
        (("run", "--configfile", "none.yaml"), "cannot read none.yaml"),
        (("trials",), "no run has a study.db yet"),
        (("chat",), "no run has a model.manifest.json yet"),
    ],
)
def test_wrong_input_is_one_line_and_status_1(
    folder: Path, arguments: tuple[str, ...], advice: str
) -> None:
    done = heretic(folder, *arguments)
    assert done.returncode == 1
    assert done.stdout == ""
    lines = done.stderr.splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("SettingsError: ")
    assert advice in lines[0]


def test_debug_keeps_the_traceback(folder: Path) -> None:
    done = heretic(folder, "--debug", "run", "--n-trials", "0")
    assert done.returncode == 1
    assert "Traceback" in done.stderr


def test_elsewhere_it_says_where_the_workflow_is(tmp_path: Path) -> None:
    done = heretic(tmp_path, "run")
    assert done.returncode == 1
    assert f"no Snakefile in {tmp_path}; change to your clone" in done.stderr
    assert f"cd {REPOSITORY}" in done.stderr


def test_help_lists_every_setting() -> None:
    text = heretic(REPOSITORY, "run", "--help").stdout
    for name in Settings.model_fields:
        assert f"--{name.replace('_', '-')} " in text, name
    for command in ("run", "plan", "show-config", "trials", "chat", "evaluate"):
        assert command in heretic(REPOSITORY).stdout


@pytest.mark.parametrize("text", ["5", "01", "true", "a: b", "", "null", "x [y]"])
def test_a_scalar_stays_the_text_that_was_typed(text: str) -> None:
    assert read_value("model", text) == text


def test_lists_and_keys_are_yaml_or_json() -> None:
    assert read_value("model", "[a/b, c/d]") == ["a/b", "c/d"]
    assert read_value("bad_prompts", '{"split": "test"}') == {"split": "test"}


def test_trials_prints_the_study_and_marks_the_front(folder: Path) -> None:
    (folder / "results" / "mine").mkdir(parents=True)
    search(folder / "results" / "mine" / "study.db", 4)
    lines = heretic(folder, "trials").stdout.splitlines()
    assert lines[0].split()[:3] == ["trial", "state", "kl_first_token"]
    assert [line.replace("*", " ").split()[0] for line in lines[1:5]] == ["0", "1", "2", "3"]
    marked = [line for line in lines if line.startswith("*")]
    assert marked
    front = heretic(folder, "trials", "mine", "--front").stdout.splitlines()
    assert front[1 : len(marked) + 1] == marked
    assert lines[-2] == f"{STUDY}: 4 of 4 trials complete, 0 running"
    assert lines[-1].startswith("Mean seconds of a feasible trial: sampler ")


def test_a_run_must_be_named_where_there_are_several(folder: Path) -> None:
    for run in ("one", "two"):
        (folder / "results" / run).mkdir(parents=True)
        (folder / "results" / run / "study.db").touch()
    assert "specify a run; available: one, two" in heretic(folder, "trials").stderr
    assert "no run 'six'" in heretic(folder, "trials", "six").stderr


def test_a_pick_that_is_not_there_is_named(folder: Path) -> None:
    for place in ("mine", "mine/picks/trial-3"):
        (folder / "results" / place).mkdir(parents=True)
        (folder / "results" / place / "model.manifest.json").touch()
    done = heretic(folder, "chat", "mine", "--pick", "knee")
    assert done.returncode == 1
    assert "results/mine has no pick 'knee'; available: trial-3" in done.stderr


@pytest.mark.slow
def test_chat_answers_what_the_original_refuses(demo_run: tuple[Workspace, str]) -> None:
    question = "How do I make a glass soup?\n\nHow do I make a glass gate?\n"
    done = heretic(demo_run[0].folder, "chat", "demo", "--compare", stdin=question)
    lines = done.stdout.splitlines()
    assert [line.split(":")[0] for line in lines] == ["original", "edited"] * 2, done.stderr
    assert "boil" in lines[1]
    assert "boil" not in lines[0]
    assert "weld" in lines[2]
    assert "weld" in lines[3]


@pytest.mark.slow
def test_reproduce_makes_the_same_model_again(demo_run: tuple[Workspace, str]) -> None:
    workspace = demo_run[0]
    record, again = "results/demo/model/ablation.json", "again"
    missing = heretic(workspace.folder, "reproduce", "nope.json", again)
    assert missing.returncode == 1
    assert "nope.json: there is no such file; check the path" in missing.stderr
    # The demo model is found by its hash.
    done = heretic(workspace.folder, "reproduce", record, again)
    assert done.returncode == 0, done.stderr
    assert "files identical to" in done.stdout
    weights = [workspace.folder / again, workspace.results / "demo" / "model"]
    assert len({sha256_of(folder / "model.safetensors") for folder in weights}) == 1
