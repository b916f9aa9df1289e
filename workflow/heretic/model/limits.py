"""Limits on time and memory for processing untrusted files."""

import os
import resource
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from heretic.errors import HereticError, one_line
from heretic.model.third_party import is_panic

POLLING_SECONDS = 0.005
FAILED, MEMORY = 3, 4
# Additional address space of a call in a fork; the largest tokenizers take a fifth of it.
FORK_BYTES = 1280 * 1024**2


class LimitError(Exception):
    """A block exceeded its limit of processor time."""


@contextmanager
def limited_time(seconds: float) -> Iterator[None]:
    """Interrupt Python code that exceeds a limit of processor time.

    Inside another such block, the outer limit applies. Since only the main thread receives signals,
    nothing is interrupted in other threads or on systems without such a timer.

    Raises:
        LimitError: the time limit is exceeded.
    """
    main = threading.current_thread() is threading.main_thread()
    if not main or sys.platform == "win32" or signal.getitimer(signal.ITIMER_VIRTUAL)[0] > 0:
        yield
        return

    def stop(number: int, frame: FrameType | None) -> None:
        raise LimitError(f"it takes more than {seconds:.0f} s")

    before = signal.signal(signal.SIGVTALRM, stop)
    signal.setitimer(signal.ITIMER_VIRTUAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, before)


@contextmanager
def limited_memory(further_bytes: int) -> Iterator[None]:
    """Raise `MemoryError` in Python code that allocates more than the given additional bytes.

    The limit is changed only in the main thread, and only if the system reports current usage.
    """
    used = address_space()
    if used is None or threading.current_thread() is not threading.main_thread():
        yield
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    wanted = used + further_bytes
    if soft != resource.RLIM_INFINITY:
        wanted = min(wanted, soft)
    resource.setrlimit(resource.RLIMIT_AS, (wanted, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def address_space() -> int | None:
    """Return the size of this process's address space in bytes, or None if it is not reported."""
    try:
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
    except (OSError, ValueError):
        return None
    return pages * resource.getpagesize()


def run_in_fork(call: Callable[[], object], seconds: int, further_bytes: int) -> str | None:
    """Run a call in a fork of this process first, because compiled code cannot be interrupted.

    Args:
        call: call to try; its result is discarded, and it must not use an accelerator.
        seconds: limit of processor time.
        further_bytes: limit of additional memory.

    Returns:
        The reason why the call must not be made in this process: it takes too long or too much
        memory, or it panics. None if it returns or raises an exception, which it will raise here as
        well; and None on systems other than Linux, where a process cannot be forked safely.
    """
    if sys.platform != "linux":
        return None
    reading, writing = os.pipe()
    try:
        process = os.fork()
    except OSError:  # not enough memory or processes
        os.close(reading)
        os.close(writing)
        return None
    if process == 0:
        os.close(reading)
        _run_in_child(call, writing, seconds, further_bytes)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        status = _wait(process, 4 * seconds + 30)
        reason = pipe.read().decode(errors="replace")
    if status == FAILED:
        return reason
    if status in (-signal.SIGXCPU, -signal.SIGKILL):
        return f"it takes more than {seconds} s"
    if status in (MEMORY, -signal.SIGABRT):  # exit statuses of failed allocations in compiled code
        return f"it takes more than {further_bytes / 1e9:.1f} GB"
    return f"it ends with signal {-status}" if status else None


def _run_in_child(
    call: Callable[[], object], writing: int, seconds: int, further_bytes: int
) -> None:
    """Run the call in the child, never returning to the parent's code (shared files, locks)."""
    status = 0
    try:
        with Path(os.devnull).open("wb") as nothing:  # a panic writes directly to the terminal
            os.dup2(nothing.fileno(), 1)
            os.dup2(nothing.fileno(), 2)
        os.environ["TOKENIZERS_PARALLELISM"] = "false"  # threads do not survive a fork
        spent = resource.getrusage(resource.RUSAGE_SELF)
        limit = int(spent.ru_utime + spent.ru_stime) + seconds
        resource.setrlimit(resource.RLIMIT_CPU, (limit, limit + 1))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        with limited_memory(further_bytes):
            call()
    except BaseException as error:
        if is_panic(error):
            os.write(writing, one_line(error).encode(errors="replace"))
            status = FAILED
        elif isinstance(error, MemoryError):
            status = MEMORY
    finally:
        os._exit(status)


def _wait(process: int, wall_seconds: float) -> int:
    """Return a child's exit status, negative if ended by a signal; kill it after a time limit."""
    end = time.monotonic() + wall_seconds
    try:
        while time.monotonic() < end:
            ended, status = os.waitpid(process, os.WNOHANG)
            if ended:
                process = 0
                return os.waitstatus_to_exitcode(status)
            time.sleep(POLLING_SECONDS)
        return -signal.SIGKILL
    finally:
        if process:
            os.kill(process, signal.SIGKILL)
            os.waitpid(process, 0)


def require_within_limits(
    call: Callable[[], object], kind: type[HereticError], what: str, seconds: int, advice: str
) -> None:
    """Reject a call that exceeds a limit of processor time or memory, or that panics.

    Raises:
        HereticError: an error of class `kind`.
    """
    reason = run_in_fork(call, seconds, FORK_BYTES)
    if reason is not None:
        raise kind(f"{what}: {reason}; {advice}")
