"""Terminal output of Snakemake when a run fails or is interrupted: one last line.

The full output is in the log under .snakemake/log; `--verbose` or `heretic --debug` shows it.
"""

import logging
import os
import re
import signal
import sys
import threading
import time
import warnings
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any, NamedTuple, Protocol

from heretic.errors import DEBUG, INTERRUPTED, OUT_OF_MEMORY, printable

SNAKEMAKE = "snakemake.logging"
JOB_INFO, JOB_FINISHED, JOB_ERROR = "job_info", "job_finished", "job_error"
GROUP_ERROR, ERROR = "group_error", "error"
SHOW_CURSOR = "\x1b[?25h"  # hidden by progress bars, and not restored by a killed job
# The interrupt key reaches every process of the terminal. Jobs leave it to the main process, which
# stops them without a traceback, even while they are still importing modules.
STRICT = "set -euo pipefail; "  # Snakemake's own prefix
WITHOUT_INTERRUPTS = f"{STRICT}trap '' INT; "
ERROR_LINE = re.compile(r"^\S+ \S+ (?:ERROR|CRITICAL) (.*)$", re.MULTILINE)
END_OF_COMMAND = re.compile(r"died with <Signals\.(\w+)|exit status (\d+)|status is: '(\w+)'")
END_OF_LOG = 65536
KILLED = ("SIGKILL", "137", "OUT_OF_MEMORY")
SEARCH = "optimize"
STOPPING = "Terminating processes"  # logged by Snakemake's scheduler on an interrupt
SECONDS_TO_STOP = 1.0
POLLING_SECONDS = 0.02
VMSTAT = Path("/proc/vmstat")


# Describes the kept trials of a run's search, given its start in seconds since 1970.
Kept = Callable[[str, float], str]


class Workflow(Protocol):
    """Required interface of Snakemake's workflow object."""

    output_settings: Any
    local_exec: bool


class _Running(NamedTuple):
    rule: str
    wildcards: Mapping[str, str]
    since: float


@dataclass(frozen=True)
class Failure:
    """Failed job.

    Attributes:
        line: error message in one line.
        shown: whether the job has written the line to the terminal.
    """

    line: str
    shown: bool


class LastLine(logging.Filter):
    """Suppress Snakemake's messages about failed jobs, and end with a line that states the cause.

    Args:
        handler: handler that writes Snakemake's messages to the terminal.
        is_local: returns whether jobs write to the same terminal.
        kept: describes the trials kept by an interrupted search.
    """

    def __init__(
        self,
        handler: "logging.StreamHandler[Any]",
        is_local: Callable[[], bool],
        kept: Kept,
    ) -> None:
        super().__init__()
        self.interrupted = self.stopping = False
        self._handler, self._is_local, self._kept = handler, is_local, kept
        self._running: dict[int, _Running] = {}
        self._reasons: dict[int | None, str] = {}
        self._failures: list[Failure] = []
        self._others_spoke = self.ended = False
        self._lock = threading.RLock()
        self._killed_before = _processes_killed_for_memory()

    def filter(self, record: logging.LogRecord) -> bool:
        """Return whether a record may be shown."""
        event = getattr(getattr(record, "event", None), "value", None)
        with self._lock:
            if event == JOB_INFO:
                self._running[record.__dict__["jobid"]] = _Running(
                    record.__dict__["rule_name"], record.__dict__["wildcards"], record.created
                )
            if event == ERROR:
                return self._may_show_error(record)
            self.stopping |= self.interrupted and record.getMessage().startswith(STOPPING)
            if self.interrupted or event == GROUP_ERROR:  # the errors of its jobs follow
                return False
            if event == JOB_FINISHED:
                self._running.pop(record.__dict__["job_id"], None)
            if event == JOB_ERROR:
                self._take(record.__dict__)
                return False
            if self._failures:
                self._others_spoke |= event is not None
                return event is not None
            return True

    def interrupt(self) -> None:
        """Suppress everything but the last line from now on."""
        self.interrupted = True
        # Snakemake removes its handlers while jobs still end; Python would print their errors.
        logging.lastResort = logging.NullHandler()

    def end(self) -> None:
        """Write the last line, once."""
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        with self._lock:
            if self.ended:
                return
            self.ended = True
            if self.interrupted:
                _wait_for_jobs_to_stop()
                self._say(self._interruption(), after_bar=True)
            elif self._others_spoke or len(self._failures) > 1:
                for line in dict.fromkeys(failure.line for failure in self._failures):
                    self._say(line)

    def _may_show_error(self, record: logging.LogRecord) -> bool:
        kind = record.__dict__.get("exception")
        if kind == "RuleException":  # a job's error follows in the same thread
            self._reasons[record.thread] = record.getMessage()
            return False
        if kind == "WorkflowError" and (self.interrupted or self._failures):
            self.end()
            return False
        return not self.interrupted

    def _take(self, error: Mapping[str, Any]) -> None:
        """Record why a job failed, and report it unless the job has done so."""
        self._running.pop(error["jobid"], None)
        reason = self._reasons.pop(error["thread"], None) or str(error.get("rule_msg") or "")
        how = next((text for text in END_OF_COMMAND.findall(reason)), ("", "", ""))
        failure = self._failure(error["rule_name"], "".join(how), list(error["log"]))
        self._failures.append(failure)
        if not failure.shown:
            self._say(failure.line, after_bar="".join(how) in KILLED)

    def _failure(self, rule: str, ended: str, logs: list[str]) -> Failure:
        local, log = self._is_local(), logs[0] if logs else "the log of Snakemake"
        said = next((line for path in logs if (line := _last_error(path))), None)
        if said is not None:
            return Failure(said, shown=local)
        if ended in KILLED:
            because = "because memory ran out"
            if ended != "OUT_OF_MEMORY" and _processes_killed_for_memory() == self._killed_before:
                because = "or by a user, most likely because memory ran out"
            return Failure(f"{rule} was killed by the system {because}; {OUT_OF_MEMORY}", False)
        # A phase that is blocked by a concurrent one reports this before it has a log.
        return Failure(
            f"{rule} failed{f' ({ended})' if ended not in ('', '1') else ''}; see {log}",
            shown=local and ended == "1",
        )

    def _interruption(self) -> str:
        searches = [job for job in self._running.values() if job.rule == SEARCH]
        kept = [text for job in searches if (text := self._kept(job.wildcards["run"], job.since))]
        if not kept:
            return INTERRUPTED
        return f"Interrupted: {' and '.join(kept)} kept; run the same command to continue"

    def _say(self, line: str, *, after_bar: bool = False) -> None:
        stream = self._handler.stream
        on_terminal = stream.isatty()
        before = f"{SHOW_CURSOR}\n" if on_terminal and after_bar else ""
        with suppress(OSError):  # the terminal may be closed
            stream.write(f"{before}{printable(line)}\n")
            stream.flush()


class _Printable(logging.Formatter):
    """Show control characters in file names and commands instead of interpreting them."""

    def __init__(self, inner: logging.Formatter) -> None:
        super().__init__()
        self._inner = inner

    def format(self, record: logging.LogRecord) -> str:
        """Format a record as Snakemake does."""
        text: str | None = self._inner.format(record)
        return printable(text) if text else ""


def keep_calm(workflow: Workflow, kept: Kept) -> str:
    """Let the main process end with one line when a job fails or the user interrupts it.

    Args:
        workflow: Snakemake's workflow object.
        kept: describes the trials kept by an interrupted search, such as "5 of 60 trials are",
            given its run and the time when its job began; empty if unknown.

    Returns:
        Prefix of the command of each job.
    """
    everywhere = logging.getLogger(SNAKEMAKE).handlers
    for handler in everywhere:
        handler.setFormatter(_Printable(handler.formatter or logging.Formatter()))
    handlers = [
        handler
        for handler in everywhere
        if isinstance(handler, logging.StreamHandler)
        and not isinstance(handler, logging.FileHandler)
    ]
    if workflow.output_settings.verbose or DEBUG in os.environ or not handlers:
        return STRICT
    last = LastLine(handlers[0], lambda: workflow.local_exec, kept)
    handlers[0].filters.insert(0, last)
    _stop_jobs_when_interrupted(last)
    return WITHOUT_INTERRUPTS


def _stop_jobs_when_interrupted(last: LastLine) -> None:
    def stop(number: int, frame: FrameType | None) -> None:
        last.interrupt()
        warnings.simplefilter("ignore")  # of Snakemake's coroutines that are no longer awaited
        _terminate_jobs()
        swallowed = _is_logging(frame)
        threading.Timer(POLLING_SECONDS if swallowed else SECONDS_TO_STOP, insist).start()
        raise KeyboardInterrupt

    def insist() -> None:
        """Interrupt again if the exception was swallowed, such as while writing a log line."""
        if not last.stopping and not last.ended:
            os.kill(os.getpid(), signal.SIGINT)

    def say_no_more(
        kind: type[BaseException], error: BaseException, trace: TracebackType | None
    ) -> None:
        if issubclass(kind, KeyboardInterrupt):
            last.end()
        else:
            sys.__excepthook__(kind, error, trace)

    def say_nothing_of_ignored(ignored: "sys.UnraisableHookArgs") -> None:
        if not last.interrupted:  # otherwise C code has swallowed the interrupt, which is repeated
            sys.__unraisablehook__(ignored)

    # A run in the background, for which the shell ignores interrupts, keeps ignoring them.
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, stop)
    sys.excepthook, sys.unraisablehook = say_no_more, say_nothing_of_ignored


def _is_logging(frame: FrameType | None) -> bool:
    """Return whether a log line is being written, during which Snakemake drops interrupts."""
    while frame is not None and frame.f_code.co_name != "emit":
        frame = frame.f_back
    return frame is not None


def _terminate_jobs() -> bool:
    """Terminate every process below this one; return whether any was still alive."""
    import psutil  # here: the handler must be set before slow imports

    alive = False
    for process in psutil.Process().children(recursive=True):
        with suppress(psutil.Error):
            # Snakemake's own threads collect the status of a process that has ended.
            if process.status() != psutil.STATUS_ZOMBIE:
                process.terminate()
                alive = True
    return alive


def _wait_for_jobs_to_stop() -> None:
    """Terminate jobs that started after the interrupt as well, so that none writes any more."""
    end = time.monotonic() + SECONDS_TO_STOP
    while _terminate_jobs() and time.monotonic() < end:
        time.sleep(POLLING_SECONDS)


def _last_error(log: str) -> str | None:
    """Return the last error in a job's log, without its date."""
    with suppress(OSError), Path(log).open("rb") as stream:
        stream.seek(max(0, os.fstat(stream.fileno()).st_size - END_OF_LOG))
        found = ERROR_LINE.findall(stream.read(END_OF_LOG).decode(errors="replace"))
        return found[-1] if found else None
    return None


def _processes_killed_for_memory() -> int | None:
    """Return the number of processes that this machine has killed because memory ran out."""
    with suppress(OSError, ValueError):
        counts = dict(line.split() for line in VMSTAT.read_text().splitlines())
        return int(counts.get("oom_kill", 0))
    return None
