"""Files of a saved folder."""

from pathlib import Path

from heretic.artifact_types import FileFacts
from heretic.artifacts import sha256_of
from heretic.errors import ExportError
from heretic.model.own_files import own_files

ALL = ("**/*",)


def manifest(folder: Path) -> dict[str, FileFacts]:
    """Return SHA-256 and size of every file of a folder, by relative path.

    Raises:
        ExportError: see `saved_files`.
    """
    return {
        name: FileFacts(sha256=sha256_of(path), bytes=path.stat().st_size)
        for name, path in saved_files(folder).items()
    }


def saved_files(folder: Path) -> dict[str, Path]:
    """Return every file of a folder by relative path, sorted.

    Raises:
        ExportError: the folder contains a link that points outside; exports do not create any.
    """
    own, foreign = own_files(folder, ALL)
    if foreign:
        raise ExportError(
            f"{foreign[0]} is a link to something other than a file of {folder}; delete it and run "
            "again"
        )
    return {path.relative_to(folder).as_posix(): path for path in own}
