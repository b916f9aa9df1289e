"""Upload of a saved model to the Hugging Face hub.

The token is read from where the hub's own tools keep it, and appears in no message, log line or
receipt.
"""

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from heretic.artifacts import sha256_of
from heretic.credentials import hide_passwords
from heretic.errors import ExportError, UploadError, one_line
from heretic.export.manifest import saved_files
from heretic.export.upload_checks import require_recorded, require_stored

if TYPE_CHECKING:
    from huggingface_hub import HfApi
    from huggingface_hub.hf_api import ModelInfo

logger = logging.getLogger(__name__)

# Weights of an earlier upload that the new one lacks. If they were left there, `from_pretrained`
# might prefer them (a single model.safetensors takes precedence over an index of shards).
WEIGHTS = (
    *("model*.safetensors", "model.safetensors.index.json"),
    *("adapter_model*.safetensors", "adapter_config.json"),
)
HIDDEN = (".*", "*/.*")
COMMIT_MESSAGE = "Upload the edited model"
LOGIN = "run `hf auth login` or set HF_TOKEN"
ADVICE = {
    401: f"the hub does not accept the token; {LOGIN} with a valid one",
    403: "the token has no write access; use a token with write permission, or set upload_to to "
    "your own namespace",
    404: "repository not found; check upload_to and the token's access",
    409: "the repository changed during the upload; rerun the command",
    429: "the hub's rate limit was reached; wait a few minutes and rerun the command",
}
# Seconds before each further attempt. Rate limits of the hub last for minutes.
WAITS = (1.0, 4.0, 15.0, 60.0, 120.0)
# The hub's client retries transfers by itself, but commits only with hf_xet and for half a minute;
# it retries neither a concurrent commit (409) nor the creation and lookup of a repository.
WORTH_ANOTHER_TRY = (408, 409, 429, 500, 502, 503, 504)
SERVER_TROUBLE = "the hub had a server error; rerun the command, uploaded files are not sent again"


def check_upload(repo: str) -> None:
    """Check before any work that an upload is possible.

    Args:
        repo: repository as owner/name.

    Raises:
        UploadError: there is no token, the name is not a repository's, or the hub is disabled by
            HF_HUB_OFFLINE.
    """
    from huggingface_hub import constants
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils._validators import validate_repo_id

    try:
        validate_repo_id(repo)
    except HFValidationError as error:
        raise UploadError(
            f"upload_to = {repo!r} is not a repository name: {one_line(str(error))}; use owner/name"
        ) from error
    if constants.HF_HUB_OFFLINE:
        raise UploadError(
            f"cannot upload to {repo}: HF_HUB_OFFLINE is set; unset it, or leave upload_to empty"
        )
    _token(repo)


def upload_model(
    folder: Path, repo: str, *, private: bool, waits: Sequence[float] = WAITS
) -> dict[str, Any]:
    """Upload every file of a folder in one commit, creating the repository if needed.

    Files already in the repository are not sent again, and no commit is made if it has all of them.
    Weights of an earlier upload that the folder lacks are removed. Temporary failures (a dropped
    connection, an error of the hub, a rate limit, a concurrent commit) are retried.

    Args:
        folder: folder of the saved model; hidden files are left out.
        repo: repository as owner/name.
        private: create it as private; an existing public repository is then rejected.
        waits: seconds before each further attempt, unless the hub requests more.

    Returns:
        The receipt: `repo`, `url`, `commit`, `files` (each with `path`, `bytes`, `sha256`) and
        `private`.

    Raises:
        UploadError: there is nothing to upload or no token, a file is not the recorded one, the
            hub rejects or interrupts it, or stores something else.
    """
    check_upload(repo)
    token = _token(repo)
    files = _files(folder)
    from huggingface_hub import HfApi

    api = HfApi(token=token)
    # Before the upload, during which another run may replace the files.
    receipts = [
        {"path": name, "bytes": path.stat().st_size, "sha256": sha256_of(path)}
        for name, path in files.items()
    ]
    hashes = {str(receipt["path"]): str(receipt["sha256"]) for receipt in receipts}
    require_recorded(folder, hashes)

    def attempt() -> "ModelInfo":
        head = _upload(api, folder, repo, private)
        require_stored(api, head, files, hashes)
        return head

    with _explaining(repo, token):
        head = _persistently(attempt, repo, waits)
    return {
        "repo": head.id,
        "url": hide_passwords(f"{api.endpoint}/{head.id}"),
        "commit": head.sha,
        "files": receipts,
        "private": bool(head.private),
    }


def _upload(api: "HfApi", folder: Path, repo: str, private: bool) -> "ModelInfo":
    """Make one attempt, resuming earlier ones; return the repository's final state."""
    created = api.create_repo(repo, private=private, repo_type="model", exist_ok=True)
    head = api.model_info(created.repo_id)
    if private and not head.private:
        raise UploadError(
            f"{repo} exists and is public, but upload_private is true; make it private on the "
            "hub, set upload_private=false, or choose another upload_to"
        )
    # It sends only changed files, and makes no empty commit.
    commit = api.upload_folder(
        repo_id=created.repo_id,
        folder_path=folder,
        commit_message=COMMIT_MESSAGE,
        ignore_patterns=list(HIDDEN),
        delete_patterns=list(WEIGHTS),
    )
    head.sha = commit.oid
    return head


def _persistently(
    attempt: "Callable[[], ModelInfo]", repo: str, waits: Sequence[float]
) -> "ModelInfo":
    """Return an attempt's result, retried after each wait while it fails temporarily."""
    for number, wait in enumerate(waits, start=1):
        try:
            return attempt()
        except Exception as error:
            reason = _passing(error)
            if reason is None:
                raise
            seconds = max(wait, _asked_to_wait(error))
            logger.warning(
                "Upload to %s interrupted (%s); attempt %d of %d in %.0f s",
                repo,
                reason,
                number + 1,
                len(waits) + 1,
                seconds,
            )
            time.sleep(seconds)
    return attempt()


def _passing(error: Exception) -> str | None:
    """Return why an error may be temporary, or None if it is not."""
    status = _status(error)
    if status is not None:
        return f"status {status}" if status in WORTH_ANOTHER_TRY else None
    return type(_origin(error)).__name__ if _lost_connection(error) else None


def _asked_to_wait(error: Exception) -> float:
    """Return the seconds in the hub's Retry-After header, if any; at most an hour."""
    response = getattr(_origin(error), "response", None)
    value = "" if response is None else str(response.headers.get("Retry-After", ""))
    return min(float(value), 3600.0) if value.isdigit() else 0.0


def _token(repo: str) -> str:
    from huggingface_hub import get_token

    token = get_token()
    if not token:
        raise UploadError(f"cannot upload to {repo} without a token; {LOGIN}")
    return token


def _files(folder: Path) -> dict[str, Path]:
    """Return the files to upload, by path in the repository."""
    from huggingface_hub.utils import filter_repo_objects  # type: ignore[attr-defined]

    try:
        found = saved_files(folder)
    except ExportError as error:
        raise UploadError(one_line(error)) from error
    names = filter_repo_objects(found, ignore_patterns=list(HIDDEN))
    files = {name: found[name] for name in names}
    if not files:
        raise UploadError(f"{folder} has no files to upload; save the model there first")
    return files


@contextmanager
def _explaining(repo: str, token: str) -> Iterator[None]:
    """Convert an error of the hub's client into a one-line message without the token."""
    try:
        yield
    except UploadError:
        raise
    except Exception as error:
        if _status(error) is not None:
            says = _refusal(_origin(error), token)
        elif _lost_connection(error):
            says = (
                f"the connection to the hub failed ({type(_origin(error)).__name__}); check the "
                "network and run the same command again"
            )
        elif isinstance(error, OSError | ValueError):
            says = f"{one_line(str(error).replace(token, '…'))}; fix it and run again"
        else:
            raise
        raise UploadError(f"cannot upload to {repo}: {says}") from error


def _origin(error: BaseException) -> BaseException:
    """Return the connection or hub error wrapped by another error, or the error itself.

    A failed upload of a large file is raised as a RuntimeError that only names the file.
    """
    from huggingface_hub.errors import HfHubHTTPError
    from huggingface_hub.utils import httpx  # type: ignore[attr-defined]  # httpx or httpx2

    kinds = (HfHubHTTPError, httpx.HTTPStatusError, httpx.TransportError, ConnectionError)
    found: BaseException | None = error
    while found is not None and not isinstance(found, kinds):
        found = found.__cause__
    return found or error


def _status(error: BaseException) -> int | None:
    """Return the status of the hub's response, if that caused the error."""
    response = getattr(_origin(error), "response", None)
    return None if response is None else int(response.status_code)


def _lost_connection(error: BaseException) -> bool:
    from huggingface_hub.utils import httpx  # type: ignore[attr-defined]  # httpx or httpx2

    return isinstance(_origin(error), httpx.TransportError | ConnectionError)


def _refusal(error: Any, token: str) -> str:
    status = error.response.status_code
    advice = ADVICE.get(
        status, SERVER_TROUBLE if status >= 500 else "read the message and fix the cause"
    )
    server = str(getattr(error, "server_message", None) or "").replace(token, "…").strip()
    return f"{advice} (status {status}{': ' + one_line(server) if server else ''})"
