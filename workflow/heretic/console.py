"""Log lines and progress bars: a bar on a terminal, a line every few seconds in a log file."""

import errno
import io
import logging
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from io import TextIOWrapper
from pathlib import Path
from types import TracebackType
from typing import Any, Self

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

from heretic.errors import DEBUG, INTERRUPTED, OUT_OF_MEMORY, HereticError, one_line, printable
from heretic.file_systems import why_not
from heretic.locks import exclusive_lock

SECONDS_BETWEEN_LINES = 10.0
# Messages of torch exceptions that have no class of their own.
OF_MEMORY = ("can't allocate memory", "out of memory", "not enough memory")

log = logging.getLogger("heretic")


def start_logging(log_file: Path | None = None, *, debug: bool = False) -> None:
    """Send the library's log lines to the terminal and, if given, to `log_file`.

    From here on, control characters in log lines of other libraries are escaped, and passwords in
    addresses are hidden. Characters missing from the terminal's encoding are replaced, as Python
    does by default only on stderr.

    Raises:
        HereticError: the log file cannot be written.
    """
    logging.setLogRecordFactory(_printable_record)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")
    log.setLevel(logging.DEBUG if debug else logging.INFO)
    log.propagate = False
    for handler in [*log.handlers]:
        log.removeHandler(handler)
        handler.close()
    log.addHandler(_terminal_handler())
    if log_file is not None:
        try:
            log_file.parent.mkdir(parents=True, exist_ok=True)
            to_file = _LogFile(log_file, mode="w", encoding="utf-8")
        except OSError as error:
            raise HereticError(f"cannot write {log_file}: {why_not(error, log_file)}") from error
        to_file.setFormatter(_Printable("%(asctime)s %(levelname)s %(message)s"))
        log.addHandler(to_file)


def _terminal_handler() -> logging.Handler:
    console = Console(stderr=True)
    if console.is_terminal:
        return _Terminal(console)
    plain = logging.StreamHandler(sys.stderr)
    plain.setFormatter(_Printable("%(message)s"))
    return plain


class _Printable(logging.Formatter):
    """Escapes control characters in messages and tracebacks."""

    def format(self, record: logging.LogRecord) -> str:
        return printable(super().format(record))


def _printable_record(*args: Any, **kwargs: Any) -> logging.LogRecord:
    """Return a log record without control characters, regardless of its library."""
    record = logging.LogRecord(*args, **kwargs)
    try:
        message = record.getMessage()
    except Exception:  # the handler reports arguments that do not match the message
        return record
    if printable(message) != message:
        record.msg, record.args = printable(message), ()
    return record


class _Terminal(RichHandler):
    """Log lines on a terminal, above a progress bar if there is one; errors are plain, to copy."""

    def __init__(self, console: Console) -> None:
        super().__init__(
            console=console, show_path=False, markup=False, log_time_format="[%H:%M:%S]"
        )
        self.setFormatter(_Printable("%(message)s"))

    def emit(self, record: logging.LogRecord) -> None:
        """Print a record, unless a bar shows the same content."""
        if getattr(record, "drawn", False):
            return
        if record.levelno < logging.ERROR or record.exc_info:
            super().emit(record)
            return
        line = self.format(record)
        self.console.print(line, style="red", soft_wrap=True, highlight=False, markup=False)


class _LogFile(logging.FileHandler):
    """A log file that stops silently when its disk is full; the terminal reports the problem."""

    def _open(self) -> TextIOWrapper:
        """Open a new file, replacing anything of that name, so that no link is followed."""
        path = Path(self.baseFilename)
        path.unlink(missing_ok=True)
        return path.open("x", encoding=self.encoding)

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802  # logging's name
        """Report anything but a lack of space."""
        if getattr(sys.exc_info()[1], "errno", None) not in (errno.ENOSPC, errno.EDQUOT):
            super().handleError(record)


@contextmanager
def one_line_errors(*, debug: bool = False) -> Iterator[None]:
    """Report a `HereticError` as one line and exit with status 1; others keep their traceback.

    With `debug`, or the variable WORKFLOW_DEBUG, which `heretic --debug` sets for jobs, all do.
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
    """Run one phase of a workflow, logging to `log_file` too; errors end it with status 1.

    The last line on the terminal is the error, whatever its kind. The traceback of a defect is in
    `log_file`. A phase started by a killed run may still be running: a second one is rejected, or
    waits for the first with `wait`.
    """
    path = Path(log_file)
    start_logging()
    with (
        one_line_errors(),
        exclusive_lock(lock_of(log_file), f"at this phase (its log is {path})", wait=wait),
    ):
        start_logging(path)
        with _one_line_defects(path):
            yield


@contextmanager
def _one_line_defects(log_file: Path) -> Iterator[None]:
    """Report unexpected errors as one line as well, with their traceback in the log file."""
    try:
        yield
    except (HereticError, SystemExit, GeneratorExit):
        raise
    except KeyboardInterrupt:
        if DEBUG in os.environ:
            raise
        log.error(INTERRUPTED)
        raise SystemExit(1) from None
    except BaseException as error:  # panics of Rust libraries are not an `Exception`
        if DEBUG in os.environ:
            raise
        _trace_to_file(error)
        name = type(error).__name__
        if _is_of_memory(error):
            log.error("%s: memory ran out (%s); %s", name, one_line(error, 120), OUT_OF_MEMORY)
        else:
            log.error(
                "%s: %s; this is a bug in the workflow; the traceback is in %s",
                *(name, one_line(error), log_file),
            )
        raise SystemExit(1) from None


def _trace_to_file(error: BaseException) -> None:
    trace = logging.LogRecord(
        log.name, logging.CRITICAL, "", 0, "Traceback of the error below", (),
        (type(error), error, error.__traceback__),
    )  # fmt: skip
    for handler in log.handlers:
        if isinstance(handler, _LogFile):
            handler.handle(trace)


def _is_of_memory(error: BaseException) -> bool:
    text = str(error).lower()
    return isinstance(error, MemoryError) or any(words in text for words in OF_MEMORY)


def lock_of(log_file: str) -> Path:
    """Return the lock held by a running phase, from the path of its log."""
    path = Path(log_file)
    return path.with_name(f".{path.stem}.lock")


def duration(seconds: float) -> str:
    """Return a duration such as `1:15` for `75`, or `1:06:40` for `4000`."""
    minutes, second = divmod(int(max(seconds, 0.0) + 0.5), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02d}:{second:02d}" if hours else f"{minute}:{second:02d}"


def pace(seconds: float) -> str:
    """Return seconds per step as `2.50 s each`, or steps per second if they are fast."""
    return f"{seconds:.2f} s each" if seconds >= 0.1 else f"{1 / max(seconds, 1e-9):.0f} a second"


class ProgressLine:
    """Counts steps of a long task; draws a bar on a terminal and writes lines to the log.

    A task without a name, which is part of a larger one, shows nothing.
    """

    def __init__(self, task: str, total: int, *, done: int = 0) -> None:
        self.task, self.total, self.done = task, total, done
        self._at_start = done
        self._started = self._last_line = time.monotonic()
        console = _console()
        self._drawn = bool(task and console.is_terminal)
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[pace]}"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}", markup=False),
        )
        self._bar = Progress(*columns, console=console, disable=not self._drawn)
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
        """Count `steps` more; `note` describes the latest result."""
        self.done += steps
        now = time.monotonic()
        each = (now - self._started) / max(self.done - self._at_start, 1)
        self._bar.update(self._row, advance=steps, note=printable(note), pace=pace(each))
        early = now - self._last_line < SECONDS_BETWEEN_LINES and self.done < self.total
        if early or not self.task:
            return
        self._last_line = now
        left = duration(each * (self.total - self.done))
        counts = (self.task, self.done, self.total, pace(each), left, note)
        log.info("%s: %d/%d, %s, %s left. %s", *counts, extra={"drawn": self._drawn})


def _console() -> Console:
    """Return the shared console of the log lines, since two on one terminal would interfere."""
    shared = (handler.console for handler in log.handlers if isinstance(handler, _Terminal))
    return next(shared, None) or Console(stderr=True)
