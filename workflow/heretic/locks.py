"""One process at a time: a lock that the system releases even when its holder is killed."""

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from heretic.errors import HereticError

log = logging.getLogger("heretic")


@contextmanager
def sole_process(
    lock: Path, doing: str, error: type[HereticError] = HereticError, *, wait: bool = False
) -> Iterator[None]:
    """Hold `lock` while the block runs.

    Args:
        lock: lock file; beside it lies, while it is held, a note of who holds it.
        doing: what the block does, for the message to a second process.
        error: what a second process is told with.
        wait: let a second process wait for its turn instead.

    Raises:
        HereticError: another process holds the lock.
    """
    lock.parent.mkdir(parents=True, exist_ok=True)
    holder = lock.with_suffix(".holder")
    held = FileLock(lock)
    try:
        held.acquire(timeout=0)
    except Timeout:
        known = (holder.read_text().strip() if holder.is_file() else "") or "unknown"
        if wait:
            log.info("Waiting for another process (%s), which is %s", known, doing)
            held.acquire()
        else:
            raise error(
                f"another process ({known}) is still {doing}, perhaps left over from a run that "
                "was killed; wait until it ends or stop it, then run again"
            ) from None
    try:
        with suppress(OSError):  # a full disk must not keep the lock's owner from saying so
            holder.write_text(f"pid {os.getpid()} on {os.uname().nodename}\n")
        yield
    finally:
        holder.unlink(missing_ok=True)
        held.release()


def is_held(lock: Path) -> bool:
    """Whether another process holds a lock, without creating the lock file."""
    if not lock.with_suffix(".holder").is_file():
        return False
    probe = FileLock(lock)
    try:
        probe.acquire(timeout=0)
    except Timeout:
        return True
    probe.release()
    return False
