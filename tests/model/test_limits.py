"""What a stranger's file makes this process do is bounded in time and memory."""

import os
import resource
import signal
import threading
import time

import pytest

from heretic.errors import ModelLoadError
from heretic.model.limits import (
    LimitError,
    limited_memory,
    limited_time,
    require_within_limits,
    run_in_fork,
)

MEGABYTE = 1024**2


def busy() -> None:
    while True:
        pass


def test_a_loop_is_interrupted() -> None:
    before = signal.getsignal(signal.SIGVTALRM)
    with pytest.raises(LimitError), limited_time(0.05):
        busy()
    assert signal.getsignal(signal.SIGVTALRM) == before
    assert signal.getitimer(signal.ITIMER_VIRTUAL)[0] == 0


def test_the_outer_limit_counts() -> None:
    with pytest.raises(LimitError), limited_time(0.05), limited_time(1000):
        busy()


def test_waiting_takes_no_processor_time() -> None:
    with limited_time(0.05):
        time.sleep(0.2)


def test_another_thread_goes_on_without_a_limit() -> None:
    done = []

    def work() -> None:
        with limited_time(1e-6), limited_memory(1):
            done.append(sum(range(100_000)))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert done


def test_memory_is_limited_and_then_not_any_more() -> None:
    before = resource.getrlimit(resource.RLIMIT_AS)
    with pytest.raises(MemoryError), limited_memory(50 * MEGABYTE):
        bytearray(100 * MEGABYTE)
    assert resource.getrlimit(resource.RLIMIT_AS) == before
    assert len(bytearray(100 * MEGABYTE)) == 100 * MEGABYTE


class PanicException(BaseException):  # as pyo3 names it
    pass


def panic() -> None:
    raise PanicException("index out\nof range")


def ordinary() -> None:
    raise ValueError("this the caller will meet itself")


def allocate() -> None:
    bytearray(100 * MEGABYTE)


def die() -> None:
    os.kill(os.getpid(), signal.SIGTERM)


def test_a_fork_tells_why_a_call_must_not_be_made(
    capfd: pytest.CaptureFixture[str],
) -> None:
    assert run_in_fork(lambda: os.write(1, b"said"), 10, 200 * MEGABYTE) is None
    assert run_in_fork(ordinary, 10, 200 * MEGABYTE) is None
    assert run_in_fork(panic, 10, 200 * MEGABYTE) == "index out of range"
    assert run_in_fork(busy, 1, 200 * MEGABYTE) == "it takes more than 1 s"
    assert run_in_fork(allocate, 10, 50 * MEGABYTE) == "it takes more than 0.1 GB"
    assert run_in_fork(die, 10, 200 * MEGABYTE) == f"it ends with signal {signal.SIGTERM:d}"
    assert capfd.readouterr() == ("", "")


def test_a_call_that_fails_in_a_fork_is_one_line() -> None:
    with pytest.raises(ModelLoadError, match="it does not: index out of range; do this"):
        require_within_limits(panic, ModelLoadError, "it does not", 10, "do this")
