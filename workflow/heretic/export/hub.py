"""Upload of a saved model to the Hugging Face hub.

The token comes from where the hub's own tools keep it and goes nowhere else: not into a message,
a log line or the receipt.
"""

import hashlib
import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, Any

from heretic.artifacts import sha256_of
from heretic.errors import UploadError, one_line

if TYPE_CHECKING:
    from huggingface_hub.hf_api import ModelInfo, RepoSibling

logger = logging.getLogger(__name__)

# Weights of an earlier upload that the new one has no more: left there, `from_pretrained` might
# prefer them (a single model.safetensors wins over an index of shards).
WEIGHTS = ("model*.safetensors", "model.safetensors.index.json")
HIDDEN = (".*", "*/.*")
COMMIT_MESSAGE = "Upload the edited model"
LOGIN = "run `hf auth login` or set HF_TOKEN"
ADVICE = {
    401: f"the hub does not accept the token; {LOGIN} with a valid one",
    403: "the token may not write there; take a token with write permission, or set upload_to to "
    "a name of your own",
    404: "the hub does not find it; check owner and name in upload_to, and that the token may see "
    "it",
    409: "somebody else changed it at the same moment; run the same command again",
    429: "the hub limits the rate; wait some minutes and run the same command again",
}
SERVER_TROUBLE = "the hub has trouble; run the same command again, what arrived is not sent twice"


def check_upload(repo: str) -> None:
    """Find before any work what would stop an upload at its end.

    Args:
        repo: repository as owner/name.

    Raises:
        UploadError: no token is to be had, the name is no repository's, or the hub is switched
            off by HF_HUB_OFFLINE.
    """
    from huggingface_hub import constants
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils._validators import validate_repo_id

    try:
        validate_repo_id(repo)
    except HFValidationError as error:
        raise UploadError(
            f"upload_to = {repo!r} is no repository name: {one_line(str(error))}; write owner/name"
        ) from error
    if constants.HF_HUB_OFFLINE:
        raise UploadError(
            f"cannot upload to {repo}: HF_HUB_OFFLINE is set; unset it, or leave upload_to empty"
        )
    _token(repo)


def upload_model(folder: Path, repo: str, *, private: bool) -> dict[str, Any]:
    """Upload every file of a folder in one commit, creating the repository where needed.

    Files that the repository already has are not sent again, and no commit is made when it has
    them all. Weights of an earlier upload that the folder lacks are removed.

    Args:
        folder: the saved model; hidden files are left out.
        repo: repository as owner/name.
        private: create it as private. A public repository that exists is then refused.

    Returns:
        The receipt: `repo`, `url`, `commit`, `files` (`path`, `bytes`, `sha256` of each) and
        `private`.

    Raises:
        UploadError: there is nothing to upload, no token, or the hub refuses or interrupts.
    """
    check_upload(repo)
    token = _token(repo)
    files = _files(folder)
    from huggingface_hub import HfApi

    api = HfApi(token=token)
    hashes = {name: sha256_of(path) for name, path in files.items()}
    with _explaining(repo, token):
        created = api.create_repo(repo, private=private, repo_type="model", exist_ok=True)
        head = api.model_info(created.repo_id, files_metadata=True)
        if private and not head.private:
            raise UploadError(
                f"{repo} exists and is public, but upload_private is true; make it private on the "
                "hub, set upload_private=false, or choose another upload_to"
            )
        if _is_up_to_date(head, files, hashes):
            logger.info("%s already has all %d files; nothing is sent", repo, len(files))
            commit = head.sha
        else:
            commit = api.upload_folder(
                repo_id=created.repo_id,
                folder_path=folder,
                commit_message=COMMIT_MESSAGE,
                ignore_patterns=list(HIDDEN),
                delete_patterns=list(WEIGHTS),
            ).oid
    return {
        "repo": created.repo_id,
        "url": f"{api.endpoint}/{created.repo_id}",
        "commit": commit,
        "files": [
            {"path": name, "bytes": path.stat().st_size, "sha256": hashes[name]}
            for name, path in files.items()
        ],
        "private": bool(head.private),
    }


def _token(repo: str) -> str:
    from huggingface_hub import get_token

    token = get_token()
    if not token:
        raise UploadError(f"cannot upload to {repo} without a token; {LOGIN}")
    return token


def _files(folder: Path) -> dict[str, Path]:
    """What an upload sends, by path in the repository."""
    found = {
        path.relative_to(folder).as_posix(): path
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
    files = {name: path for name, path in found.items() if not _matches(name, HIDDEN)}
    if not files:
        raise UploadError(f"{folder} holds no file to upload; save the model there first")
    return files


def _is_up_to_date(head: "ModelInfo", files: Mapping[str, Path], hashes: Mapping[str, str]) -> bool:
    remote = {sibling.rfilename: sibling for sibling in head.siblings or ()}
    outdated = (name for name in remote if name not in files and _matches(name, WEIGHTS))
    return not any(outdated) and all(
        name in remote and _is_same(path, hashes[name], remote[name])
        for name, path in files.items()
    )


def _is_same(path: Path, sha256: str, remote: "RepoSibling") -> bool:
    if remote.lfs is not None:
        return sha256 == remote.lfs.sha256
    # Small files are known to the hub by git's hash, which covers a header with the length.
    content = path.read_bytes()
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest() == remote.blob_id


def _matches(name: str, patterns: tuple[str, ...]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)


@contextmanager
def _explaining(repo: str, token: str) -> Iterator[None]:
    """Turn what the hub's client raises into one line without the token."""
    from huggingface_hub.errors import HfHubHTTPError
    from huggingface_hub.utils import httpx  # type: ignore[attr-defined]  # httpx or httpx2

    try:
        yield
    except HfHubHTTPError as error:
        raise UploadError(f"cannot upload to {repo}: {_refusal(error, token)}") from error
    except (httpx.TransportError, ConnectionError) as error:
        raise UploadError(
            f"cannot upload to {repo}: the connection to the hub failed "
            f"({type(error).__name__}); check the network and run the same command again"
        ) from error
    except (OSError, ValueError) as error:
        says = one_line(str(error).replace(token, "…"))
        raise UploadError(f"cannot upload to {repo}: {says}; mend it and run again") from error


def _refusal(error: Any, token: str) -> str:
    status = error.response.status_code
    advice = ADVICE.get(status, SERVER_TROUBLE if status >= 500 else "see what it says and mend it")
    server = str(error.server_message or "").replace(token, "…").strip()
    return f"{advice} (status {status}{': ' + one_line(server) if server else ''})"
