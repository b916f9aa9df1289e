"""What the hub of the tests stores: repositories as lists of commits, and how files look there."""

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

TOKEN = "hf_token_of_the_tests"
LARGE_SUFFIXES = (".safetensors", ".parquet", ".bin")


@dataclass
class Repo:
    """A repository: files by path for every commit, newest last."""

    kind: str
    name: str
    private: bool = False
    gated: bool = False
    commits: list[tuple[str, dict[str, bytes]]] = field(default_factory=list)

    def commit(self, files: Mapping[str, bytes]) -> str:
        """Record a new state and return its commit id."""
        listing = repr((len(self.commits), sorted((p, _sha1(c)) for p, c in files.items())))
        sha = hashlib.sha1(f"{self.kind}/{self.name}/{listing}".encode()).hexdigest()
        self.commits.append((sha, dict(files)))
        return sha

    def at(self, revision: str) -> tuple[str, dict[str, bytes]]:
        """Commit id and files of a branch or commit."""
        if revision in ("main", "HEAD"):
            return self.commits[-1]
        for sha, files in self.commits:
            if sha == revision:
                return sha, files
        raise RefusedError(404, "Revision not found", "RevisionNotFound")


class RefusedError(Exception):
    """What the hub answers instead of what was asked for."""

    def __init__(
        self, status: int, message: str, code: str = "", headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(message)
        self.status, self.message, self.code = status, message, code
        self.headers = dict(headers or {})


class DroppedError(Exception):
    """The connection ends without an answer."""


@dataclass
class Fault:
    """What goes wrong with the next `times` requests that match.

    With a `status`, another answer than the right one. With `keep_bytes` the right answer starts,
    and the connection breaks after so many bytes. `drop` closes the connection without an answer:
    `before` the request is served, or `after`, when it had its effect.
    """

    method: str
    path: str
    status: int = 0
    message: str = "injected"
    times: int = 1
    keep_bytes: int | None = None
    drop: str = ""
    headers: dict[str, str] = field(default_factory=dict)


class Hub:
    """Repositories and large files, what was asked for, and what is to go wrong.

    Files in `spoiled` are stored with other contents than those that were sent.
    """

    def __init__(self) -> None:
        self.repos: dict[tuple[str, str], Repo] = {}
        self.large_files: dict[str, bytes] = {}
        self.faults: list[Fault] = []
        self.requests: list[str] = []
        self.spoiled: set[str] = set()
        self.bytes_sent = 0

    def add(
        self,
        kind: str,
        name: str,
        files: Mapping[str, bytes],
        *,
        private: bool = False,
        gated: bool = False,
    ) -> str:
        """Add a commit to a model or dataset, creating it; returns the commit id."""
        repo = self.repos.setdefault((kind, name), Repo(kind, name, private, gated))
        for path, content in files.items():
            if is_large(path):
                self.large_files[sha256(content)] = content
        return repo.commit(files)

    def asked(self, pattern: str) -> list[str]:
        """The requests so far, `METHOD /path`, that match a pattern."""
        return [line for line in self.requests if re.search(pattern, line)]


def is_large(path: str) -> bool:
    return path.endswith(LARGE_SUFFIXES)


def _sha1(content: bytes) -> str:
    return hashlib.sha1(content).hexdigest()


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def blob_hash(content: bytes) -> str:
    """The hash by which git knows a file."""
    return _sha1(b"blob %d\0" % len(content) + content)


def _large(content: bytes, key: str) -> dict[str, Any]:
    return {key: sha256(content), "size": len(content), "pointerSize": 130}


def sibling(path: str, content: bytes) -> dict[str, Any]:
    about = {"rfilename": path, "size": len(content), "blobId": blob_hash(content)}
    return {**about, "lfs": _large(content, "sha256")} if is_large(path) else about


def entry(path: str, content: bytes) -> dict[str, Any]:
    about = {"type": "file", "path": path, "size": len(content), "oid": blob_hash(content)}
    return {**about, "lfs": _large(content, "oid")} if is_large(path) else about
