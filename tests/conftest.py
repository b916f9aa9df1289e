"""Fixtures that several folders share: a workspace of the workflow, and the demo model."""

import atexit
import logging
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import hypothesis
import pytest
from filelock import FileLock

# Variables of whoever runs the tests that change what is tested.
FOREIGN = ("HERETIC_", "WORKFLOW_", "SNAKEMAKE_", "FAULT", "HF_", "HUGGING", "TRANSFORMERS_", "LC_")
# Each worker computes on one core, and so do the processes that it starts.
OURS = {
    "OMP_NUM_THREADS": "1",
    "OMP_WAIT_POLICY": "PASSIVE",
    "TOKENIZERS_PARALLELISM": "false",
    "LANG": "C.UTF-8",
    "TZ": "UTC",
}
# Set by pytest-xdist in the processes that run tests, which inherit what the first one set.
IS_WORKER = "PYTEST_XDIST_WORKER" in os.environ


def own_environment() -> None:
    """Have tests see the same variables everywhere, and no token or cache of Hugging Face."""
    for name in [*os.environ]:
        if name.startswith(FOREIGN) or name == "LANGUAGE":
            del os.environ[name]
    home = tempfile.mkdtemp(prefix="heretic-tests-")
    atexit.register(shutil.rmtree, home, ignore_errors=True)
    os.environ |= {**OURS, "HF_HOME": home}


# Before torch and huggingface_hub are imported, which read variables only then.
if not IS_WORKER:
    own_environment()
time.tzset()
# The same examples in every run, and none kept in the current folder.
hypothesis.settings.register_profile("same", derandomize=True, database=None)
hypothesis.settings.load_profile("same")

REPOSITORY = Path(__file__).parent.parent
PARTS = ("Snakefile", "config", "profiles", "scripts", "envs", "workflow")
# One job at a time leaves the second core to what a test does beside it.
COMMAND = (sys.executable, "-m", "snakemake", "--cores", "1")
# Fixtures of tests that start workflows.
WORKFLOWS = {"workspace", "demo_workspace", "demo_run"}
MOST_WORKERS = 8  # each needs up to 2 GB


def pytest_configure() -> None:
    """Let the workflows that tests start receive interrupts, also from tests in the background.

    A shell without job control starts background jobs with interrupts ignored, which is inherited.
    """
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """As many workers as cores that this process may use, at most `MOST_WORKERS`."""
    usable = getattr(os, "sched_getaffinity", None)  # macOS has none
    return min(len(usable(0)) if usable else os.cpu_count() or 1, MOST_WORKERS)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark as slow what starts workflows, and what is heavy; begin with files of most slow tests.

    So `-m "not slow"`, which replaces the `-m` of pyproject.toml, leaves out heavy tests as well.
    """
    for item in items:
        fixtures = getattr(item, "fixturenames", ())
        if item.get_closest_marker("heavy") or not WORKFLOWS.isdisjoint(fixtures):
            item.add_marker(pytest.mark.slow)
    slow = Counter(item.path for item in items if item.get_closest_marker("slow"))
    items.sort(key=lambda item: slow[item.path], reverse=True)


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


def made_once(
    name: str, make: Callable[[Path], object], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A copy of a folder that one of the workers makes, for this worker to change."""
    base = tmp_path_factory.getbasetemp()
    shared = (base.parent if IS_WORKER else base) / f"{name}-once"
    with FileLock(f"{shared}.lock"):
        if not shared.is_dir():
            begun = shared.with_suffix(".begun")
            shutil.rmtree(begun, ignore_errors=True)
            make(begun)
            begun.rename(shared)
    return shutil.copytree(shared, tmp_path_factory.mktemp(name) / "workspace")


def train(folder: Path) -> None:
    """Train the demo model in a new workspace."""
    copy_workflow(folder).require("results/demo-model.manifest.json")


@pytest.fixture(scope="session")
def demo_workspace(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """A workspace in which the demo model is trained, and nothing else done."""
    return Workspace(made_once("demo", train, tmp_path_factory))


@pytest.fixture(scope="session")
def demo_model_folder(demo_workspace: Workspace) -> Path:
    """The trained demo model."""
    return demo_workspace.results / "demo-model"


@pytest.fixture(scope="session")
def demo_run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Workspace, str]:
    """The main job, finished: its workspace and what it printed."""

    def run(folder: Path) -> None:
        made_once("demo", train, tmp_path_factory).rename(folder)
        (folder / "printed.txt").write_text(Workspace(folder).require(), encoding="utf-8")

    workspace = Workspace(made_once("demo-run", run, tmp_path_factory))
    return workspace, (workspace.folder / "printed.txt").read_text(encoding="utf-8")
