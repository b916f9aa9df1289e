"""A process that imports everything once and runs each case in a fork of itself.

Starting Python and importing torch for each of several hundred inputs would take half an hour; a
fork takes milliseconds and still isolates the case, so that it can be killed and its memory
measured. The server itself computes nothing before it forks: threads do not survive a fork.
"""

import multiprocessing
import os
import resource
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import psutil

from malformed.case import CPU_SECONDS, MEMORY_BYTES, WALL_SECONDS, Case, Outcome
from malformed.corpus import cases_of

POLLING_SECONDS = 0.02
PARALLEL = 2


def run_group(group: str, names: list[str] | None = None) -> Iterator[tuple[str, Outcome]]:
    """Run the cases of a group in a fresh server; yield each name and outcome.

    Args:
        group: name of a group of the corpus.
        names: of the cases to run; all of them by default.
    """
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    server = context.Process(target=_serve, args=(there, group, names))
    server.start()
    there.close()
    try:
        while True:
            try:
                name, fields = here.recv()
            except EOFError:
                break
            yield name, Outcome(**fields)
    finally:
        server.join()
    if server.exitcode != 0:
        raise RuntimeError(f"the server of {group} ended with status {server.exitcode}")


def _serve(pipe: Any, group: str, names: list[str] | None) -> None:
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    _import_everything()
    cases = cases_of(group)
    chosen = [case for name, case in cases.items() if names is None or name in names]
    with ThreadPoolExecutor(PARALLEL) as pool:
        for case, outcome in zip(chosen, pool.map(_in_fork, chosen), strict=True):
            pipe.send((case.name, asdict(outcome)))


def _import_everything() -> None:
    import torch

    import heretic.cli
    import heretic.export.reproduce
    import heretic.model.loading
    import heretic.preflight
    import heretic.prompts.sources  # noqa: F401

    torch.set_num_threads(1)


def _in_fork(case: Case) -> Outcome:
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "input"
        folder.mkdir()
        output = Path(scratch) / "output"
        started = time.monotonic()
        process = os.fork()
        if process == 0:
            _child(case, folder, output)
        stopped = None
        while True:
            ended, wait_status, usage = os.wait4(process, os.WNOHANG)
            if ended:
                break
            stopped = stopped or _exceeded(process, time.monotonic() - started)
            if stopped:
                os.kill(process, signal.SIGKILL)
            time.sleep(POLLING_SECONDS)
        return Outcome(
            status=os.waitstatus_to_exitcode(wait_status),
            output=output.read_text(encoding="utf-8", errors="replace"),
            cpu_seconds=usage.ru_utime + usage.ru_stime,
            wall_seconds=time.monotonic() - started,
            peak_bytes=usage.ru_maxrss * 1024,
            stopped=stopped,
        )


def _exceeded(process: int, wall_seconds: float) -> str | None:
    try:
        watched = psutil.Process(process)
        times, memory = watched.cpu_times(), watched.memory_info().rss
    except psutil.NoSuchProcess:
        return None
    if times.user + times.system > CPU_SECONDS:
        return f"{CPU_SECONDS} s of CPU time"
    if wall_seconds > WALL_SECONDS:
        return f"{WALL_SECONDS} s"
    return f"{MEMORY_BYTES / 1024**3:.0f} GB" if memory > MEMORY_BYTES else None


def _child(case: Case, folder: Path, output: Path) -> None:
    """Run the case, then leave the process without returning to the server's code."""
    status = 99
    try:
        with output.open("wb") as stream:
            os.dup2(stream.fileno(), 1)
            os.dup2(stream.fileno(), 2)
        with Path(os.devnull).open("rb") as nothing:
            os.dup2(nothing.fileno(), 0)
        # Far above what a case may use, so that one that allocates at once ends in an exception.
        limit = psutil.Process().memory_info().vms + 3 * MEMORY_BYTES
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        with _terminal_streams():
            status = _status_of(case, folder)
    finally:
        os._exit(status)


def _status_of(case: Case, folder: Path) -> int:
    from heretic.console import log, one_line_errors, start_logging

    start_logging()
    log.setLevel("ERROR")
    try:
        with one_line_errors():
            case.action(folder)
    except SystemExit as error:
        return error.code if isinstance(error.code, int) else int(error.code is not None)
    except BaseException:
        traceback.print_exc()
        return 99
    return 0


@contextmanager
def _terminal_streams() -> Iterator[None]:
    """Replace the text streams, whose buffers and locks come from the server."""
    before = sys.stdout, sys.stderr
    with (
        open(1, "w", encoding="utf-8", closefd=False) as sys.stdout,  # noqa: PTH123
        open(2, "w", encoding="utf-8", closefd=False) as sys.stderr,  # noqa: PTH123
    ):
        try:
            yield
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
    sys.stdout, sys.stderr = before
