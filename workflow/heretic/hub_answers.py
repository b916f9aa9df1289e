"""Validation of a hub's responses before a client library acts on them.

`huggingface_hub` derives names of cache files from a response's ETag, commit and file names, and
waits and writes for as long as a server demands. A mirror, a proxy or a login page is not always a
hub, so `heretic.hub_session` first checks each response with these functions.
"""

import json
import re
from collections.abc import Mapping, MutableMapping
from pathlib import PurePosixPath
from typing import Any

from heretic.errors import one_line

HASH = re.compile(r"[0-9a-f]{40,64}")
COMMIT = re.compile(r"[0-9a-f]{40}")
MEGABYTE = 1_000_000
# For API bodies and those of unknown length: a listing of 100,000 files takes about 30 MB.
UNANNOUNCED_BYTES = 64 * MEGABYTE
ERROR_BYTES = MEGABYTE
# By file name suffix. The largest public tokenizers take 40 MB.
FILE_BYTES = {
    "config.json": 16 * MEGABYTE,
    "README.md": 4 * MEGABYTE,
    ".jinja": 4 * MEGABYTE,
    ".yaml": 4 * MEGABYTE,
    "tokenizer.json": 256 * MEGABYTE,
    "index.json": 256 * MEGABYTE,
}
REPOSITORY = re.compile(r"/api/(models|datasets|spaces)/[^/]+(/[^/]+)?(/revision/[^/]+)?")
LISTING = re.compile(r"/api/(models|datasets|spaces)/.+/(tree|paths-info)/.+")


class HubAnswerError(OSError):
    """An unsafe response of a hub; an OSError, like other transfer errors."""


def check_headers(method: str, path: str, status: int, headers: MutableMapping[str, str]) -> None:
    """Reject identifiers that would name files outside the hub cache.

    Args:
        method: method of the request.
        path: path of the requested URL.
        status: status of the response.
        headers: headers of the response; an ETag that no client needs is removed.

    Raises:
        HubAnswerError: the commit, the ETag or the Xet hash is not a plain hash.
    """
    _require(COMMIT, headers.get("X-Repo-Commit"), "commit", path)
    _require(HASH, headers.get("X-Xet-Hash"), "hash", path)
    linked = headers.get("X-Linked-Etag")
    if method == "HEAD" and 300 <= status < 400 and linked is None:
        # A renamed repository: the redirect's own ETag is unrelated to the file.
        headers.pop("ETag", None)
    if method == "HEAD" and status < 400:
        _require(HASH, _bare(linked or headers.get("ETag")), "ETag", path)


def check_body(method: str, path: str, body: bytes) -> None:
    """Reject an API response that does not match its URL.

    Args:
        method: method of the request.
        path: path of the requested URL.
        body: body of a successful response.

    Raises:
        HubAnswerError: the body is not JSON, has another form, or contains a commit, hash or file
            name that would lead outside the hub cache.
    """
    is_listing = LISTING.fullmatch(path) is not None
    if not is_listing and (method != "GET" or not REPOSITORY.fullmatch(path)):
        return
    try:
        found = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise HubAnswerError(
            f"it answers {path} with {_kind(body)} instead of JSON; is a proxy or a login page "
            "answering instead?"
        ) from error
    if is_listing:
        _check_listing(found, path)
    else:
        _check_repository(found, path)


def most_bytes(path: str, status: int, announced: int | None) -> int:
    """Return the maximum accepted size of a body.

    Args:
        path: path of the requested URL.
        status: status of the response.
        announced: length of the body or file, if announced by the hub.
    """
    if status >= 400:
        return ERROR_BYTES
    if path.startswith("/api/"):
        return UNANNOUNCED_BYTES
    kinds = [limit for end, limit in FILE_BYTES.items() if path.endswith(end)]
    known = UNANNOUNCED_BYTES if announced is None else announced
    return min([known, *kinds])


def length_of(headers: Mapping[str, str], *names: str) -> int | None:
    """Return the first of the named headers that is a length in bytes."""
    texts = (headers.get(name, "") for name in names)
    return next((int(text) for text in texts if re.fullmatch(r"\d{1,18}", text)), None)


def _check_repository(found: Any, path: str) -> None:
    if not isinstance(found, dict):
        raise HubAnswerError(f"it answers {path} with {_json_kind(found)} instead of an object")
    if "sha" in found:
        _require(COMMIT, found["sha"], "commit", path)
    siblings = found.get("siblings") or []
    for file in siblings if isinstance(siblings, list) else [siblings]:
        if not isinstance(file, dict) or "rfilename" not in file:
            raise HubAnswerError(f"it answers {path} with a list of files without names")
        _check_file(file["rfilename"], file.get("blobId"), file, path)


def _check_listing(found: Any, path: str) -> None:
    if not isinstance(found, list):
        raise HubAnswerError(f"it answers {path} with {_json_kind(found)} instead of a list")
    for file in found:
        if not isinstance(file, dict) or "path" not in file:
            raise HubAnswerError(f"it answers {path} with a list of files without names")
        _check_file(file["path"], file.get("oid"), file, path)


def _check_file(name: object, blob: object, file: Mapping[str, Any], path: str) -> None:
    if not _is_inside(name):
        raise HubAnswerError(f"it names a file {one_line(repr(name), 80)}, outside the repository")
    _require(HASH, blob, "hash", path)
    _require(HASH, file.get("xetHash"), "hash", path)
    large = file.get("lfs")
    if large is not None:
        if not isinstance(large, dict):
            raise HubAnswerError(f"it answers {path} with a large file without a hash")
        _require(HASH, large.get("oid"), "hash", path)
        _require(HASH, large.get("sha256"), "hash", path)


def _is_inside(name: object) -> bool:
    """Return whether a name is a relative path inside its folder, on every system."""
    if not isinstance(name, str) or not name or "\\" in name or "\0" in name:
        return False
    parts = PurePosixPath(name).parts
    return not name.startswith("/") and ".." not in parts and bool(parts)


def _require(pattern: re.Pattern[str], value: object, what: str, path: str) -> None:
    if value is None or (isinstance(value, str) and pattern.fullmatch(value)):
        return
    raise HubAnswerError(f"its answer for {path} has the {what} {one_line(repr(value), 80)}")


def _bare(etag: str | None) -> str | None:
    return None if etag is None else etag.removeprefix("W/").strip('"')


def _kind(body: bytes) -> str:
    return "a web page" if body.lstrip()[:1] == b"<" else "something"


def _json_kind(value: object) -> str:
    return "null" if value is None else f"a {type(value).__name__}"
