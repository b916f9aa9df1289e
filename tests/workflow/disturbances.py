"""Ways to interrupt a run of the workflow whose job waits at a known call."""

import csv
import os
import signal
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
from conftest import REPOSITORY, Workspace

from generate_docs import replace_section
from heretic.artifacts import read_json, sha256_of

FAULTS = Path(__file__).parent / "faults"


@dataclass
class Disturbed:
    """A run whose phase waits in its middle."""

    workspace: Workspace
    arguments: tuple[str, ...]
    variables: dict[str, str]
    mark: Path
    main: subprocess.Popen[bytes]

    @property
    def job(self) -> psutil.Process:
        """The process that does the work, the deepest below snakemake."""
        return psutil.Process(self.main.pid).children(recursive=True)[-1]

    def release(self) -> None:
        """Let the waiting phase go on."""
        Path(f"{self.mark}.go").touch()

    def again(self) -> subprocess.CompletedProcess[str]:
        """The same command once more."""
        return self.workspace.run(*self.arguments, **self.variables)


def start_and_wait(
    workspace: Workspace, arguments: tuple[str, ...], fault: str, mark: Path, **more: str
) -> Disturbed:
    """Start a run and wait until a job has reached the call that the fault names."""
    path = os.pathsep.join([str(FAULTS), str(workspace.folder / "workflow")])
    variables = {"FAULT": fault, "FAULT_MARK": str(mark), "PYTHONPATH": path, **more}
    main = workspace.start(*arguments, **variables)
    deadline = time.monotonic() + 300
    while not mark.exists():
        assert main.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return Disturbed(workspace, arguments, variables, mark, main)


def raise_in_script(found: Disturbed) -> str:
    assert found.main.wait(timeout=120) != 0
    return ""


def interrupt_group(found: Disturbed) -> str:
    os.killpg(found.main.pid, signal.SIGINT)
    assert found.main.wait(timeout=120) != 0
    return ""


def interrupt_snakemake(found: Disturbed) -> str:
    os.kill(found.main.pid, signal.SIGINT)
    assert found.main.wait(timeout=120) != 0
    return ""


def terminate_snakemake(found: Disturbed) -> str:
    os.kill(found.main.pid, signal.SIGTERM)
    found.release()
    assert found.main.wait(timeout=300) != 0
    return "the phase ends first"


def kill_job(found: Disturbed) -> str:
    found.job.kill()
    assert found.main.wait(timeout=120) != 0
    return ""


def kill_snakemake(found: Disturbed) -> str:
    """The phase lives on as an orphan; a second one is refused until it ends."""
    orphan = found.job
    found.main.kill()
    found.main.wait()
    assert orphan.is_running()
    refused = found.again()
    assert refused.returncode == 1
    assert f"another process (pid {orphan.pid} on " in refused.stdout
    assert "Traceback" not in refused.stdout
    found.release()
    psutil.wait_procs([orphan], timeout=300)
    assert not orphan.is_running()
    return "refused while the orphan works, then "


def kill_both(found: Disturbed) -> str:
    os.killpg(found.main.pid, signal.SIGKILL)
    found.main.wait()
    return ""


def lose_power(found: Disturbed) -> str:
    """What was being written is cut to half of its length."""
    kill_both(found)
    partial = list(found.workspace.results.rglob(".*.partial"))
    assert partial
    for path in partial:
        for file in [path] if path.is_file() else path.rglob("*.safetensors"):
            os.truncate(file, file.stat().st_size // 2)
    return ""


def outcome(workspace: Workspace, run: str) -> dict[str, Any]:
    """What must not depend on interruptions: everything but times."""
    folder = workspace.results / run
    rows = csv.DictReader((folder / "trials.csv").open())
    evaluation = read_json(folder / "evaluation.json")
    best = read_json(folder / "best.json")
    return {
        "directions": sha256_of(folder / "directions.safetensors"),
        "weights": sha256_of(folder / "model" / "model.safetensors"),
        "trials": [{k: v for k, v in row.items() if not k.startswith("seconds")} for row in rows],
        "evaluation": {k: v for k, v in evaluation.items() if k != "provenance"},
        "best": [best[key] for key in ("trial", "parameters", "scores", "strengths", "n_trials")],
    }


def check_table(section: str, lines: list[str]) -> None:
    """Compare a table of workflow/README.md with what was found; UPDATE_TABLE=1 writes it."""
    page = REPOSITORY / "workflow" / "README.md"
    text = page.read_text(encoding="utf-8")
    found = replace_section(text, section, "\n".join(lines) + "\n")
    if "UPDATE_TABLE" in os.environ:
        page.write_text(found, encoding="utf-8")
    assert found == page.read_text(encoding="utf-8")
