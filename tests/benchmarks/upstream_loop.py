"""Trials of upstream's Heretic, run as its users run it, in an environment of its own.

It reads its settings from `config.toml` in its working directory and prompts from text files, and
tells of each stage as it comes to it: lines are stamped as they arrive. A line is written when a
stage begins, after the results of the one before have been read from the device. After its trials
it wants to be asked what to do with them, and is ended.
"""

import json
import os
import re
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch

from benchmarks.trial_work import SYSTEM, Measured, Texts, Work, means
from heretic.timing import STAGES

VERSION = "1.4.0"
CONSTRAINTS = Path(__file__).parents[2] / "envs" / "constraints.txt"
FINISHED = "Optimization finished!"
# What it says when a stage begins; what no stage takes is asking, storing and printing.
BEGINNINGS = {
    "* Resetting model...": "restore",
    "* Abliterating...": "edit",
    "* Evaluating...": "overhead",
    "* Obtaining first-token probability distributions...": "prefill",
    "* Counting model refusals...": "decode",
}
_TRIAL = re.compile(r"Running trial \d+ of \d+\.\.\.")
_REFUSALS = re.compile(r"\* Refusals: (\d+)/(\d+)")
_TELL = "import importlib.metadata as m; print(*map(m.version, ('{}', 'torch', 'transformers')))"


@dataclass
class UpstreamTrial:
    """Seconds by stage, and how many bad prompts were refused."""

    seconds: dict[str, float]
    refusals: int = 0
    asked: int = 0


def parse_trials(stamped: Iterable[tuple[float, str]]) -> list[UpstreamTrial]:
    """The finished trials in a log whose lines have the seconds at which they arrived.

    A trial lasts until the next one begins, so that asking the sampler and storing count.
    """
    finished: list[UpstreamTrial] = []
    current: UpstreamTrial | None = None
    stage, since = "overhead", 0.0
    for seconds, line in stamped:
        text = line.strip()
        counted, ends = _REFUSALS.fullmatch(text), text == FINISHED or _TRIAL.fullmatch(text)
        if not (counted or ends or text in BEGINNINGS):
            continue
        if current:
            current.seconds[stage] += seconds - since
            if counted:
                current.refusals, current.asked = (int(number) for number in counted.groups())
        if ends:
            finished += [current] if current else []
            current = UpstreamTrial(dict.fromkeys(STAGES, 0.0))
        stage, since = BEGINNINGS.get(text, "overhead"), seconds
    return finished


def install(cache: Path) -> Path:
    """The interpreter of an environment that has upstream's package, made if there is none."""
    folder = cache / f"upstream-{VERSION}"
    python = folder / "bin" / "python"
    if not python.exists() or not versions(python):
        (pin,) = (line for line in CONSTRAINTS.read_text().splitlines() if "torch==" in line)
        sys.stderr.write(f"Installing heretic-llm {VERSION} into {folder}, once\n")
        subprocess.run([sys.executable, "-m", "venv", "--clear", str(folder)], check=True)
        wanted = (f"heretic-llm=={VERSION}", pin)
        subprocess.run([str(python), "-m", "pip", "install", "-qq", *wanted], check=True)
    return python


def versions(python: Path) -> str:
    """Of upstream, torch and transformers, as one line; empty if they are not all there."""
    told = subprocess.run(
        [str(python), "-c", _TELL.format("heretic-llm")],
        env=_environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    names = ("heretic-llm", "torch", "transformers")
    found = zip(names, told.stdout.split(), strict=True) if told.returncode == 0 else ()
    return ", ".join(f"{name} {version}" for name, version in found)


def run_upstream(
    work: Work, python: Path, trials: int, *, answer_good: bool, limit_s: float
) -> Measured:
    """Time as many trials after a first one, which warms up.

    Args:
        work: what it works on.
        python: interpreter of an environment that has it.
        trials: how many are timed.
        answer_good: whether it answers the good prompts too, as if they were bad ones.
        limit_s: seconds after which it is ended in any case.
    """
    with tempfile.TemporaryDirectory() as folder:
        _write_configuration(Path(folder), work, trials + 1, answer_good)
        lines = list(_stamped_lines(python, Path(folder), limit_s))
    found = parse_trials(lines)[1:]
    if len(found) < trials:
        tail = "".join(line for _, line in lines[-30:])
        raise RuntimeError(f"upstream finished {len(found)} of {trials} timed trials:\n{tail}")
    refused = sum(trial.refusals for trial in found) / sum(trial.asked for trial in found)
    name = f"upstream {VERSION}"
    return Measured(name, means([trial.seconds for trial in found], len(found)), (), refused)


def _write_configuration(folder: Path, work: Work, trials: int, answer_good: bool) -> None:
    settings = {
        "model": str(work.folder.resolve()),
        "dtypes": [work.dtype_name],
        "device_map": str(work.device),
        "offload_outputs_to_cpu": False,
        "batch_size": work.batch_size,
        "max_response_length": work.tokens,
        "response_prefix": "",
        "row_normalization": "none",  # the same edit as ours
        "n_trials": trials,
        "n_startup_trials": trials,
        "seed": 0,
        "system_prompt": SYSTEM,
    }
    lines = [f"{name} = {json.dumps(value)}" for name, value in settings.items()]
    for name, texts in _files(work.texts, answer_good).items():
        (folder / f"{name}.txt").write_text("\n".join(texts) + "\n", encoding="utf-8")
        lines += [f"[{name}]", f'dataset = "{name}.txt"']
    (folder / "config.toml").write_text("\n".join(lines) + "\n", encoding="utf-8")


def _files(texts: Texts, answer_good: bool) -> dict[str, Sequence[str]]:
    return {
        "good_prompts": texts.good_sources,
        "bad_prompts": texts.bad_sources,
        "good_evaluation_prompts": texts.good,
        "bad_evaluation_prompts": (*texts.bad, *texts.good) if answer_good else texts.bad,
    }


def _stamped_lines(python: Path, folder: Path, limit_s: float) -> Iterator[tuple[float, str]]:
    """Its lines with the seconds at which they came, until its trials are done."""
    with _running(python, folder, limit_s) as process:
        assert process.stdout is not None
        for line in process.stdout:
            yield time.perf_counter(), line
            if line.strip() == FINISHED:
                return


@contextmanager
def _running(python: Path, folder: Path, limit_s: float) -> Iterator["subprocess.Popen[str]"]:
    process = subprocess.Popen(
        [str(python.with_name("heretic"))],
        cwd=folder,
        env=_environment(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    overdue = threading.Timer(limit_s, process.kill)
    overdue.start()
    try:
        yield process
    finally:
        overdue.cancel()
        process.kill()
        process.communicate()


def _environment() -> dict[str, str]:
    """That of this process, but for what would lead to the package `heretic` of this one."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith("HERETIC_")}
    kept.pop("PYTHONPATH", None)
    return {
        **kept,
        "OMP_NUM_THREADS": str(torch.get_num_threads()),
        "PYTHONUNBUFFERED": "1",
        "COLUMNS": "200",
        "HF_HUB_OFFLINE": "1",
    }
