"""One process at a time, and whoever comes second is told who is first."""

import errno
import fcntl
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from users import ANOTHER, as_another_user, shared_folder

from heretic import locks
from heretic.errors import HereticError, StudyError
from heretic.locks import exclusive_lock, is_held

HOLD = """
import sys, time
from pathlib import Path
from heretic.locks import exclusive_lock
with exclusive_lock(Path(sys.argv[1]), "reading", wait=len(sys.argv) > 2):
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
        message = rf"another process \(pid {first.pid} on .*\) is still searching.*then rerun"
        with (
            pytest.raises(StudyError, match=message),
            exclusive_lock(lock, "searching", StudyError),
        ):
            pytest.fail("two at once")
        first.send_signal(signal.SIGKILL)
        first.wait()
    # A killed holder holds nothing.
    with exclusive_lock(lock, "searching"):
        assert (tmp_path / "folder" / "a.holder").read_text().startswith(f"pid {os.getpid()} on ")


def test_a_lock_of_somebody_else_that_cannot_be_opened_counts_as_held(tmp_path: Path) -> None:
    (tmp_path / "a.lock").mkdir()
    assert not is_held(tmp_path / "a.lock")
    (tmp_path / "a.holder").touch()
    assert is_held(tmp_path / "a.lock")


def test_a_process_may_wait_for_its_turn(tmp_path: Path) -> None:
    lock = tmp_path / "a.lock"
    with holder(lock, "wait") as waiting:
        assert waiting.stdout is not None
        with exclusive_lock(lock, "reading"):
            pass
        assert waiting.stdout.readline() == "held\n"
        assert waiting.wait(timeout=60) == 0


def test_the_lock_is_given_back_after_an_error(tmp_path: Path) -> None:
    lock = tmp_path / "a.lock"
    with pytest.raises(ZeroDivisionError), exclusive_lock(lock, "reading"):
        raise ZeroDivisionError
    with exclusive_lock(lock, "reading", HereticError):
        pass
    assert not (tmp_path / "a.holder").exists()


@pytest.mark.parametrize("name", ["a.holder", "a.holder.new"])
def test_the_note_never_goes_through_a_link(name: str, tmp_path: Path) -> None:
    victim = tmp_path / "bashrc"
    victim.write_text("precious")
    (tmp_path / name).symlink_to(victim)
    with exclusive_lock(tmp_path / "a.lock", "reading"):
        assert (tmp_path / "a.holder").read_text().startswith("pid ")
    assert victim.read_text() == "precious"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.lock", "bashrc"]


def test_a_link_in_place_of_the_lock_is_refused(tmp_path: Path) -> None:
    victim = tmp_path / "bashrc"
    victim.write_text("precious")
    (tmp_path / "a.lock").symlink_to(victim)
    message = r"cannot lock .*a\.lock: it is a symbolic link, which is not followed; remove it"
    with (
        pytest.raises(StudyError, match=message),
        exclusive_lock(tmp_path / "a.lock", "", StudyError),
    ):
        pytest.fail("locked a link")
    assert victim.read_text() == "precious"


@pytest.mark.parametrize("kind", ["link", "pipe", "escape"])
def test_a_note_of_others_is_read_with_care(kind: str, tmp_path: Path) -> None:
    lock, note = tmp_path / "a.lock", tmp_path / "a.holder"
    with holder(lock) as first:
        assert first.stdout is not None
        first.stdout.readline()
        note.unlink()
        if kind == "link":
            note.symlink_to("/dev/zero")
        elif kind == "pipe":
            os.mkfifo(note)
        else:
            note.write_text("pid 1\x1b]52;c;aGk=\x07\nagain")
        with pytest.raises(HereticError) as told, exclusive_lock(lock, "reading"):
            pytest.fail("two at once")
    known = r"pid 1\x1b]52;c;aGk=\x07 again" if kind == "escape" else "unknown"
    assert str(told.value).startswith(f"another process ({known}) is still reading")


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP])
def test_a_file_system_without_locks_is_named(
    number: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    recwarn: pytest.WarningsRecorder,
) -> None:
    def flock(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", flock)
    with (
        pytest.raises(HereticError, match=r"has no file locks \(.*\).*local disk") as told,
        exclusive_lock(tmp_path / "a.lock", "reading"),
    ):
        pytest.fail("held what cannot be held")
    assert "\n" not in str(told.value)
    assert not [each for each in recwarn if "lock" in str(each.message)]


@ANOTHER
def test_the_lock_of_another_user_is_one_line() -> None:
    def take(lock: Path) -> str:
        with pytest.raises(HereticError) as told, exclusive_lock(lock, "reading"):
            pytest.fail("held the lock of another user")
        return str(told.value)

    with shared_folder() as folder:
        (folder / "a.lock").touch(mode=0o644)
        told = as_another_user(lambda: take(folder / "a.lock"))
        assert told == (
            f"cannot lock {folder}/a.lock: permission denied (owner: root); ask for access to it, "
            "or run in your own folder"
        )


def test_the_note_names_the_slurm_job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "4711")
    with exclusive_lock(tmp_path / "a.lock", "reading"):
        assert (tmp_path / "a.holder").read_text().endswith(", Slurm job 4711\n")
    monkeypatch.delenv("SLURM_JOB_ID")
    monkeypatch.setattr(locks, "CONTROL_GROUPS", tmp_path / "cgroup")
    (tmp_path / "cgroup").write_text(
        "0::/system.slice/slurmstepd.scope/job_815/step_0/user/task_0\n"
    )
    with exclusive_lock(tmp_path / "a.lock", "reading"):
        assert (tmp_path / "a.holder").read_text().endswith(", Slurm job 815\n")
