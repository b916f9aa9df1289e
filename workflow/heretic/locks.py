"""Mutual exclusion of processes: a lock that the system releases even if its holder is killed."""

import logging
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from heretic.errors import HereticError, one_line
from heretic.file_systems import WITHOUT_LOCKS, why_not

CONTROL_GROUPS = Path("/proc/self/cgroup")
LONGEST_NOTE = 200

log = logging.getLogger("heretic")


@contextmanager
def exclusive_lock(
    lock: Path, doing: str, error: type[HereticError] = HereticError, *, wait: bool = False
) -> Iterator[None]:
    """Hold `lock` while the block runs.

    Neither the lock file nor the note is ever written through a symbolic link.

    Args:
        lock: lock file; while it is held, a note in the same folder identifies the holder.
        doing: description of the block, for the message to a second process.
        error: error class raised in a second process.
        wait: make a second process wait for its turn instead.

    Raises:
        HereticError: another process holds the lock, or it cannot be acquired: the file is not
            writable, a link, or on a file system without locks.
    """
    holder = lock.with_suffix(".holder")
    held = FileLock(lock, fallback_to_soft=False)
    _acquire(held, lock, error, holder, doing, wait)
    try:
        with suppress(OSError):  # a full disk must not prevent work under the lock
            _write_note(holder)
        yield
    finally:
        with suppress(OSError):  # a leftover note is harmless: only the lock counts
            holder.unlink(missing_ok=True)
        held.release()


def is_held(lock: Path) -> bool:
    """Return whether another process holds a lock, without creating the lock file.

    Another user's lock file that this process cannot open counts as held.
    """
    if not lock.with_suffix(".holder").is_file():
        return False
    probe = FileLock(lock, fallback_to_soft=False)
    try:
        probe.acquire(timeout=0)
    except (Timeout, OSError):
        return True
    probe.release()
    return False


def _acquire(
    held: FileLock, lock: Path, kind: type[HereticError], holder: Path, doing: str, wait: bool
) -> None:
    try:
        lock.parent.mkdir(parents=True, exist_ok=True)
        try:
            held.acquire(timeout=0)
        except Timeout:
            known = _read_note(holder) or "unknown"
            if not wait:
                raise kind(
                    f"another process ({known}) is still {doing}, possibly left over from a killed "
                    "run; wait for it or stop it, then rerun"
                ) from None
            log.info("Waiting for another process (%s): %s", known, doing)
            held.acquire()
    except OSError as error:
        if error.errno in WITHOUT_LOCKS:
            raise kind(
                f"the file system of {lock.parent} has no file locks ({error.strerror}), which "
                "prevent two runs from interfering; use a local disk, or request the mount option "
                "that enables locks (flock on Lustre, a lock service on NFS)"
            ) from error
        raise kind(f"cannot lock {lock}: {why_not(error, lock)}") from error


def _write_note(holder: Path) -> None:
    """Write the lock holder to a new file, replacing anything of that name."""
    beside = holder.with_name(f"{holder.name}.new")
    beside.unlink(missing_ok=True)
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL
    with os.fdopen(os.open(beside, flags, 0o666), "w", encoding="utf-8") as stream:
        stream.write(f"pid {os.getpid()} on {os.uname().nodename}{_batch_job()}\n")
    beside.replace(holder)


def _read_note(holder: Path) -> str:
    """Return the beginning of the note; empty for a link, a pipe or another user's file."""
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK
    try:
        with os.fdopen(os.open(holder, flags), "rb") as stream:
            text = stream.read(LONGEST_NOTE).decode(errors="replace")
    except OSError:
        return ""
    return one_line(text) if text.strip() else ""


def _batch_job() -> str:
    """Return the Slurm job of this process, more useful on a login node than a process id."""
    number = os.environ.get("SLURM_JOB_ID", "")
    if not number:
        with suppress(OSError):  # job steps lose the variable but not the control group
            found = re.search(r"/job_(\d+)(/|$)", CONTROL_GROUPS.read_text())
            number = found.group(1) if found else ""
    return f", Slurm job {number}" if number else ""
