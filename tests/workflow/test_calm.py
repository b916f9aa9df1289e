"""How a run ends that fails or is interrupted: calmly, and with the one line that matters last."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest
from conftest import COMMAND, REPOSITORY, Workspace, copy_workflow
from terminal import Seen, on_terminal
from test_cli import heretic

FAULTS = Path(__file__).parent / "faults"
PROMPTS = "results/demo/prompts/bundle.json"
GOOD_PROMPTS = "results/demo/prompts/good_prompts.jsonl"
READING = "heretic.prompts.sources:read_sources:1"
SMALL = ("n_startup_trials=4", "max_response_length=16", "bootstrap_samples=100")
# What Snakemake says of a failed job by itself.
NOISE = ("Traceback", "RuleException", "CalledProcessError", "WorkflowError", "Error in rule",
         "Complete log", "Shutting down", "code=", "workflow/heretic/")  # fmt: skip


def with_fault(workspace: Workspace, fault: str) -> dict[str, str]:
    environ = workspace.environment(FAULT=fault, FAULT_MARK=str(workspace.folder / "mark"))
    return {**environ, "PYTHONPATH": f"{FAULTS}{os.pathsep}{environ['PYTHONPATH']}"}


def calm(text: str) -> bool:
    return not [word for word in NOISE if word in text]


def seen_on_terminal(
    workspace: Workspace,
    *arguments: str,
    fault: str = "",
    interrupt_at: str | None = None,
    presses: int = 1,
) -> Seen:
    environ = with_fault(workspace, fault) if fault else workspace.environment()
    return on_terminal(
        [*COMMAND, *arguments],
        folder=workspace.folder,
        environ=environ,
        interrupt_at=interrupt_at,
        presses=presses,
    )


def wait_for(path: Path) -> None:
    deadline = time.monotonic() + 120
    while not path.exists():
        assert time.monotonic() < deadline, f"{path} does not appear"
        time.sleep(0.05)


def empty_when_read(file: Path, mark: Path) -> None:
    """Empty a file of prompts once a job is about to read it."""
    wait_for(mark)
    file.write_text("")
    Path(f"{mark}.go").touch()


def test_the_line_of_a_job_is_the_last_one(workspace: Workspace) -> None:
    """A fault of the input that only a job can see: the file was whole when the run began."""
    file, mark = workspace.folder / "good.txt", workspace.folder / "mark"
    command = [*COMMAND, GOOD_PROMPTS, "--config", "good_prompts=good.txt"]
    environ = with_fault(workspace, "heretic.locks:exclusive_lock:1:wait")
    endings = []
    for verbose in ((), ("--verbose",)):
        file.write_text("How are you?\n")
        mark.unlink(missing_ok=True)
        Path(f"{mark}.go").unlink(missing_ok=True)
        meanwhile = threading.Thread(target=empty_when_read, args=(file, mark))
        meanwhile.start()
        seen = on_terminal([*command, *verbose], folder=workspace.folder, environ=environ)
        meanwhile.join()
        assert seen.status == 1
        endings.append(seen)
    assert endings[0].last_line.startswith("PromptError: ")
    assert "good.txt" in endings[0].last_line
    assert endings[0].plain.count("PromptError") == 1
    assert calm(endings[0].plain)
    assert "Error in rule load_prompts" in endings[1].plain
    # Snakemake's own log keeps every word.
    logs = sorted((workspace.folder / ".snakemake" / "log").iterdir())
    assert "Error in rule load_prompts" in logs[0].read_text()


def test_a_defect_names_its_log_and_debug_shows_the_trace(workspace: Workspace) -> None:
    seen = seen_on_terminal(workspace, PROMPTS, fault=f"{READING}:raise")
    assert seen.status == 1
    assert seen.last_line.startswith(
        "RuntimeError: a fault of the test; this is a bug in the workflow; the traceback is in "
        "logs/demo/load_prompts/"
    )
    assert calm(seen.plain)
    log = workspace.folder / seen.last_line.split()[-1]
    assert "Traceback (most recent call last)" in log.read_text()
    (workspace.folder / "mark").unlink()
    environ = {**with_fault(workspace, f"{READING}:raise"), "WORKFLOW_DEBUG": "1"}
    shown = on_terminal([*COMMAND, PROMPTS], folder=workspace.folder, environ=environ)
    assert "Traceback (most recent call last)" in shown.plain
    assert "Error in rule load_prompts" in shown.plain


def test_names_of_files_never_reach_the_terminal_as_they_are(workspace: Workspace) -> None:
    """Snakemake names changed files by itself, on the terminal and in its own log."""
    (workspace.folder / "a\x1b[31m\x07b.txt").write_text("How are you?\n")
    command = [*COMMAND, GOOD_PROMPTS, "--config", "good_prompts=a\x1b[31m\x07b.txt"]
    workspace.require(*command[command.index(GOOD_PROMPTS) :])
    (workspace.folder / "a\x1b[31m\x07b.txt").write_text("Who are you?\n")
    seen = on_terminal(command, folder=workspace.folder, environ=workspace.environment())
    assert seen.status == 0
    logs = [path.read_text() for path in (workspace.folder / ".snakemake" / "log").iterdir()]
    for text in (seen.text, *logs):
        assert "\x07" not in text
        assert "\x1b[31m" not in text
    assert "Updated input files: " in seen.text


def test_several_failures_stand_together_at_the_end(workspace: Workspace) -> None:
    """With two jobs at once, others speak after the first error."""
    environ = with_fault(workspace, f"{READING}:raise")
    command = [*COMMAND[:-1], "2", "--keep-going", PROMPTS]
    seen = on_terminal(command, folder=workspace.folder, environ=environ)
    assert "RuntimeError: a fault of the test" in seen.last_line
    assert calm(seen.plain)


def start_waiting(workspace: Workspace) -> "subprocess.Popen[str]":
    main = subprocess.Popen(
        [*COMMAND, PROMPTS],
        cwd=workspace.folder,
        env=with_fault(workspace, f"{READING}:wait"),
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    wait_for(workspace.folder / "mark")
    return main


def test_a_job_that_the_system_kills_says_so(workspace: Workspace) -> None:
    main = start_waiting(workspace)
    psutil.Process(main.pid).children(recursive=True)[-1].kill()
    text = main.communicate(timeout=120)[1]
    assert main.returncode == 1
    last = text.splitlines()[-1]
    assert last.startswith("load_prompts was killed by the system")
    assert "memory ran out" in last
    assert "max_batch_size" in last
    assert calm(text)


@pytest.mark.parametrize("whom", ["group", "snakemake alone"])
def test_an_interrupt_in_a_pipe_stops_the_job_at_once(whom: str, workspace: Workspace) -> None:
    main = start_waiting(workspace)
    jobs = psutil.Process(main.pid).children(recursive=True)
    (os.killpg if whom == "group" else os.kill)(main.pid, signal.SIGINT)
    text = main.communicate(timeout=120)[1]
    assert main.returncode != 0
    assert text.splitlines()[-1] == "Interrupted; run the same command to continue"
    assert calm(text)
    assert not any(process.is_running() for process in jobs)


@pytest.mark.parametrize("presses", [1, 3])
@pytest.mark.parametrize("moment", ["Assuming unrestricted", "Job \\d+: Loading", "jobid: \\d+"])
def test_the_interrupt_key_is_answered_in_one_line(
    moment: str, presses: int, workspace: Workspace
) -> None:
    """While the Snakefile is read, while a job imports its modules, and between jobs."""
    seen = seen_on_terminal(workspace, PROMPTS, interrupt_at=moment, presses=presses)
    assert seen.status != 0
    assert seen.lines_after[-1] == "Interrupted; run the same command to continue"
    assert len(seen.lines_after) <= 3
    assert calm(seen.after)
    assert "\x1b[?25h" in seen.after  # the cursor that a bar hides


LATE_ERROR = """
import logging, sys
sys.path.insert(0, "workflow/rules")
from calm import LastLine, SNAKEMAKE
log, handler = logging.getLogger(SNAKEMAKE), logging.StreamHandler()
log.addHandler(handler)
last = LastLine(handler, lambda: True, lambda run, since: "")
if sys.argv[1] == "interrupted":
    last.interrupt()
log.removeHandler(handler)
log.error("Error in rule load_prompts, jobid: 0")
"""


@pytest.mark.parametrize(("when", "shown"), [("interrupted", False), ("not", True)])
def test_a_job_that_ends_after_snakemake_removed_its_handlers_adds_no_line(
    when: str, shown: bool
) -> None:
    done = subprocess.run(
        [sys.executable, "-c", LATE_ERROR, when],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=True,
    )
    assert ("Error in rule" in done.stderr) is shown


@pytest.mark.slow
def test_an_interrupted_search_says_how_many_trials_it_keeps(
    demo_workspace: Workspace, tmp_path: Path
) -> None:
    arguments = ("--config", "run_name=calm", "n_trials=200", *SMALL)
    target = "results/calm/trials.csv"
    seen = seen_on_terminal(demo_workspace, target, *arguments, interrupt_at="Trial [5-9]:")
    assert len(seen.lines_after) == 1
    words = seen.lines_after[0].split()
    assert " ".join(words[2:]) == "of 200 trials are kept; run the same command to continue"
    assert words[0] == "Interrupted:"
    assert int(words[1]) >= 5
    assert calm(seen.plain)
    # Nothing is kept of a search of another objective that has not begun.
    other = (*arguments, "max_weight=1.5")
    seen = seen_on_terminal(demo_workspace, target, *other, interrupt_at="Optimizing ablation")
    assert seen.lines_after == ["Interrupted; run the same command to continue"]


@pytest.mark.slow
@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount")
@pytest.mark.parametrize("name", ["logs", "benchmarks", ".snakemake", "results"])
def test_a_folder_that_is_not_writable_is_one_line(name: str, tmp_path: Path) -> None:
    """As a user without root's powers, in a project that belongs to somebody else."""
    workspace = copy_workflow(tmp_path / "project")
    (workspace.folder / name).mkdir()
    done = subprocess.run(
        [*WITHOUT_POWERS, *COMMAND, PROMPTS],
        cwd=closed(workspace.folder / name).parent,
        env=workspace.environment(),
        stderr=subprocess.PIPE,
        text=True,
    )
    assert done.returncode == 1
    lines = [line for line in done.stderr.splitlines() if "Error" in line]
    assert len(lines) == 1, done.stderr
    assert f"{name} is not writable" in lines[0] or f"/{name}" in lines[0]
    assert calm(done.stderr)


def test_a_home_that_is_not_writable_is_one_line(workspace: Workspace) -> None:
    home = workspace.folder / "home"
    home.touch()
    done = heretic(workspace.folder, "plan", HOME=str(home), XDG_CACHE_HOME="")
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1, done.stderr
    assert "XDG_CACHE_HOME" in done.stderr


# Root without the right to pass over permissions.
WITHOUT_POWERS = (
    *("setpriv", "--bounding-set=-dac_override,-dac_read_search,-fowner"),
    "--inh-caps=-dac_override,-dac_read_search,-fowner",
)


def closed(folder: Path) -> Path:
    folder.chmod(0o555)
    return folder
