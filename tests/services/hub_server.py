"""A small model hub on a loopback port, for the unmodified client libraries.

It keeps models and datasets in memory as lists of commits and speaks what `huggingface_hub` and
`datasets` ask: repository information, trees, files with ranges, large files by redirect to
another origin, creation, and commits with large files. It counts what it sends and receives, and
can be told to fail. Start it with `with HubServer() as hub:` and give clients `hub.environment`.
"""

import base64
import json
import threading
from http.server import ThreadingHTTPServer
from pathlib import Path
from typing import Any, Self
from urllib.parse import parse_qs

from services.hub_http import Request, Route
from services.hub_repos import (
    TOKEN,
    Hub,
    RefusedError,
    Repo,
    blob_hash,
    entry,
    is_large,
    sha256,
    sibling,
)

OWNER = "tester"
DATE = "2025-01-01T00:00:00.000Z"


class Handler(Request):
    """The hub's endpoints."""

    hub: "HubServer"

    def _repo(self, kind: str, name: str) -> Repo:
        repo = self.hub.repos.get((kind, name))
        known = "Authorization" in self.headers
        if repo is None or (repo.private and not known):
            raise RefusedError(404 if known else 401, "Repository not found", "RepoNotFound")
        return repo

    def _owned_by_sender(self, owner: str) -> None:
        if "Authorization" not in self.headers:
            raise RefusedError(401, "Invalid username or password.")
        if owner != OWNER:
            raise RefusedError(403, f"You don't have the rights to write under {owner}")

    # Reading

    def whoami(self) -> None:
        self._owned_by_sender(OWNER)
        self._json({"type": "user", "name": OWNER, "auth": {"type": "access_token"}})

    def info(self, kind: str, name: str, revision: str | None = None) -> None:
        repo = self._repo(kind, name)
        sha, files = repo.at(revision or "main")
        self._json(
            {
                "id": name,
                "sha": sha,
                "private": repo.private,
                "gated": repo.gated,
                "lastModified": DATE,
                "tags": [],
                "siblings": [sibling(path, content) for path, content in files.items()],
            }
        )

    def tree(self, kind: str, name: str, revision: str, folder: str | None = None) -> None:
        _, files = self._repo(kind, name).at(revision)
        start = f"{folder.strip('/')}/" if folder and folder.strip("/") else ""
        inside = {path: content for path, content in files.items() if path.startswith(start)}
        if start and not inside:
            raise RefusedError(404, "Entry not found", "EntryNotFound")
        deep = self.query.get("recursive", ["false"])[0].lower() in ("true", "1")
        entries: dict[str, dict[str, Any]] = {}
        for path, content in sorted(inside.items()):
            below = path[len(start) :].split("/")
            for depth in range(1, len(below) if deep else min(len(below), 2)):
                parent = start + "/".join(below[:depth])
                entries[parent] = {"type": "directory", "path": parent, "oid": "0" * 40, "size": 0}
            if deep or len(below) == 1:
                entries[path] = entry(path, content)
        self._json(list(entries.values()))

    def paths(self, kind: str, name: str, revision: str) -> None:
        _, files = self._repo(kind, name).at(revision)
        sent = self.content.decode()
        asked = json.loads(sent)["paths"] if sent.startswith("{") else parse_qs(sent)["paths"]
        self._json([entry(path, files[path]) for path in asked if path in files])

    def refs(self, kind: str, name: str) -> None:
        sha = self._repo(kind, name).at("main")[0]
        head = {"name": "main", "ref": "refs/heads/main", "targetCommit": sha}
        self._json({"branches": [head], "converts": [], "tags": []})

    def file(self, name: str, revision: str, path: str, datasets: str | None = None) -> None:
        repo = self._repo("dataset" if datasets else "model", name)
        if repo.gated:
            status = 403 if "Authorization" in self.headers else 401
            raise RefusedError(status, "Access is restricted; ask for access", "GatedRepo")
        sha, files = repo.at(revision)
        if path not in files:
            self._answer(404, X_Error_Code="EntryNotFound", X_Repo_Commit=sha)
            return
        content = files[path]
        if not is_large(path):
            self._content(content, ETag=f'"{blob_hash(content)}"', X_Repo_Commit=sha)
            return
        # Another origin, as a content network is: clients keep the headers of the redirect then.
        oid = sha256(content)
        self._answer(
            302,
            Location=f"http://localhost:{self.hub.port}/large/{oid}",
            X_Linked_Etag=f'"{oid}"',
            X_Linked_Size=str(len(content)),
            X_Repo_Commit=sha,
        )

    def large_file(self, oid: str) -> None:
        if oid not in self.hub.large_files:
            raise RefusedError(404, "no such object")
        self._content(self.hub.large_files[oid], ETag=f'"{oid}"')

    # Writing

    def create(self) -> None:
        asked = json.loads(self.content)
        owner = asked.get("organization") or OWNER
        kind, name = asked.get("type", "model"), f"{owner}/{asked['name']}"
        self._owned_by_sender(owner)
        if (kind, name) in self.hub.repos:
            body = {"error": "You already created this repo", "url": f"{self.hub.url}/{name}"}
            self._answer(409, json.dumps(body).encode(), Content_Type="application/json")
            return
        private = asked.get("visibility") == "private" or asked.get("private") is True
        self.hub.add(kind, name, {".gitattributes": b"*.safetensors filter=lfs\n"}, private=private)
        self._json({"url": f"{self.hub.url}/{name}", "id": name, "name": name})

    def validate_card(self) -> None:
        self._json({"errors": [], "warnings": []})

    def preupload(self, kind: str, name: str, revision: str) -> None:
        self._owned_by_sender(name.split("/")[0])
        _, files = self._repo(kind, name).at(revision)
        answers = []
        for item in json.loads(self.content)["files"]:
            path, mode = item["path"], "lfs" if is_large(item["path"]) else "regular"
            answer = {"path": path, "uploadMode": mode, "shouldIgnore": False}
            if path in files:
                answer["oid"] = sha256(files[path]) if mode == "lfs" else blob_hash(files[path])
            answers.append(answer)
        self._json({"files": answers})

    def batch(self, name: str, datasets: str | None = None) -> None:
        self._owned_by_sender(name.split("/")[0])
        self._repo("dataset" if datasets else "model", name)
        objects = []
        for item in json.loads(self.content)["objects"]:
            answer = {"oid": item["oid"], "size": item["size"]}
            if item["oid"] not in self.hub.large_files:
                answer["actions"] = {
                    "upload": {"href": f"{self.hub.url}/large/{item['oid']}"},
                    "verify": {"href": f"{self.hub.url}/verify/{item['oid']}"},
                }
            objects.append(answer)
        self._json({"transfer": "basic", "objects": objects})

    def put_large_file(self, oid: str) -> None:
        if sha256(self.content) != oid:
            raise RefusedError(400, "content does not match its hash")
        self.hub.large_files[oid] = self.content
        self._answer(200)

    def verify(self, oid: str) -> None:
        if oid not in self.hub.large_files:
            raise RefusedError(404, "object was not received")
        self._json({})

    def commit(self, kind: str, name: str, revision: str) -> None:
        self._owned_by_sender(name.split("/")[0])
        repo = self._repo(kind, name)
        files = dict(repo.at(revision)[1])
        for line in self.content.splitlines():
            operation = json.loads(line)
            key, value = operation["key"], operation["value"]
            if key == "file":
                content = base64.b64decode(value["content"])
                files[value["path"]] = b"x" if value["path"] in self.hub.spoiled else content
            elif key == "lfsFile":
                if value["oid"] not in self.hub.large_files:
                    raise RefusedError(400, f"{value['path']} was not uploaded")
                files[value["path"]] = self.hub.large_files[value["oid"]]
            elif key == "deletedFile":
                files.pop(value["path"], None)
        sha = repo.commit(files)
        url = f"{self.hub.url}/{name}/commit/{sha}"
        self._json({"success": True, "commitOid": sha, "commitUrl": url})


_NAME = r"(?P<name>[\w.-]+/[\w.-]+)"
_REPO = rf"/api/(?P<kind>model|dataset)s/{_NAME}"
_REVISION = r"(?P<revision>[^/]+)"
ROUTES: tuple[Route, ...] = (
    ("GET", "/api/whoami-v2", Handler.whoami),
    ("POST", "/api/repos/create", Handler.create),
    ("POST", "/api/validate-yaml", Handler.validate_card),
    ("GET", _REPO, Handler.info),
    ("GET", rf"{_REPO}/revision/{_REVISION}", Handler.info),
    ("GET", rf"{_REPO}/tree/{_REVISION}(?P<folder>/.*)?", Handler.tree),
    ("POST", rf"{_REPO}/paths-info/{_REVISION}", Handler.paths),
    ("GET", rf"{_REPO}/refs", Handler.refs),
    ("POST", rf"{_REPO}/preupload/{_REVISION}", Handler.preupload),
    ("POST", rf"{_REPO}/commit/{_REVISION}", Handler.commit),
    ("POST", rf"/(?P<datasets>datasets/)?{_NAME}\.git/info/lfs/objects/batch", Handler.batch),
    ("GET", rf"/(?P<datasets>datasets/)?{_NAME}/resolve/{_REVISION}/(?P<path>.+)", Handler.file),
    ("GET", r"/large/(?P<oid>\w+)", Handler.large_file),
    ("PUT", r"/large/(?P<oid>\w+)", Handler.put_large_file),
    ("POST", r"/verify/(?P<oid>\w+)", Handler.verify),
)


class HubServer(Hub):
    """The hub behind a port; a context manager."""

    def __init__(self) -> None:
        super().__init__()
        self._server = ThreadingHTTPServer(
            ("127.0.0.1", 0), type("H", (Handler,), {"hub": self, "routes": ROUTES})
        )
        self._server.daemon_threads = True
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(0.02,), daemon=True
        )

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    @property
    def port(self) -> int:
        """The port it listens on."""
        return int(self._server.server_address[1])

    @property
    def url(self) -> str:
        """What HF_ENDPOINT is to be."""
        return f"http://127.0.0.1:{self.port}"

    def environment(self, home: Path, token: str | None = TOKEN) -> dict[str, str]:
        """Variables that make a client process use this hub and nothing else."""
        chosen = {"HF_TOKEN": token} if token else {"HF_HUB_DISABLE_IMPLICIT_TOKEN": "1"}
        return {
            **chosen,
            "HF_ENDPOINT": self.url,
            "HF_HOME": str(home),
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        }
