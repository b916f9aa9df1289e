"""Which file systems are a network's, and why a file cannot be read or written."""

import errno
import logging
import os
import re
from pathlib import Path

import pytest

from heretic.file_systems import network_file_system, why_not
from heretic.preflight import warn_of_network

MOUNTS = """\
22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw
40 22 0:45 / /home rw shared:5 - nfs4 server:/home rw,vers=4.2
41 22 0:46 / /scratch rw shared:6 - lustre mds@tcp:/scratch rw,flock
42 40 8:2 / /home/me/local\\040disk rw - xfs /dev/sdb rw
43 22 0:47 / /mnt/windows rw - cifs //server/share rw
44 22 0:48 / /mnt/ssh rw - fuse.sshfs me@host: rw
45 22 0:49 / /mnt/pool rw - fuse.mergerfs a:b rw
46 22 0:50 / /mnt/usb rw - fuseblk /dev/sdc rw
47 22 0:51 / /mnt/old rw - nfs server:/old rw
48 47 8:3 / /mnt/old rw - ext4 /dev/sdd rw
49 22 0:52 / /hosts/share rw master:3 propagate_from:2 - 9p share rw
"""


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/home/me/results", "nfs4"),
        ("/home", "nfs4"),
        ("/homeless/results", None),
        ("/scratch/me/results/demo", "lustre"),
        ("/home/me/local disk/results", None),
        ("/mnt/windows/results", "cifs"),
        ("/mnt/ssh/results", "fuse.sshfs"),
        ("/mnt/pool/results", None),
        ("/mnt/usb/results", None),
        ("/mnt/old/results", None),
        ("/hosts/share/results", "9p"),
        ("/results", None),
    ],
)
def test_the_mount_that_holds_a_path_decides(path: str, kind: str | None, tmp_path: Path) -> None:
    (tmp_path / "mountinfo").write_text(MOUNTS)
    assert network_file_system(Path(path), tmp_path / "mountinfo") == kind


def test_a_link_counts_as_what_it_points_to(tmp_path: Path) -> None:
    (tmp_path / "mountinfo").write_text(f"50 1 0:53 / {tmp_path}/far rw - nfs4 server:/ rw\n")
    (tmp_path / "far").mkdir()
    (tmp_path / "results").symlink_to("far")
    assert network_file_system(tmp_path / "results" / "demo", tmp_path / "mountinfo") == "nfs4"
    assert network_file_system(tmp_path / "here", tmp_path / "mountinfo") is None


@pytest.mark.parametrize("text", ["", "\n", "rubbish", "1 2 3 4 - x"])
def test_a_list_of_mounts_that_nobody_understands_says_nothing(text: str, tmp_path: Path) -> None:
    (tmp_path / "mountinfo").write_text(text)
    assert network_file_system(tmp_path, tmp_path / "mountinfo") is None
    assert network_file_system(tmp_path, tmp_path / "missing") is None


def test_a_search_on_a_network_file_system_is_warned_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(logging.getLogger("heretic"), "propagate", True)
    warn_of_network(tmp_path)
    assert caplog.text == ""
    monkeypatch.setattr("heretic.preflight.network_file_system", lambda _: "nfs4")
    warn_of_network(tmp_path / "demo")
    assert f"{tmp_path}/demo/study.db is on a network file system (nfs4)" in caplog.text
    assert "local disk" in caplog.text
    assert len(caplog.records) == 1


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (errno.EACCES, r"permission denied \(owner: "),
        (errno.EPERM, r"permission denied \(owner: "),
        (errno.EROFS, "mounted read-only"),
        (errno.ELOOP, "symbolic link"),
        (errno.EISDIR, "Is a directory"),
    ],
)
def test_every_reason_says_what_to_do(number: int, words: str, tmp_path: Path) -> None:
    told = why_not(OSError(number, os.strerror(number)), tmp_path)
    assert re.search(words, told)
    assert "; " in told
