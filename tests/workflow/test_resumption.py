"""A job that dies after a complete run was changed: the same command finishes the changed run.

The old final results still exist then, and must not pass for those of the changed settings. Every
rule is tried in turn on one run, each time with one more change; in the end the run has the
artifacts of a run of all changes that nobody disturbed. The results are a table in
workflow/README.md, which `UPDATE_TABLE=1 pytest -m heavy` writes.
"""

import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from conftest import Workspace, copy_workflow
from custom_tasks import write_choices
from services.hub_server import HubServer

from heretic.artifacts import read_json, sha256_of
from workflow.disturbances import (
    Disturbed,
    check_table,
    interrupt_group,
    kill_both,
    kill_job,
    outcome,
    raise_in_script,
    start_and_wait,
)

pytestmark = pytest.mark.heavy

SECTION = "interruptions after a complete run"
# The first call of a job's own; its outputs have been deleted by then.
AT_WORK = "heretic.phases:unchanged_phase:1"
BASE = {
    "n_trials": "6",
    "n_startup_trials": "4",
    "max_response_length": "16",
    "bootstrap_samples": "100",
    "unhelpfulness_prompts": "true",
    "benchmarks": "words",
    "benchmark_tasks": "own_tasks",
    "upload_to": "tester/resumed",
}
KINDS: dict[str, Callable[[Disturbed], str]] = {
    "SIGKILL of the job": kill_job,
    "SIGKILL of both": kill_both,
    "SIGINT to the process group": interrupt_group,
    "exception in the script": raise_in_script,
}
FEWER = "{dataset: demo, split: 'good_prompts[:120]', column: prompt}"
EDITED = "the code of its script"


@dataclass(frozen=True)
class Step:
    """A rule, what makes it stale, and how its job then ends."""

    rule: str
    change: str
    kind: str


# From the first rule to the last, so that what a step makes is left alone by later ones.
STEPS = [
    Step("load_prompts", f"good_prompts={FEWER}", "SIGKILL of the job"),
    Step("check_prompts", EDITED, "SIGKILL of both"),
    Step("find_response_prefix", "dtype=float32", "SIGKILL of the job"),
    Step("extract_residuals", "winsorize_quantile=0.999", "SIGKILL of both"),
    Step(
        "extract_protected_residuals",
        "unhelpfulness_mean_only=true",
        "SIGINT to the process group",
    ),
    Step("compute_directions", "min_remaining_norm=0.01", "SIGKILL of the job"),
    Step("optimize", "n_trials=8", "SIGKILL of both"),
    Step("score_finalists", "n_finalists=1", "exception in the script"),
    Step("select_best", EDITED, "SIGKILL of the job"),
    Step("apply_best", "max_shard_size=1GB", "SIGKILL of both"),
    Step("evaluate", "bootstrap_samples=101", "SIGKILL of the job"),
    Step("benchmark_original", "benchmark_limit=4", "SIGKILL of the job"),
    Step("benchmark", EDITED, "SIGINT to the process group"),
    Step("save", EDITED, "SIGKILL of the job"),
    Step("report", EDITED, "SIGKILL of both"),
    Step("upload", "upload_private=false", "SIGKILL of the job"),
]  # fmt: skip
ROWS: dict[str, str] = {}


@dataclass
class Changing:
    """A run whose settings and scripts change from step to step."""

    workspace: Workspace
    hub: dict[str, str]
    settings: dict[str, str] = field(default_factory=lambda: dict(BASE))

    def arguments(self, run: str) -> tuple[str, ...]:
        return ("--config", f"run_name={run}", *(f"{k}={v}" for k, v in self.settings.items()))

    def change(self, step: Step) -> None:
        if step.change == EDITED:
            script = self.workspace.folder / "scripts" / f"{step.rule}.py"
            script.write_text(script.read_text() + "\nEDITED = 1\n")
        else:
            name, _, value = step.change.partition("=")
            self.settings[name] = value


@pytest.fixture(scope="module")
def changing(
    demo_workspace: Workspace, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Changing]:
    folder = tmp_path_factory.mktemp("resumed") / "workspace"
    workspace = Workspace(Path(shutil.copytree(demo_workspace.folder, folder)))
    write_choices(folder / "own_tasks", "words")
    with HubServer() as hub:
        found = Changing(workspace, hub.environment(tmp_path_factory.mktemp("home")))
        workspace.require(*found.arguments("resumed"), **found.hub)
        yield found


@pytest.mark.parametrize("step", STEPS, ids=lambda step: step.rule)
def test_the_same_command_finishes_a_changed_run(
    step: Step, changing: Changing, tmp_path: Path
) -> None:
    changing.change(step)
    command, workspace = changing.arguments("resumed"), changing.workspace
    action = "raise" if step.kind == "exception in the script" else "wait"
    found = start_and_wait(
        workspace,
        command,
        f"{AT_WORK}:{action}",
        tmp_path / "mark",
        FAULT_RULE=step.rule,
        **changing.hub,
    )
    KINDS[step.kind](found)
    done = found.again()
    assert done.returncode == 0, done.stdout[-4000:]
    assert "Nothing to be done" not in done.stdout
    plan = workspace.require("--dry-run", *command, **changing.hub)
    assert "Nothing to be done" in plan
    changed = step.change if step.change == EDITED else f"`{step.change.partition('=')[0]}`"
    ROWS[step.rule] = f"{changed} | {step.kind} | finishes"


def test_the_artifacts_are_those_of_an_undisturbed_run(changing: Changing) -> None:
    workspace = changing.workspace
    changing.settings["upload_to"] = "tester/undisturbed"
    workspace.require(*changing.arguments("undisturbed"), **changing.hub)
    assert outcome(workspace, "resumed") == outcome(workspace, "undisturbed")
    tasks = [
        read_json(workspace.results / run / "benchmarks.json")["tasks"]
        for run in ("resumed", "undisturbed")
    ]
    assert tasks[0] == tasks[1]


def test_a_demo_model_is_trained_to_its_end(tmp_path: Path) -> None:
    workspace = copy_workflow(tmp_path)
    target = ("results/demo-model-steps12.manifest.json", "--config", "demo_steps=12")
    workspace.require(*target)
    model = workspace.results / "demo-model-steps12" / "model.safetensors"
    before = sha256_of(model)
    script = workspace.folder / "scripts" / "train_demo_model.py"
    script.write_text(script.read_text() + "\nEDITED = 1\n")
    found = start_and_wait(workspace, target, "heretic.demo.train:_loss:8:wait", tmp_path / "mark")
    kill_job(found)
    assert not (workspace.results / "demo-model-steps12.manifest.json").exists()
    assert found.again().returncode == 0
    assert "Nothing to be done" in workspace.require("--dry-run", *target)
    assert sha256_of(model) == before
    ROWS["train_demo_model"] = f"{EDITED} | SIGKILL of the job | finishes"


def test_the_table_in_the_readme_is_what_was_found() -> None:
    rules = ["train_demo_model", *(step.rule for step in STEPS)]
    if ROWS.keys() != set(rules):
        pytest.skip("the table needs every case of this file")
    lines = ["| rule | changed | interruption | the same command then |", "|---|---|---|---|"]
    check_table(SECTION, [*lines, *(f"| `{rule}` | {ROWS[rule]} |" for rule in rules)])
