"""Comparison of uploaded files with the record, and of stored ones with the hub's own hashes."""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from heretic.errors import HereticError, UploadError, one_line
from heretic.export.record_file import RECORD, read_record
from heretic.export.saved_files import check_files, check_manifest

if TYPE_CHECKING:
    from huggingface_hub import HfApi
    from huggingface_hub.hf_api import ModelInfo


def require_recorded(folder: Path, hashes: Mapping[str, str]) -> None:
    """Refuse to publish a saved model whose files are not the ones in its record.

    Args:
        folder: folder of the saved model; one without a record is not checked.
        hashes: SHA-256 of each file, by path in the repository.

    Raises:
        UploadError: a file differs; the message names it.
    """
    if RECORD not in hashes:
        return
    try:
        record = read_record(folder / RECORD)[1]
        checks = [check_files(record.files, hashes), check_manifest(folder, hashes)]
    except HereticError as error:
        raise UploadError(one_line(error)) from error
    for check in checks:
        if check is not None and not check.passed:
            raise UploadError(
                f"{folder} is not the model that was saved: {check.found}; save it again, or run "
                f"`heretic verify {folder}`"
            )


def require_stored(
    api: "HfApi", head: "ModelInfo", files: Mapping[str, Path], hashes: Mapping[str, str]
) -> None:
    """Compare the files of the new commit, by the hub's own hashes, with those to upload.

    Args:
        api: client of the hub.
        head: repository at the commit.
        files: local files, by path in the repository.
        hashes: their SHA-256 before the upload.

    Raises:
        UploadError: a file is missing or differs; the message names it.
    """
    from huggingface_hub import RepoFile
    from huggingface_hub.utils import sha

    found = api.get_paths_info(head.id, list(files), revision=head.sha)
    stored = {entry.path: entry for entry in found if isinstance(entry, RepoFile)}
    for name, path in files.items():
        entry = stored.get(name)
        if entry is not None and entry.lfs is not None:
            same = entry.lfs.sha256 == hashes[name]
        elif entry is not None:  # small files have only the hash of git
            content = path.read_bytes()
            same = sha.git_hash(content) == entry.blob_id
            same &= hashlib.sha256(content).hexdigest() == hashes[name]
        else:
            same = False
        if not same:
            raise UploadError(
                f"{name} in {head.id} at commit {head.sha} is not the saved file; did another "
                "program change the folder during the upload? Save the model again and rerun the "
                "command"
            )
