"""Atomic artifact I/O with provenance.

Nothing here imports torch at import time, so that lightweight phases stay so.
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
# In the hidden folder next to the one being replaced.
MARKER, NEW, OLD = "being-replaced-by-heretic-workflow", "new", "old"
# JSON beyond these limits is not from this project, and would exhaust memory.
LARGEST_JSON = 128 * 1024**2
AGAIN = "delete it and run again"
GIVEN = "check that it is the right file and complete"


@contextmanager
def atomic_write(target: Path) -> Iterator[Path]:
    """Yield a path next to `target` that replaces it if the block succeeds and is removed if not.

    A reader sees the old artifact or the new one, never a part of it, even after a power failure.
    Leftovers of a killed process are overwritten. Only one process at a time may write a target.
    Its permissions follow the umask.

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
        with suppress(PermissionError):  # reported above
            beside.unlink(missing_ok=True)


@contextmanager
def replacing_folder(target: Path, error: type[HereticError] = HereticError) -> Iterator[Path]:
    """Replace a whole folder, like `replacing`.

    An older folder of that name is moved aside as a whole and then removed, so that a reader may
    momentarily find no folder, but never an incomplete one. Leftovers of a killed process are
    removed first, since they may be as large as a model and fill the disk. Only one process at a
    time may replace a folder.

    All work takes place in a hidden folder next to the target, identified as ours by a marker file:
    a folder of the same name without the marker is left unchanged, and links are not followed.

    Raises:
        HereticError: the disk is full, the parent folder is not writable, or a link, a file or
            another folder is in the way; an `error`, if another class is given.
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
    """Remove a file, a folder or a link, but never a link's target."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _settle(target: Path, work: Path) -> None:
    """Move an older folder back unless it has been replaced; remove the working folder."""
    if (work / OLD).exists() and not target.exists():
        (work / OLD).rename(target)
    if work.exists():
        for part in (work / NEW, work / OLD):  # the marker is removed last
            if part.exists():
                shutil.rmtree(part)
        shutil.rmtree(work)


def _require_folder(target: Path, error: type[HereticError]) -> None:
    if target.is_symlink() or (target.exists() and not target.is_dir()):
        kind = "link" if target.is_symlink() else "file"
        raise error(f"{target} is a {kind}, not a folder; move it away or choose another folder")


def _require_own(work: Path, error: type[HereticError]) -> None:
    """Reject a working folder that is neither from this project nor empty."""
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
    with atomic_write(path) as beside:
        beside.write_text(text, encoding="utf-8")


def write_json(path: Path, payload: Mapping[str, Any]) -> None:
    """Write a JSON object atomically; NaN is an error because JSON has none."""
    write_text(path, json.dumps(payload, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def read_json(path: Path, advice: str = AGAIN) -> dict[str, Any]:
    """Read a JSON object.

    Args:
        path: path of the file.
        advice: remedy for a damaged file; `GIVEN` for files specified by the user.

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
        ValueError: the text is not JSON, or too deeply nested.
    """
    try:
        return json.loads(text)
    except RecursionError as error:
        raise ValueError("its values are nested too deeply") from error


def _bounded_text(path: Path) -> str:
    """Return a regular file's UTF-8 text; reading a device or a pipe might never end."""
    if not path.is_file():
        raise ValueError("it is not a file")
    if path.stat().st_size > LARGEST_JSON:
        raise ValueError(f"it has more than {LARGEST_JSON // 1024**2} MB")
    return path.read_text(encoding="utf-8")


def write_jsonl(path: Path, records: Iterable[Mapping[str, Any]]) -> None:
    """Write one JSON object per line, atomically; NaN is an error because JSON has none."""
    lines = (json.dumps(dict(r), ensure_ascii=False, allow_nan=False) + "\n" for r in records)
    write_text(path, "".join(lines))


def read_jsonl(path: Path) -> list[dict[str, Any]]:
    """Read one JSON object per line.

    Raises:
        OSError, ValueError: the file is missing or damaged; the caller knows its expected contents.
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
    with atomic_write(path) as beside, beside.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def write_tensors(
    path: Path, tensors: "Mapping[str, Tensor]", provenance: Mapping[str, Any]
) -> None:
    """Write tensors as safetensors; the same tensors and provenance give the same bytes."""
    from safetensors.torch import save_file

    metadata = {PROVENANCE: json.dumps(provenance, sort_keys=True)}
    with atomic_write(path) as beside:
        save_file({k: v.contiguous() for k, v in tensors.items()}, beside, metadata=metadata)


def read_tensors(path: Path) -> "dict[str, Tensor]":
    """Read every tensor of a safetensors file.

    Raises:
        HereticError: the file is missing or damaged.
    """
    from safetensors.torch import load_file

    try:
        # safetensors reports any unreadable file as missing.
        path.open("rb").close()
        return load_file(path)
    except FileNotFoundError as error:
        raise HereticError(
            f"cannot read {path}: there is no such file; run again, which writes it"
        ) from error
    except (OSError, SafetensorError) as error:
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: Exception, advice: str = AGAIN) -> HereticError:
    """Return the error for a file that is damaged, missing or not readable by this user."""
    if isinstance(error, OSError) and error.errno in REFUSED:
        return HereticError(f"cannot read {path}: {why_not(error, path)}")
    return HereticError(f"cannot read {path}: {one_line(error)}; {advice}")


def sha256_of(path: Path) -> str:
    """Return the hexadecimal SHA-256 of a file's bytes."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def fingerprint(value: Any) -> str:
    """Return the hexadecimal SHA-256 of a value's canonical JSON."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()


def provenance(settings: Mapping[str, Any], inputs: Mapping[str, Path]) -> dict[str, Any]:
    """Return an artifact's settings, hashes of its inputs, and software versions.

    Contains no timestamp, so that repeating a phase reproduces its bytes.
    """
    return {
        "settings": dict(settings),
        "inputs": {name: sha256_of(path) for name, path in sorted(inputs.items())},
        "versions": versions(),
    }


def versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that affect results."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


@contextmanager
def _explaining_disk(target: Path, kind: type[HereticError] = HereticError) -> Iterator[None]:
    """Name the target in write errors; each library reports a full disk in its own exception.

    Raises:
        HereticError: the disk or the user's quota is full, or the folder is not writable.
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
    """Return whether a file is next to the target or above it, so that errors concern both."""
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
    """Set a file's permissions by the umask; some libraries restrict theirs to the owner."""
    path.chmod(0o666 & ~_umask())


def _umask() -> int:
    current = os.umask(0)
    os.umask(current)
    return current
