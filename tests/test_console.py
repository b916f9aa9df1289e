"""Log lines, one-line errors and progress."""

import io
import logging
import os
import re
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from terminal import on_terminal

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


def run_job(folder: Path, *lines: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run a job of some lines in a process of its own, in `folder`."""
    program = "from heretic.console import job, log\nwith job('phase.log'):\n"
    program += "".join(f"    {line}\n" for line in lines)
    environ = {**os.environ, **variables}
    command = [sys.executable, "-c", program]
    return subprocess.run(command, cwd=folder, env=environ, capture_output=True, text=True)


def test_a_defect_is_one_line_and_its_trace_is_in_the_log(tmp_path: Path) -> None:
    done = run_job(tmp_path, "log.info('begun')", "1 / 0")
    assert done.returncode == 1
    assert done.stderr.splitlines() == [
        "begun",
        "ZeroDivisionError: division by zero; this is a bug in the workflow; the traceback is in "
        "phase.log",
    ]
    lines = (tmp_path / "phase.log").read_text().splitlines()
    assert "Traceback (most recent call last):" in lines
    assert lines[-1].endswith("ERROR " + done.stderr.splitlines()[-1])


def test_debug_keeps_the_trace_of_a_defect(tmp_path: Path) -> None:
    done = run_job(tmp_path, "1 / 0", WORKFLOW_DEBUG="1")
    assert done.stderr.splitlines()[-1] == "ZeroDivisionError: division by zero"
    assert "Traceback" in done.stderr


@pytest.mark.parametrize(
    "cause",
    [
        "raise MemoryError",
        "bytearray(1 << 62)",
        "raise RuntimeError('CUDA out of memory. Tried to allocate 2.00 GiB')",
        'raise RuntimeError("DefaultCPUAllocator: can\'t allocate memory: you tried")',
    ],
)
def test_a_job_without_memory_says_so(cause: str, tmp_path: Path) -> None:
    done = run_job(tmp_path, cause)
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1
    assert "memory ran out" in done.stderr
    assert "max_batch_size" in done.stderr


def test_a_panic_is_one_line(tmp_path: Path) -> None:
    done = run_job(tmp_path, "class Panic(BaseException): pass", "raise Panic('in\\nRust')")
    assert done.stderr.startswith("Panic: in Rust; this is a bug")
    assert len(done.stderr.splitlines()) == 1


def test_an_interrupted_job_is_one_line(tmp_path: Path) -> None:
    done = run_job(tmp_path, "import os, signal", "os.kill(os.getpid(), signal.SIGINT)")
    assert done.returncode == 1
    assert done.stderr == "Interrupted; run the same command to continue\n"


@pytest.mark.parametrize("target", ["victim", "nothing-there"])
def test_the_log_never_goes_through_a_link(target: str, tmp_path: Path) -> None:
    (tmp_path / "victim").write_text("precious")
    (tmp_path / "phase.log").symlink_to(target)
    done = run_job(tmp_path, "log.info('begun')")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "victim").read_text() == "precious"
    assert not (tmp_path / "nothing-there").exists()
    assert not (tmp_path / "phase.log").is_symlink()
    assert "begun" in (tmp_path / "phase.log").read_text()


def test_a_log_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "phase.log").mkdir()
    done = run_job(tmp_path, "pass")
    assert done.returncode == 1
    assert done.stderr.startswith("HereticError: cannot write phase.log: ")
    assert len(done.stderr.splitlines()) == 1


def test_a_log_of_others_is_made_with_the_umask(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        run_job(tmp_path, "pass")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "phase.log").stat().st_mode) == 0o640


def test_debug_keeps_the_trace_of_a_known_error() -> None:
    with pytest.raises(StudyError), one_line_errors(debug=True):
        raise StudyError("x")


def test_a_full_disk_under_the_log_says_nothing_more(tmp_path: Path) -> None:
    done = run_job(
        tmp_path,
        "from heretic.errors import StudyError",
        "log.handlers[-1].stream = open('/dev/full', 'w', buffering=1)",
        "raise StudyError('no space left on the disk')",
    )
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


LINES_BESIDE_A_BAR = """
import time
from pathlib import Path
from heretic import console
console.SECONDS_BETWEEN_LINES = 0.0
console.start_logging(Path("phase.log"))
with console.ProgressLine("Trials", 4) as progress:
    with console.ProgressLine("Answers", 4):
        pass
    for step in range(4):
        time.sleep(0.2)
        console.log.warning("warning %d", step)
        progress.advance(note=f"[red]Trial {step}\x1b]52;c;aGk=\x07")
console.log.error("StudyError: %s", "a line to copy that is longer than the terminal is wide, " * 3)
"""


def test_log_lines_stand_above_the_bar_and_progress_in_the_log_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    seen = on_terminal([sys.executable, "-c", LINES_BESIDE_A_BAR], columns=120)
    assert seen.status == 0
    for step in range(4):
        assert re.search(rf"WARNING +warning {step}", seen.plain)
    # No line of the log begins behind a bar: the bar's row is cleared before each.
    assert not re.search(r"Trial \d\S*\[\d\d:\d\d:\d\d\]", seen.text)
    assert " left. " not in seen.text
    assert "\x1b]52" not in seen.text
    assert "[red]Trial 3\\x1b]52" in seen.text
    lines = (tmp_path / "phase.log").read_text().splitlines()
    assert [line.split("INFO ")[1][:11] for line in lines if " left. " in line] == [
        f"Trials: {step}/4" for step in range(1, 5)
    ]
    # The terminal wraps an error, not we, so that it is copied as one line.
    assert seen.last_line.startswith("StudyError: a line to copy")
    assert len(seen.last_line) > 160


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
    text = on_terminal([sys.executable, "-c", BAR], columns=160).text
    assert re.search(r"\d+ a second|\d\.\d\d s each", text)
    assert re.search(r"\d+/40.*0:00:\d\d.*0:00:\d\d.*Trial \d+: KL 0\.1", text)
