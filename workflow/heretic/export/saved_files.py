"""Comparison of a saved folder with its record, by file; quick enough before every upload."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from heretic.artifact_types import ModelManifest
from heretic.export.record_file import NOT_REPRODUCED, RECORD, FileFacts
from heretic.model.checkpoint import GGUF, PICKLES
from heretic.model.headers import SUFFIX
from heretic.model.own_files import ESSENTIAL, is_hidden

MANIFEST = "{folder}.manifest.json"
WEIGHT_SUFFIXES = (SUFFIX, GGUF, ".onnx", *PICKLES)


@dataclass(frozen=True)
class Check:
    """Result of one comparison.

    Attributes:
        name: what was compared.
        found: result in words; if it failed, the first difference.
        passed: whether there is no difference.
    """

    name: str
    found: str
    passed: bool = True

    def __str__(self) -> str:
        return f"{'ok' if self.passed else 'FAILED':<6}  {self.name}: {self.found}"


def check_files(recorded: Mapping[str, FileFacts], hashes: Mapping[str, str]) -> Check:
    """Compare the files of a folder with the hashes in its record.

    Hidden files and the model card are ignored. Other files that the record lacks are differences
    if programs read them, such as weights or code.

    Args:
        recorded: facts about each file from `ablation.json`.
        hashes: SHA-256 of each file of the folder, by relative path.
    """
    for name, facts in sorted(recorded.items()):
        if name not in hashes:
            return Check("files", f"{name} is missing", passed=False)
        if hashes[name] != facts.sha256:
            return Check("files", f"SHA-256 of {name} differs from {RECORD}", passed=False)
    known = {*recorded, *NOT_REPRODUCED}
    others = [name for name in hashes if name not in known and not is_hidden(Path(name))]
    foreign = sorted(filter(_is_read, others))
    if foreign:
        return Check("files", f"{foreign[0]} does not belong to the saved model", passed=False)
    also = f"; not part of the model: {', '.join(sorted(others))}" if others else ""
    return Check("files", f"{len(recorded)} files have their recorded SHA-256{also}")


def check_manifest(folder: Path, hashes: Mapping[str, str]) -> Check | None:
    """Compare a folder with the manifest that a run writes next to it; None without a manifest.

    Raises:
        HereticError: the manifest is damaged.
    """
    path = manifest_of(folder)
    if not path.is_file():
        return None
    files = {
        name: facts
        for name, facts in ModelManifest.read(path).files.items()
        if name not in NOT_REPRODUCED[1:] and not is_hidden(Path(name))
    }
    for name, facts in sorted(files.items()):
        if hashes.get(name) != facts["sha256"]:
            return Check("manifest", f"{name} is not the file listed in {path.name}", passed=False)
    return Check("manifest", f"{len(files)} files are those listed in {path.name}")


def manifest_of(folder: Path) -> Path:
    """Return the path of the manifest of a saved folder."""
    named = folder if folder.name not in ("", "..") else folder.resolve()
    return named.parent / MANIFEST.format(folder=named.name)


def _is_read(name: str) -> bool:
    path = PurePosixPath(name)
    return name.endswith(WEIGHT_SUFFIXES) or any(path.match(pattern) for pattern in ESSENTIAL)
