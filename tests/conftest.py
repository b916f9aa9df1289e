"""Fixtures that several rooms share: a workspace of the workflow, and the demo model."""

import logging
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parent.parent
PARTS = ("Snakefile", "config", "profiles", "scripts", "envs", "workflow")
# One job at a time leaves the second core to what a test does beside it.
COMMAND = (sys.executable, "-m", "snakemake", "--cores", "1")


def pytest_configure() -> None:
    """Let the workflows that tests start receive interrupts, also from tests in the background.

    A shell without job control starts background jobs with interrupts ignored, which is inherited.
    """
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def logging_as_before() -> Iterator[None]:
    """Commands send log lines to streams that end with the test that ran them."""
    log = logging.getLogger("heretic")
    before, propagate, level = log.handlers[:], log.propagate, log.level
    yield
    for handler in log.handlers[:]:
        if handler not in before:
            log.removeHandler(handler)
            handler.close()
    log.handlers[:], log.propagate = before, propagate
    log.setLevel(level)


@dataclass(frozen=True)
class Workspace:
    """A copy of the workflow in a folder of its own, run as a user would."""

    folder: Path

    @property
    def results(self) -> Path:
        return self.folder / "results"

    def environment(self, **variables: str) -> dict[str, str]:
        kept = {k: v for k, v in os.environ.items() if not k.startswith("HERETIC_")}
        return {**kept, "PYTHONPATH": str(self.folder / "workflow"), **variables}

    def run(self, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
        """Run snakemake to its end; stdout and stderr come back as one text."""
        return subprocess.run(
            [*COMMAND, *arguments],
            cwd=self.folder,
            env=self.environment(**variables),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )

    def require(self, *arguments: str, **variables: str) -> str:
        """Run snakemake and insist on its success."""
        done = self.run(*arguments, **variables)
        assert done.returncode == 0, done.stdout[-6000:]
        return done.stdout

    def start(self, *arguments: str, **variables: str) -> subprocess.Popen[bytes]:
        """Start snakemake in a process group of its own."""
        return subprocess.Popen(
            [*COMMAND, *arguments],
            cwd=self.folder,
            env=self.environment(**variables),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )


def copy_workflow(folder: Path) -> Workspace:
    """Copy the workflow into `folder`, over what an earlier call left there."""
    folder.mkdir(parents=True, exist_ok=True)
    ignore = shutil.ignore_patterns("__pycache__", "*.egg-info")
    for name in PARTS:
        source = REPOSITORY / name
        if source.is_dir():
            shutil.copytree(source, folder / name, ignore=ignore, dirs_exist_ok=True)
        else:
            shutil.copyfile(source, folder / name)
    return Workspace(folder)


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    """A fresh workspace without results."""
    return copy_workflow(tmp_path)


@pytest.fixture(scope="session")
def demo_workspace(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """A workspace in which the demo model is trained, and nothing else done."""
    shared = copy_workflow(tmp_path_factory.mktemp("demo"))
    shared.require("results/demo-model.manifest.json")
    return shared


@pytest.fixture(scope="session")
def demo_model_folder(demo_workspace: Workspace) -> Path:
    """The trained demo model."""
    return demo_workspace.results / "demo-model"


@pytest.fixture(scope="session")
def demo_run(demo_workspace: Workspace) -> tuple[Workspace, str]:
    """The main job, finished: its workspace and what it printed."""
    return demo_workspace, demo_workspace.require()
