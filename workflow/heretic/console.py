"""Log lines and progress bars: a bar on a terminal, a line every few seconds in a log."""

import errno
import io
import logging
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.logging import RichHandler
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from heretic.credentials import record_without_passwords
from heretic.errors import HereticError
from heretic.locks import sole_process

DEBUG = "WORKFLOW_DEBUG"
SECONDS_BETWEEN_LINES = 10.0

log = logging.getLogger("heretic")


def start_logging(log_file: Path | None = None, *, debug: bool = False) -> None:
    """Send the library's log lines to the terminal and, when given, to `log_file`.

    From here on, lines of all libraries are without passwords. Characters that the terminal's
    encoding lacks are replaced, as Python does on stderr alone.
    """
    logging.setLogRecordFactory(record_without_passwords)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")
    log.setLevel(logging.DEBUG if debug else logging.INFO)
    log.propagate = False
    for handler in [*log.handlers]:
        log.removeHandler(handler)
        handler.close()
    console = Console(stderr=True)
    if console.is_terminal:
        log.addHandler(RichHandler(console=console, show_path=False, markup=False))
    else:
        plain = logging.StreamHandler(sys.stderr)
        plain.setFormatter(logging.Formatter("%(message)s"))
        log.addHandler(plain)
    if log_file is not None:
        log_file.parent.mkdir(parents=True, exist_ok=True)
        to_file = _LogFile(log_file, mode="w", encoding="utf-8")
        to_file.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
        log.addHandler(to_file)


class _LogFile(logging.FileHandler):
    """A log file that falls silent when its disk is full; the terminal says what is wrong."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802  # logging's name
        """Report anything but a lack of space."""
        if getattr(sys.exc_info()[1], "errno", None) not in (errno.ENOSPC, errno.EDQUOT):
            super().handleError(record)


@contextmanager
def one_line_errors(*, debug: bool = False) -> Iterator[None]:
    """Report a `HereticError` as one line and exit with status 1; other errors keep their trace.

    With `debug`, or the variable WORKFLOW_DEBUG by which `heretic --debug` tells jobs, all do.
    """
    try:
        yield
    except HereticError as error:
        if debug or DEBUG in os.environ:
            raise
        log.error("%s: %s", type(error).__name__, " ".join(str(error).splitlines()))
        raise SystemExit(1) from None


@contextmanager
def job(log_file: str, *, wait: bool = False) -> Iterator[None]:
    """One phase of a workflow: its lines go to `log_file` too, its errors end it with status 1.

    A phase that a killed run left behind may still be at work: a second one is refused, or waits
    for the first with `wait`.
    """
    path = Path(log_file)
    start_logging()
    with (
        one_line_errors(),
        sole_process(lock_of(log_file), f"at this phase (its log is {path})", wait=wait),
    ):
        start_logging(path)
        yield


def lock_of(log_file: str) -> Path:
    """Return the lock that a phase holds while it works, by the path of its log."""
    path = Path(log_file)
    return path.with_name(f".{path.stem}.lock")


def duration(seconds: float) -> str:
    """`75` as `1:15`, `4000` as `1:06:40`."""
    minutes, second = divmod(int(max(seconds, 0.0) + 0.5), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02d}:{second:02d}" if hours else f"{minute}:{second:02d}"


def pace(seconds: float) -> str:
    """Seconds per step as `2.50 s each`, or steps per second when they are fast."""
    return f"{seconds:.2f} s each" if seconds >= 0.1 else f"{1 / max(seconds, 1e-9):.0f} a second"


class ProgressLine:
    """Counts steps of a long task; draws a bar on a terminal and writes lines to the log.

    A task without a name, a part of a larger one, is counted in silence.
    """

    def __init__(self, task: str, total: int, *, done: int = 0) -> None:
        self.task, self.total, self.done = task, total, done
        self._at_start = done
        self._started = self._last_line = time.monotonic()
        console = Console(stderr=True)
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[pace]}"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}"),
        )
        self._bar = Progress(*columns, console=console, disable=not (task and console.is_terminal))
        self._row = self._bar.add_task(task, total=total, completed=done, note="", pace="")

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._bar.stop()

    def advance(self, steps: int = 1, note: str = "") -> None:
        """Count `steps` more; `note` says what was found."""
        self.done += steps
        now = time.monotonic()
        each = (now - self._started) / max(self.done - self._at_start, 1)
        self._bar.update(self._row, advance=steps, note=note, pace=pace(each))
        early = now - self._last_line < SECONDS_BETWEEN_LINES and self.done < self.total
        if early or not self.task:
            return
        self._last_line = now
        left = duration(each * (self.total - self.done))
        log.info(
            "%s: %d/%d, %s, %s left. %s", self.task, self.done, self.total, pace(each), left, note
        )
