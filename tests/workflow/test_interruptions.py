"""Real signals to real processes, full disks and torn files: the same command finishes the run.

Each case stops a phase in its middle, gives the command again, and compares with a run that nobody
disturbed. The results are the table in workflow/README.md, which `UPDATE_TABLE=1 pytest -m heavy`
writes.
"""

import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import optuna
import pytest
from conftest import Workspace, copy_workflow

from heretic.artifacts import sha256_of
from heretic.search.status import read_search
from heretic.settings.prompt_sources import PROMPT_SETS
from workflow.disturbances import (
    Disturbed,
    check_table,
    interrupt_group,
    interrupt_snakemake,
    kill_both,
    kill_job,
    kill_snakemake,
    lose_power,
    outcome,
    raise_in_script,
    start_and_wait,
    terminate_snakemake,
)

pytestmark = pytest.mark.heavy

SECTION = "interruptions"
N_TRIALS = 8
SMALL = (f"n_trials={N_TRIALS}", "n_startup_trials=4", "max_response_length=16",
         "bootstrap_samples=100")  # fmt: skip
# The phase, and a call in its middle.
RESIDUALS = "heretic.residuals:_states_of_batch:3"  # two of the four sets are written
DIRECTIONS = "heretic.artifacts:_flush:1"
SEARCH = "heretic.engine.batched:BatchedEngine.score:5"  # the baseline, then three trials
SAVING = "heretic.export.folder:write_record:1"
HOLDOUT = "heretic.evaluation.protocol:measure:2"
PHASES = {
    RESIDUALS: "extract_residuals",
    DIRECTIONS: "compute_directions",
    SEARCH: "optimize",
    SAVING: "apply_best",
    HOLDOUT: "evaluate",
}


def arguments(run: str) -> tuple[str, ...]:
    return (f"results/{run}/model.manifest.json", "--config", f"run_name={run}", *SMALL)


CASES: list[tuple[str, str, Callable[[Disturbed], str]]] = [
    ("exception in the script", SEARCH, raise_in_script),
    ("exception in the script", HOLDOUT, raise_in_script),
    ("SIGINT to the process group", SEARCH, interrupt_group),
    ("SIGINT to snakemake alone", SEARCH, interrupt_snakemake),
    ("SIGTERM to snakemake", SEARCH, terminate_snakemake),
    ("SIGKILL of the job", SEARCH, kill_job),
    ("SIGKILL of the job", RESIDUALS, kill_job),
    ("SIGKILL of snakemake alone", SEARCH, kill_snakemake),
    ("SIGKILL of snakemake alone", SAVING, kill_snakemake),
    ("SIGKILL of both", SEARCH, kill_both),
    ("SIGKILL of both", HOLDOUT, kill_both),
    ("loss of power, a torn file", DIRECTIONS, lose_power),
    ("loss of power, a torn file", SAVING, lose_power),
]
ROWS: dict[tuple[str, str], str] = {}


def start_from_demo(workspace: Workspace, run: str) -> None:
    """Prompts are loaded already, and residuals unless their phase is to be disturbed."""
    shutil.copytree(workspace.results / "demo" / "prompts", workspace.results / run / "prompts")


def disturb(workspace: Workspace, run: str, fault: str, action: str, folder: Path) -> Disturbed:
    """Start a run and wait until its phase is in its middle."""
    start_from_demo(workspace, run)
    return start_and_wait(workspace, arguments(run), f"{fault}:{action}", folder / "mark")


def tried(workspace: Workspace, run: str) -> list[str]:
    """Parameters of every completed trial of the run."""
    path = workspace.results / run / "study.db"
    return [str(r.parameters) for r in read_search(path).records] if path.exists() else []


@pytest.fixture(scope="module")
def undisturbed(demo_run: tuple[Workspace, str]) -> dict[str, Any]:
    workspace = demo_run[0]
    start_from_demo(workspace, "undisturbed")
    workspace.require(*arguments("undisturbed"))
    return outcome(workspace, "undisturbed")


@pytest.mark.parametrize("case", range(len(CASES)), ids=lambda n: f"{CASES[n][0]}, {n}")
def test_the_same_command_finishes_the_run(
    case: int, demo_run: tuple[Workspace, str], undisturbed: dict[str, Any], tmp_path: Path
) -> None:
    workspace, run = demo_run[0], f"case{case}"
    name, fault, interrupt = CASES[case]
    action = "raise" if interrupt is raise_in_script else "wait"
    found = disturb(workspace, run, fault, action, tmp_path)
    before = tried(workspace, run)
    note = interrupt(found)
    done = found.again()
    assert done.returncode == 0, done.stdout[-4000:]
    after = tried(workspace, run)
    assert after[: len(before)] == before
    assert len(set(after)) == len(after) == N_TRIALS
    assert outcome(workspace, run) == undisturbed
    assert not list((workspace.results / run).rglob(".*.partial"))
    finishes = f"{note}finishes" if note.endswith(", then ") else "finishes"
    remark = f" ({note})" if note and not note.endswith(", then ") else ""
    ROWS[name, PHASES[fault]] = f"{finishes}{remark} | {len(before)} of {len(before)} | none | yes"


def test_a_full_disk(
    demo_run: tuple[Workspace, str], undisturbed: dict[str, Any], small_disk: Path
) -> None:
    workspace = demo_run[0]
    start_from_demo(workspace, "full")
    done = workspace.run(*arguments("full"))
    assert done.returncode == 1
    lines = [line for line in done.stdout.splitlines() if "no space left on the disk" in line]
    assert lines
    assert "free some space and run again" in lines[0]
    assert "Traceback" not in done.stdout
    assert not list(small_disk.rglob(".*.partial"))
    subprocess.run(["mount", "-o", "remount,size=64m", str(small_disk)], check=True)
    workspace.require(*arguments("full"))
    assert outcome(workspace, "full") == undisturbed
    ROWS["a full disk", "extract_residuals"] = "finishes, once there is space | 0 of 0 | none | yes"


@pytest.fixture
def small_disk(demo_run: tuple[Workspace, str]) -> Iterator[Path]:
    """A disk on which the prompts have room and only one set of residuals has."""
    folder = demo_run[0].results / "full"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=512k", "tmpfs", str(folder)]
    if subprocess.run(mount, capture_output=True).returncode != 0:
        pytest.skip("only root may mount a small file system")
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def test_training_that_was_killed_gives_the_same_model(tmp_path: Path) -> None:
    target = ("results/demo-model-steps12.manifest.json", "--config", "demo_steps=12")
    for name in ("straight", "killed"):
        (tmp_path / name).mkdir()
    straight, killed = (copy_workflow(tmp_path / name) for name in ("straight", "killed"))
    straight.require(*target)
    kill_both(start_and_wait(killed, target, "heretic.demo.train:_loss:8:wait", tmp_path / "mark"))
    killed.require(*target)
    models = [w.results / "demo-model-steps12" / "model.safetensors" for w in (straight, killed)]
    assert sha256_of(models[0]) == sha256_of(models[1])
    ROWS["SIGKILL of both", "train_demo_model"] = "finishes | 0 of 0 | none | yes"


def test_two_models_at_once_do_not_disturb_each_other(
    demo_run: tuple[Workspace, str], undisturbed: dict[str, Any]
) -> None:
    workspace = demo_run[0]
    copy = shutil.copytree(workspace.results / "demo-model", workspace.folder / "copy")
    sets = [name for name in PROMPT_SETS if name.startswith(("good", "bad"))]
    demo = ", column: prompt, answer_column: answers"
    sources = [f"{name}={{dataset: demo, split: {name}{demo}}}" for name in sets]
    both = [
        workspace.start(*arguments("one")),
        workspace.start(*arguments("two"), f"model={copy}", *sources),
    ]
    assert [process.wait(timeout=600) for process in both] == [0, 0]
    one, two = outcome(workspace, "one"), outcome(workspace, "two")
    assert one == undisturbed
    assert two["weights"] == undisturbed["weights"]
    assert two["trials"] == undisturbed["trials"]


def test_two_runs_at_once_train_the_demo_model_once(tmp_path: Path) -> None:
    workspace = copy_workflow(tmp_path)
    target = ("results/demo-model-steps60.manifest.json", "--config", "demo_steps=60")
    both = [workspace.start(*target) for _ in range(2)]
    assert [process.wait(timeout=300) for process in both] == [0, 0]
    assert "Nothing to be done" in workspace.require(*target)
    log = (workspace.folder / "logs" / "train_demo_model" / "demo-model-steps60.log").read_text()
    assert "Already trained by another run" in log


def test_changing_the_objective_back_resumes_the_earlier_study(
    demo_run: tuple[Workspace, str], undisturbed: dict[str, Any]
) -> None:
    workspace, run = demo_run[0], "undisturbed"
    target = (f"results/{run}/study.json", "--config", f"run_name={run}", *SMALL)
    database = workspace.results / run / "study.db"
    before = read_search(database)
    workspace.require(*target, "max_weight=0.5", "n_trials=4")
    assert len(read_search(database).records) == 4
    workspace.require(*target)
    names = optuna.get_all_study_names(f"sqlite:///{database}")
    assert len(names) == 2
    assert read_search(database, before.study).records == before.records
    assert outcome(workspace, run)["trials"] == undisturbed["trials"]


def test_the_table_in_the_readme_is_what_was_found() -> None:
    expected = {(name, PHASES[fault]) for name, fault, _ in CASES}
    expected |= {("a full disk", "extract_residuals"), ("SIGKILL of both", "train_demo_model")}
    if ROWS.keys() != expected:
        pytest.skip("the table needs every case of this file")
    heading = "| interruption | in the middle of | the same command then | finished trials kept |"
    lines = [f"{heading} run twice | same artifacts |", "|---|---|---|---|---|---|"]
    lines += [f"| {name} | `{rule}` | {row} |" for (name, rule), row in sorted(ROWS.items())]
    check_table(SECTION, lines)
