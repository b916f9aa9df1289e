"""One process at a time, and whoever comes second is told who is first."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from heretic.errors import HereticError, StudyError
from heretic.locks import sole_process

HOLD = """
import sys, time
from pathlib import Path
from heretic.locks import sole_process
with sole_process(Path(sys.argv[1]), "reading", wait=len(sys.argv) > 2):
    print("held", flush=True)
    time.sleep(600 if len(sys.argv) < 3 else 0)
"""


@contextmanager
def holder(lock: Path, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-c", HOLD, str(lock), *arguments]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def test_a_second_process_is_refused_and_told_who_is_first(tmp_path: Path) -> None:
    lock = tmp_path / "folder" / "a.lock"
    with holder(lock) as first:
        assert first.stdout is not None
        assert first.stdout.readline() == "held\n"
        message = rf"another process \(pid {first.pid} on .*\) is still searching.*run again"
        with (
            pytest.raises(StudyError, match=message),
            sole_process(lock, "searching", StudyError),
        ):
            pytest.fail("two at once")
        first.send_signal(signal.SIGKILL)
        first.wait()
    # A killed holder holds nothing.
    with sole_process(lock, "searching"):
        assert (tmp_path / "folder" / "a.holder").read_text().startswith(f"pid {os.getpid()} on ")


def test_a_process_may_wait_for_its_turn(tmp_path: Path) -> None:
    lock = tmp_path / "a.lock"
    with holder(lock, "wait") as waiting:
        assert waiting.stdout is not None
        with sole_process(lock, "reading"):
            pass
        assert waiting.stdout.readline() == "held\n"
        assert waiting.wait(timeout=60) == 0


def test_the_lock_is_given_back_after_an_error(tmp_path: Path) -> None:
    lock = tmp_path / "a.lock"
    with pytest.raises(ZeroDivisionError), sole_process(lock, "reading"):
        raise ZeroDivisionError
    with sole_process(lock, "reading", HereticError):
        pass
    assert not (tmp_path / "a.holder").exists()
