"""Log lines, one-line errors and progress."""

import contextlib
import fcntl
import io
import logging
import os
import pty
import re
import struct
import subprocess
import sys
import termios
from pathlib import Path

import pytest

from heretic import console
from heretic.console import ProgressLine, duration, job, log, one_line_errors, pace, start_logging
from heretic.errors import StudyError


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [(0, "0:00"), (59.4, "0:59"), (59.6, "1:00"), (75, "1:15"), (4000, "1:06:40"), (-3, "0:00")],
)
def test_durations(seconds: float, shown: str) -> None:
    assert duration(seconds) == shown


def test_a_known_error_is_one_line_and_status_1(tmp_path: Path) -> None:
    def phase() -> None:
        with job(str(tmp_path / "logs" / "phase.log")):
            log.info("begun")
            raise StudyError("no trial is feasible;\nraise max_kl")

    with pytest.raises(SystemExit) as stop:
        phase()
    assert stop.value.code == 1
    lines = (tmp_path / "logs" / "phase.log").read_text().splitlines()
    assert len(lines) == 2
    assert lines[0].endswith("INFO begun")
    assert lines[1].endswith("ERROR StudyError: no trial is feasible; raise max_kl")


def test_a_defect_keeps_its_trace(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), job(str(tmp_path / "phase.log")):
        print(1 / 0)  # noqa: T201


def test_debug_keeps_the_trace_of_a_known_error() -> None:
    with pytest.raises(StudyError), one_line_errors(debug=True):
        raise StudyError("x")


def test_a_full_disk_under_the_log_says_nothing_more(tmp_path: Path) -> None:
    (tmp_path / "phase.log").symlink_to("/dev/full")
    program = (
        "from heretic.console import job\n"
        "from heretic.errors import StudyError\n"
        "with job('phase.log'):\n"
        "    raise StudyError('no space left on the disk')\n"
    )
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr == "StudyError: no space left on the disk\n"


def test_a_variable_keeps_the_trace_of_a_jobs_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORKFLOW_DEBUG", "1")
    with pytest.raises(StudyError), job(str(tmp_path / "phase.log")):
        raise StudyError("x")


def test_a_process_prints_one_line_and_no_traceback() -> None:
    program = (
        "from heretic.console import start_logging, one_line_errors\n"
        "from heretic.errors import PromptError\n"
        "start_logging()\n"
        "with one_line_errors():\n"
        "    raise PromptError('prompts.txt is empty; write one into it')\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr == "PromptError: prompts.txt is empty; write one into it\n"


def test_a_character_that_the_terminal_lacks_is_replaced() -> None:
    told = "KL \u2264 1 caf\xe9"
    code = f"from heretic.console import start_logging; start_logging(); print({told!a})"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONIOENCODING": "latin-1"},
        capture_output=True,
        check=True,
    )
    assert done.stdout.decode("latin-1") == "KL ? 1 caf\xe9\n"


def test_starting_again_closes_the_former_log(tmp_path: Path) -> None:
    start_logging(tmp_path / "one.log")
    former = next(h for h in log.handlers if isinstance(h, logging.FileHandler))
    start_logging(tmp_path / "two.log")
    log.info("second")
    assert former.stream is None
    assert (tmp_path / "one.log").read_text() == ""
    assert "second" in (tmp_path / "two.log").read_text()


class Clock:
    """A clock that the test moves."""

    def __init__(self) -> None:
        self.now = 100.0

    def monotonic(self) -> float:
        return self.now


def test_progress_in_a_log_says_how_far_and_how_long(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, text = Clock(), io.StringIO()
    monkeypatch.setattr(console, "time", clock)
    start_logging()
    log.handlers[:] = [logging.StreamHandler(text)]
    with ProgressLine("Trials", 100, done=50) as progress:
        for _ in range(10):
            clock.now += 4
            progress.advance(note="KL 0.1")
        clock.now += 160
        progress.advance(40)
    lines = text.getvalue().splitlines()
    # One line every ten seconds and one at the end; the rate is that of this process.
    assert lines == [
        "Trials: 53/100, 4.00 s each, 3:08 left. KL 0.1",
        "Trials: 56/100, 4.00 s each, 2:56 left. KL 0.1",
        "Trials: 59/100, 4.00 s each, 2:44 left. KL 0.1",
        "Trials: 100/100, 4.00 s each, 0:00 left. ",
    ]


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [(65, "65.00 s each"), (0.25, "0.25 s each"), (0.02, "50 a second")],
)
def test_pace(seconds: float, shown: str) -> None:
    assert pace(seconds) == shown


def test_a_task_without_a_name_is_counted_in_silence() -> None:
    text = io.StringIO()
    start_logging()
    log.handlers[:] = [logging.StreamHandler(text)]
    with ProgressLine("", 2) as progress:
        progress.advance(2)
    assert progress.done == 2
    assert text.getvalue() == ""


BAR = """
import time
from heretic.console import ProgressLine, start_logging
start_logging()
with ProgressLine("Trials", 40) as progress:
    for step in range(40):
        time.sleep(0.02)
        progress.advance(note=f"Trial {step}: KL 0.1")
"""


def test_a_terminal_shows_a_bar_with_rate_and_time_left() -> None:
    ours, theirs = pty.openpty()
    size = struct.pack("HHHH", 30, 160, 0, 0)
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, size)
    process = subprocess.Popen(
        [sys.executable, "-c", BAR], stderr=theirs, env={**os.environ, "TERM": "xterm"}
    )
    os.close(theirs)
    shown = b""
    with contextlib.suppress(OSError):  # a closed terminal ends in an error, not in an end
        while piece := os.read(ours, 4096):
            shown += piece
    os.close(ours)
    assert process.wait() == 0
    text = shown.decode(errors="replace")
    assert re.search(r"\d+ a second|\d\.\d\d s each", text)
    assert re.search(r"\d+/40.*0:00:\d\d.*0:00:\d\d.*Trial \d+: KL 0\.1", text)
