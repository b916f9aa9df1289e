"""Atomic artifact I/O with provenance.

Nothing here imports torch at import time, so that light phases stay light.
"""

import csv
import errno
import hashlib
import json
import os
import platform
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError

from heretic.errors import HereticError, one_line
from heretic.file_systems import REFUSED, why_not

if TYPE_CHECKING:
    from torch import Tensor

PACKAGES = (
    "heretic-workflow",
    "torch",
    "transformers",
    "optuna",
    "safetensors",
    "datasets",
    "peft",
    "bitsandbytes",
)
PROVENANCE = "provenance"
# In the hidden folder beside one that is being replaced.
MARKER, NEW, OLD = "being-replaced-by-heretic-workflow", "new", "old"
# JSON beyond these bounds is none of ours, and would exhaust memory.
LARGEST_JSON = 128 * 1024**2
AGAIN = "delete it and run again"
GIVEN = "check that it is the right file and complete"


@contextmanager
def replacing(target: Path) -> Iterator[Path]:
    """A path beside `target` that takes its place when the block ends well, and vanishes if not.

    A reader sees the old artifact or the new one, never a part of it, also after a loss of power.
    What a killed process left of an earlier attempt is written over. Only one process at a time
    may write a target. Its permissions are those that the umask allows.

    Raises:
        HereticError: the disk is full, or the folder is not writable.
    """
    beside = target.with_name(f".{target.name}.partial")
    with _explaining_disk(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        _remove(beside)
    try:
        with _explaining_disk(target):
            beside.touch(exist_ok=False)
            yield beside
            _open_to_readers(beside)
            _flush(beside)
            beside.replace(target)
            _flush(target.parent)
    finally:
        with suppress(PermissionError):  # told above
            beside.unlink(missing_ok=True)


@contextmanager
def replacing_folder(target: Path, error: type[HereticError] = HereticError) -> Iterator[Path]:
    """Like `replacing`, for a whole folder.

    An older folder of that name is moved aside as a whole and then removed, so that a reader may
    for an instant find no folder, but never one that lacks files. What a killed process left
    half done is cleared away first, since a model's worth of it may fill the disk. Only one
    process at a time may replace a folder.

    Everything happens in one hidden folder beside the target, which a marker file identifies as
    ours: a folder of the same name without the marker is left alone, and links are not followed.

    Raises:
        HereticError: the disk is full, the folder above is not writable, or a link, a file or
            somebody else's folder is in the way; an `error`, if another class is given.
    """
    work = target.with_name(f".{target.name}.partial")
    beside, aside = work / NEW, work / OLD
    with _explaining_disk(target, error):
        target.parent.mkdir(parents=True, exist_ok=True)
        _require_folder(target, error)
        _require_own(work, error)
        _settle(target, work)
        work.mkdir()
        (work / MARKER).touch()
        beside.mkdir()
    try:
        with _explaining_disk(target, error):
            yield beside
            for path in beside.rglob("*"):
                if path.is_file():
                    _open_to_readers(path)
                _flush(path)
            if os.path.lexists(target):
                target.rename(aside)
            beside.rename(target)
            _flush(target.parent)
    finally:
        _settle(target, work)


def _remove(path: Path) -> None:
    """Remove a file, a folder or a link, never what a link points to."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _settle(target: Path, work: Path) -> None:
    """Move an older folder back if nothing has taken its place; remove the working folder."""
    if (work / OLD).exists() and not target.exists():
        (work / OLD).rename(target)
    if work.exists():
        for part in (work / NEW, work / OLD):  # the marker goes last
            if part.exists():
                shutil.rmtree(part)
        shutil.rmtree(work)


def _require_folder(target: Path, error: type[HereticError]) -> None:
    if target.is_symlink() or (target.exists() and not target.is_dir()):
        kind = "link" if target.is_symlink() else "file"
        raise error(f"{target} is a {kind}, not a folder; move it away or choose another folder")


def _require_own(work: Path, error: type[HereticError]) -> None:
    """Reject a working folder that is not one of ours, which an empty one may be."""
    if work.is_symlink() or work.exists():
        marker = work / MARKER
        own = not work.is_symlink() and work.is_dir()
        marked = own and marker.is_file() and not marker.is_symlink()
        if not marked and not (own and not any(work.iterdir())):
            raise error(
                f"{work} is in the way and was not created by this program; move it away, then run "
                "again"
            )


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text atomically."""
    with replacing(path) as beside:
        beside.write_text(text, encoding="utf-8")


def write_json(path: Path, payload: Mapping[str, Any]) -> None:
    """Write a JSON object atomically; NaN is an error because JSON has none."""
    write_text(path, json.dumps(payload, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def read_json(path: Path, advice: str = AGAIN) -> dict[str, Any]:
    """Read a JSON object.

    Args:
        path: of the file.
        advice: what to do about a damaged file; `GIVEN` for files that the user names.

    Raises:
        HereticError: the file is missing or damaged.
    """
    try:
        if not path.exists():
            remedy = "run again, which writes it" if advice == AGAIN else "check the path"
            raise HereticError(f"cannot read {path}: there is no such file; {remedy}")
        value = parse_json(_bounded_text(path))
        if not isinstance(value, dict):
            raise ValueError(f"it holds a {type(value).__name__}, not an object")
    except (OSError, ValueError) as error:
        raise _unreadable(path, error, advice) from error
    return value


def parse_json(text: str) -> Any:
    """Return the value of a JSON text.

    Raises:
        ValueError: it is not JSON, or nested too deeply to be read.
    """
    try:
        return json.loads(text)
    except RecursionError as error:
        raise ValueError("its values are nested too deeply") from error


def _bounded_text(path: Path) -> str:
    """Return a regular file's UTF-8 text; a device or a pipe might never end."""
    if not path.is_file():
        raise ValueError("it is not a file")
    if path.stat().st_size > LARGEST_JSON:
        raise ValueError(f"it has more than {LARGEST_JSON // 1024**2} MB")
    return path.read_text(encoding="utf-8")


def write_jsonl(path: Path, records: Iterable[Mapping[str, Any]]) -> None:
    """Write one JSON object a line, atomically; NaN is an error because JSON has none."""
    lines = (json.dumps(dict(r), ensure_ascii=False, allow_nan=False) + "\n" for r in records)
    write_text(path, "".join(lines))


def read_jsonl(path: Path) -> list[dict[str, Any]]:
    """Read one JSON object a line.

    Raises:
        OSError, ValueError: the file is missing or damaged; the caller knows what it should hold.
    """
    with path.open(encoding="utf-8") as lines:
        found = [parse_json(line) for line in lines]
    if not all(isinstance(record, dict) for record in found):
        raise ValueError("a line does not hold an object")
    return found


def write_csv(path: Path, rows: Sequence[Mapping[str, Any]], provenance: Mapping[str, Any]) -> None:
    """Write rows under the union of their keys in order of appearance; provenance in a sidecar."""
    columns = list(dict.fromkeys(key for row in rows for key in row))
    write_json(path.with_suffix(".provenance.json"), provenance)
    with replacing(path) as beside, beside.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def write_tensors(
    path: Path, tensors: "Mapping[str, Tensor]", provenance: Mapping[str, Any]
) -> None:
    """Write tensors as safetensors; the same tensors and provenance give the same bytes."""
    from safetensors.torch import save_file

    metadata = {PROVENANCE: json.dumps(provenance, sort_keys=True)}
    with replacing(path) as beside:
        save_file({k: v.contiguous() for k, v in tensors.items()}, beside, metadata=metadata)


def read_tensors(path: Path) -> "dict[str, Tensor]":
    """Read every tensor of a safetensors file.

    Raises:
        HereticError: the file is missing or damaged.
    """
    from safetensors.torch import load_file

    try:
        # safetensors says of any file that it may not read that it is missing.
        path.open("rb").close()
        return load_file(path)
    except FileNotFoundError as error:
        raise HereticError(
            f"cannot read {path}: there is no such file; run again, which writes it"
        ) from error
    except (OSError, SafetensorError) as error:
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: Exception, advice: str = AGAIN) -> HereticError:
    """Return an error for a file that is damaged, missing or not for this user to read."""
    if isinstance(error, OSError) and error.errno in REFUSED:
        return HereticError(f"cannot read {path}: {why_not(error, path)}")
    return HereticError(f"cannot read {path}: {one_line(error)}; {advice}")


def sha256_of(path: Path) -> str:
    """Return hexadecimal SHA-256 of a file's bytes."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def fingerprint(value: Any) -> str:
    """Return hexadecimal SHA-256 of a value's canonical JSON."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()


def provenance(settings: Mapping[str, Any], inputs: Mapping[str, Path]) -> dict[str, Any]:
    """Return an artifact's settings, hashes of its inputs and software versions.

    Holds no time stamp, so that repeating a phase repeats its bytes.
    """
    return {
        "settings": dict(settings),
        "inputs": {name: sha256_of(path) for name, path in sorted(inputs.items())},
        "versions": versions(),
    }


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that results depend on."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


@contextmanager
def _explaining_disk(target: Path, kind: type[HereticError] = HereticError) -> Iterator[None]:
    """Name what could not be written; libraries report a full disk each in their own exception.

    Raises:
        HereticError: the disk, or the user's share of it, is full, or the folder not writable.
    """
    try:
        yield
    except (OSError, SafetensorError) as error:
        number = getattr(error, "errno", None)
        if number in (errno.ENOSPC, errno.EDQUOT) or os.strerror(errno.ENOSPC) in str(error):
            raise kind(
                f"cannot write {target}: no space left on the disk; free some space and run again, "
                "finished phases and trials are kept"
            ) from error
        if isinstance(error, OSError) and number in REFUSED and _is_near(error.filename, target):
            place = next(p for p in (target, *target.absolute().parents) if p.exists())
            raise kind(f"cannot write {target}: {why_not(error, place)}") from error
        raise


def _is_near(path: object, target: Path) -> bool:
    """Say whether a file lies beside the target or above it, so that its error is the target's."""
    if not isinstance(path, str | os.PathLike):
        return False
    folder = Path(path).absolute().parent
    return folder == target.absolute().parent or folder in target.absolute().parents


def _flush(path: Path) -> None:
    """Force a file, or the entries of a folder, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _open_to_readers(path: Path) -> None:
    """Give a file the permissions of the umask; some libraries make theirs for the owner alone."""
    path.chmod(0o666 & ~_umask())


def _umask() -> int:
    current = os.umask(0)
    os.umask(current)
    return current
