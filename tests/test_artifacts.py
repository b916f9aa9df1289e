"""Artifacts: whole or not at all, explained by their provenance, the same bytes every time."""

import errno
import json
import math
import os
import stat
import subprocess
import sys
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError
from users import ANOTHER, as_another_user, shared_folder

from heretic.artifacts import (
    GIVEN,
    LARGEST_JSON,
    MARKER,
    OLD,
    atomic_write,
    fingerprint,
    provenance,
    read_json,
    read_jsonl,
    read_tensors,
    replacing_folder,
    sha256_of,
    versions,
    write_csv,
    write_json,
    write_jsonl,
    write_tensors,
    write_text,
)
from heretic.errors import HereticError


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_failed_write_keeps_the_old_artifact(tmp_path: Path) -> None:
    target = tmp_path / "a.txt"
    write_text(target, "old")

    def write_half() -> None:
        with atomic_write(target) as beside:
            beside.write_text("half")
            raise RuntimeError("stopped")

    with pytest.raises(RuntimeError, match="stopped"):
        write_half()
    assert target.read_text() == "old"
    assert names(tmp_path) == ["a.txt"]


def test_a_failed_first_write_leaves_nothing(tmp_path: Path) -> None:
    def write_half() -> None:
        with atomic_write(tmp_path / "new" / "a.txt") as beside:
            beside.write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_half()
    assert names(tmp_path / "new") == []


def test_a_written_file_has_the_rights_of_any_other(tmp_path: Path) -> None:
    (tmp_path / "plain").write_text("")
    write_text(tmp_path / "a.txt", "text")
    rights = [stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("plain", "a.txt")]
    assert rights[0] == rights[1]


def test_a_failed_folder_keeps_the_old_one(tmp_path: Path) -> None:
    target = tmp_path / "model"
    with replacing_folder(target) as beside:
        (beside / "old.txt").write_text("old")

    def write_half() -> None:
        with replacing_folder(target) as beside:
            (beside / "new.txt").write_text("half")
            raise RuntimeError("stopped")

    with pytest.raises(RuntimeError, match="stopped"):
        write_half()
    assert names(target) == ["old.txt"]
    assert names(tmp_path) == ["model"]


def test_a_new_folder_replaces_all_of_the_old_one(tmp_path: Path) -> None:
    target = tmp_path / "model"
    for name in ("old.txt", "new.txt"):
        with replacing_folder(target) as beside:
            (beside / "deep").mkdir()
            (beside / "deep" / name).write_text(name)
    assert names(target / "deep") == ["new.txt"]
    assert names(tmp_path) == ["model"]
    (tmp_path / "plain").mkdir()
    assert target.stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_the_old_folder_comes_back_when_the_new_one_cannot_take_its_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "model"
    target.mkdir()
    (target / "old.txt").write_text("old")
    rename = Path.rename

    def refuse_target(self: Path, to: Path) -> Path:
        if to == target and self.name != OLD:
            raise OSError("no")
        return rename(self, to)

    monkeypatch.setattr(Path, "rename", refuse_target)
    with pytest.raises(OSError, match="no"), replacing_folder(target) as beside:
        (beside / "new.txt").write_text("new")
    assert names(target) == ["old.txt"]
    assert names(tmp_path) == ["model"]


@pytest.mark.parametrize("name", [".model.partial", ".model.old"])
def test_a_users_own_folder_is_never_taken_for_a_leftover(tmp_path: Path, name: str) -> None:
    own = tmp_path / name
    own.mkdir()
    (own / "thesis.txt").write_text("mine")
    if name.endswith(".old"):
        with replacing_folder(tmp_path / "model"):
            pass
    else:
        with (
            pytest.raises(
                HereticError, match=r"\.model\.partial is in the way and was not created"
            ),
            replacing_folder(tmp_path / "model"),
        ):
            pytest.fail("began")
    assert names(own) == ["thesis.txt"]


@pytest.mark.parametrize("name", ["model", ".model.partial"])
@pytest.mark.parametrize("kind", ["link", "dangling link", "file"])
def test_links_and_files_are_left_alone(tmp_path: Path, name: str, kind: str) -> None:
    elsewhere, place = tmp_path / "elsewhere", tmp_path / name
    if kind != "dangling link":
        elsewhere.mkdir()
        (elsewhere / MARKER).write_text("mine")
    if kind == "file":
        place.write_text("mine")
    else:
        place.symlink_to(elsewhere)
    before = sorted(path.name for path in tmp_path.rglob("*"))
    with (
        pytest.raises(
            HereticError, match=r"not a folder; move it|not created by this program; move it"
        ),
        replacing_folder(tmp_path / "model"),
    ):
        pytest.fail("began")
    assert sorted(path.name for path in tmp_path.rglob("*")) == before


@pytest.mark.parametrize("moved_aside", [False, True])
def test_what_a_killed_process_left_of_a_folder_is_cleared(
    tmp_path: Path, moved_aside: bool
) -> None:
    target, work = tmp_path / "model", tmp_path / ".model.partial"
    (work / "new").mkdir(parents=True)
    (work / MARKER).touch()
    (work / "new" / "half.txt").write_text("half")
    old = work / OLD if moved_aside else target
    old.mkdir()
    (old / "old.txt").write_text("old")

    def stop() -> None:
        with replacing_folder(target):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stop()
    assert names(target) == ["old.txt"]
    assert names(tmp_path) == ["model"]


REWRITE = """
import sys, time
from pathlib import Path
from heretic.artifacts import write_text
end = time.monotonic() + 1.0
while time.monotonic() < end:
    for letter in "abc":
        write_text(Path(sys.argv[1]), letter * int(sys.argv[2]))
"""


def test_a_reader_never_sees_a_part(tmp_path: Path) -> None:
    path, size = tmp_path / "a.txt", 200_000
    write_text(path, "a" * size)
    writer = subprocess.Popen([sys.executable, "-c", REWRITE, str(path), str(size)])
    seen: set[str] = set()
    while writer.poll() is None:
        text = path.read_text()
        assert len(text) == size
        assert len(set(text)) == 1
        seen.add(text[0])
    assert writer.returncode == 0
    assert seen > {"a"}


def _inode(path: Path) -> int | None:
    try:
        return path.stat().st_ino
    except FileNotFoundError:
        return None


def test_a_reader_never_sees_a_folder_that_lacks_files(tmp_path: Path) -> None:
    target, failures = tmp_path / "model", []
    files = [f"{number}.txt" for number in range(30)]

    def write() -> None:
        for _ in range(15):
            with replacing_folder(target) as beside:
                for name in files:
                    (beside / name).touch()

    write()
    writer = threading.Thread(target=write)
    writer.start()
    while writer.is_alive():
        try:
            descriptor = os.open(target, os.O_RDONLY)
        except FileNotFoundError:
            continue
        # One look through a handle, as a program that has the folder open would take it.
        found = os.listdir(descriptor)  # noqa: PTH208 (a descriptor, not a path)
        inode = os.fstat(descriptor).st_ino
        os.close(descriptor)
        if _inode(target) == inode and len(found) != len(files):
            failures.append(found)
    writer.join()
    assert not failures


def test_json_round_trip(tmp_path: Path) -> None:
    payload = {"ü": [1, 2.5, None, {"nested": True}], "a": "b"}
    write_json(tmp_path / "a.json", payload)
    assert read_json(tmp_path / "a.json") == payload
    assert "ü" in (tmp_path / "a.json").read_text(encoding="utf-8")


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_json_has_no_nan(tmp_path: Path, value: float) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "a.json", {"kl": value})
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_jsonl(tmp_path / "a.jsonl", [{"kl": value}])
    assert names(tmp_path) == []


@pytest.mark.parametrize("content", [b"", b'{"a": 1', b"[1, 2]", b"[]", b"3", b"\xff\xfe"])
def test_damaged_json_is_named_with_what_to_do(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "best.json"
    path.write_bytes(content)
    with pytest.raises(HereticError, match=r"best\.json.*delete it and run again"):
        read_json(path)


def test_missing_json(tmp_path: Path) -> None:
    """Deleting what is not there helps nobody; a path that the user gave may be wrong."""
    with pytest.raises(HereticError, match=r"best\.json: there is no such file; run again, which"):
        read_json(tmp_path / "best.json")
    with pytest.raises(HereticError, match=r"there is no such file; check the path$"):
        read_json(tmp_path / "best.json", GIVEN)
    (tmp_path / "best.json").write_text("{")
    with pytest.raises(HereticError, match=r"check that it is the right file and complete$"):
        read_json(tmp_path / "best.json", GIVEN)


@pytest.mark.parametrize("text", ["[" * 100_000, '{"a":' * 100_000])
def test_json_that_is_nested_too_deeply_is_damaged(tmp_path: Path, text: str) -> None:
    path = tmp_path / "best.json"
    path.write_text(text)
    with pytest.raises(HereticError, match="nested too deeply; delete it and run again"):
        read_json(path)
    with pytest.raises(ValueError, match="nested too deeply"):
        read_jsonl(path)


def test_json_is_read_from_files_of_bounded_size_only(tmp_path: Path) -> None:
    path = tmp_path / "best.json"
    with path.open("wb") as stream:
        stream.truncate(LARGEST_JSON + 1)
    with pytest.raises(HereticError, match="has more than 128 MB"):
        read_json(path)
    for other in (tmp_path, Path("/dev/zero")):
        with pytest.raises(HereticError, match="it is not a file"):
            read_json(other)


def test_lines_of_json_are_objects(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"a": 1}\n[1]\n')
    with pytest.raises(ValueError, match="a line does not hold an object"):
        read_jsonl(tmp_path / "a.jsonl")


def test_jsonl_round_trip(tmp_path: Path) -> None:
    records = [{"text": "one\ntwo\u2028"}, {"text": "zwölf"}]
    write_jsonl(tmp_path / "a.jsonl", records)
    assert read_jsonl(tmp_path / "a.jsonl") == records


def test_csv_has_the_union_of_columns_and_its_provenance_beside(tmp_path: Path) -> None:
    write_csv(tmp_path / "t.csv", [{"a": 1, "b": None}, {"a": 2, "c": "x,y"}], {"seed": 1})
    assert (tmp_path / "t.csv").read_text() == 'a,b,c\n1,,\n2,,"x,y"\n'
    assert read_json(tmp_path / "t.provenance.json") == {"seed": 1}


def test_tensors_round_trip_and_repeat_their_bytes(tmp_path: Path) -> None:
    tensors = {"b": torch.randn(3, 4).T, "a": torch.arange(5), "h": torch.ones(2).half()}
    written = []
    for name, order in (("one", ["a", "b", "h"]), ("two", ["h", "b", "a"])):
        path = tmp_path / f"{name}.safetensors"
        facts = dict(sorted({"x": 1, "y": 2}.items(), reverse=name == "two"))
        write_tensors(path, {key: tensors[key] for key in order}, facts)
        written.append(path.read_bytes())
    assert written[0] == written[1]
    read = read_tensors(tmp_path / "one.safetensors")
    assert read.keys() == tensors.keys()
    assert all(read[key].equal(tensors[key]) for key in tensors)
    assert names(tmp_path) == ["one.safetensors", "two.safetensors"]


@pytest.mark.parametrize("keep", [0, 5, 60])
def test_truncated_tensors_are_named(tmp_path: Path, keep: int) -> None:
    path = tmp_path / "directions.safetensors"
    write_tensors(path, {"a": torch.arange(100)}, {})
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(HereticError, match=r"directions\.safetensors.*delete it and run again"):
        read_tensors(path)


def test_missing_tensors(tmp_path: Path) -> None:
    with pytest.raises(HereticError, match=r"gone\.safetensors"):
        read_tensors(tmp_path / "gone.safetensors")


def test_provenance_depends_on_content_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "input.txt"
    path.write_text("one")
    before = provenance({"seed": 1}, {"input": path})
    os.utime(path, (1, 1))
    assert provenance({"seed": 1}, {"input": path}) == before
    path.write_text("two")
    assert provenance({"seed": 1}, {"input": path}) != before
    assert before["inputs"] == {
        "input": "7692c3ad3540bb803c020b3aee66cd8887123234ea0c6e7143c0add73ff431ed"
    }
    assert before["settings"] == {"seed": 1}
    assert {"python", "torch", "transformers", "optuna"} <= before["versions"].keys()
    assert versions() == before["versions"]
    assert json.loads(json.dumps(before)) == before


def test_fingerprints() -> None:
    assert fingerprint({"a": 1, "b": [2]}) == fingerprint({"b": [2], "a": 1})
    assert fingerprint({"a": 1}) != fingerprint({"a": 2})
    assert fingerprint("") == "12ae32cb1ec02d01eda3581b127c1fee3b0dc53572ed6baf239721a03d82e126"


def test_sha256(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"abc")
    assert sha256_of(tmp_path / "a") == (
        "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    )


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        OSError(errno.EDQUOT, "Disk quota exceeded"),
        SafetensorError(
            "Error while serializing: I/O error: No space left on device (os error 28)"
        ),
    ],
)
def test_a_full_disk_is_named_and_leaves_the_old_artifact(tmp_path: Path, error: Exception) -> None:
    target = tmp_path / "a.txt"
    target.write_text("old")
    with (
        pytest.raises(HereticError, match=r"a\.txt: no space left on the disk; free some"),
        atomic_write(target),
    ):
        raise error
    assert names(tmp_path) == ["a.txt"]
    assert target.read_text() == "old"


def test_another_fault_stays_what_it_is(tmp_path: Path) -> None:
    with pytest.raises(PermissionError), atomic_write(tmp_path / "a.txt"):
        raise PermissionError(errno.EACCES, "Permission denied")


def test_what_a_killed_process_left_is_written_over(tmp_path: Path) -> None:
    (tmp_path / ".a.txt.partial").write_text("half of an artif")
    write_text(tmp_path / "a.txt", "whole")
    assert names(tmp_path) == ["a.txt"]
    assert (tmp_path / "a.txt").read_text() == "whole"


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o027, 0o640), (0o002, 0o664)])
def test_every_artifact_honors_the_umask(umask: int, mode: int, tmp_path: Path) -> None:
    before = os.umask(umask)
    try:
        write_tensors(tmp_path / "a.safetensors", {"a": torch.zeros(2)}, {})
        write_json(tmp_path / "a.json", {})
        write_csv(tmp_path / "a.csv", [], {})
        with atomic_write(tmp_path / "private") as beside:  # as libraries do that write beside
            beside.unlink()
            os.close(os.open(beside, os.O_CREAT | os.O_WRONLY, 0o600))
        with replacing_folder(tmp_path / "model") as folder:
            os.close(os.open(folder / "weights", os.O_CREAT | os.O_WRONLY, 0o600))
    finally:
        os.umask(before)
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert {path.name: oct(stat.S_IMODE(path.stat().st_mode)) for path in files} == {
        name: oct(mode)
        for name in (
            *("a.safetensors", "a.json", "a.csv", "a.provenance.json", "private", "weights"),
        )
    }


def test_no_artifact_goes_through_a_link(tmp_path: Path) -> None:
    victim, folder = tmp_path / "bashrc", tmp_path / "documents"
    victim.write_text("precious")
    folder.mkdir()
    (folder / "thesis").write_text("precious")
    here = tmp_path / "results"
    here.mkdir()
    for name in ("a.json", ".a.json.partial"):
        (here / name).symlink_to(victim)
    for name in ("model", ".other.partial"):
        (here / name).symlink_to(folder)
    write_json(here / "a.json", {"a": 1})
    for name in ("model", "other"):
        with pytest.raises(HereticError), replacing_folder(here / name):
            pass
    assert victim.read_text() == "precious"
    assert names(folder) == ["thesis"]
    assert not (here / "a.json").is_symlink()


def test_a_folder_does_not_replace_a_file_of_its_name(tmp_path: Path) -> None:
    (tmp_path / "model").write_text("precious")
    with (
        pytest.raises(HereticError, match="is a file, not a folder"),
        replacing_folder(tmp_path / "model"),
    ):
        pass
    assert (tmp_path / "model").read_text() == "precious"


@ANOTHER
def test_a_folder_of_another_user_is_one_line() -> None:
    def told(write: Callable[[], object]) -> str:
        with pytest.raises(HereticError) as error:
            write()
        return str(error.value)

    def fill(folder: Path) -> None:
        with replacing_folder(folder / "model"):
            pytest.fail("made a folder in another user's")

    with shared_folder() as folder:
        closed = folder / "closed"
        closed.mkdir(mode=0o755)
        told_why = "permission denied (owner: root); ask for access to it"
        writers: dict[Path, Callable[[], None]] = {
            closed / "a.json": partial(write_json, closed / "a.json", {}),
            closed / "deep" / "a.json": partial(write_json, closed / "deep" / "a.json", {}),
            closed / "model": partial(fill, closed),
        }
        for path, write in writers.items():
            line = as_another_user(partial(told, write))
            assert line.startswith(f"cannot write {path}: {told_why}"), line
        readers: dict[str, Callable[[Path], object]] = {
            "a.json": read_json,
            "a.safetensors": read_tensors,
        }
        for name, read in readers.items():
            (folder / name).touch(mode=0o600)
            line = as_another_user(partial(told, partial(read, folder / name)))
            assert line.startswith(f"cannot read {folder / name}: {told_why}"), line


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount")
def test_a_read_only_disk_is_one_line(tmp_path: Path) -> None:
    mounted = ["mount", "-t", "tmpfs", "-o", "ro,size=64k", "tmpfs", str(tmp_path)]
    if subprocess.run(mounted, capture_output=True).returncode:
        pytest.skip("mounts are not allowed here")
    try:
        with pytest.raises(HereticError, match=r"cannot write .*a\.json: .*mounted read-only"):
            write_json(tmp_path / "a.json", {})
    finally:
        subprocess.run(["umount", str(tmp_path)], check=True)
