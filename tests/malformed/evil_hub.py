"""A hub that misbehaves, on a loopback port of the process that asks it.

It runs in daemon threads and bounds each body by bytes and time, so that it ends with its process
and never fills a disk.
"""

import json
import re
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import datasets.config
from datasets.utils.logging import disable_progress_bar
from huggingface_hub import HfFileSystem, constants, hf_api
from huggingface_hub.utils.tqdm import disable_progress_bars
from services.hub_repos import blob_hash, is_large, sha256

COMMIT = "c" * 40
MOST_BYTES = 400_000_000
MOST_SECONDS = 60.0
CHUNK = b" " * 65536


class Answer:
    """One answer, as a hub that behaves would give it; a case changes it before it is sent.

    Attributes:
        path: what was asked for.
        is_head: whether only headers were asked for.
        status: HTTP status.
        headers: by name.
        body: bytes, or an iterator of them for a body without a length.
        cut: how many bytes of the body to send before the connection ends; None for all.
        delay: seconds of silence before the answer.
        slow_headers: whether headers arrive byte by byte.
    """

    def __init__(self, path: str, *, is_head: bool) -> None:
        self.path, self.is_head = path, is_head
        self.status = 200
        self.headers: dict[str, str] = {}
        self.body: bytes | Iterator[bytes] = b""
        self.cut: int | None = None
        self.delay = 0.0
        self.slow_headers = False

    @property
    def is_api(self) -> bool:
        """Whether it describes a repository."""
        return self.path.startswith("/api/")

    def json(self, value: Any) -> None:
        """Answer with JSON."""
        self.body = value if isinstance(value, bytes) else json.dumps(value).encode()
        self.headers["Content-Type"] = "application/json"


Change = Callable[[Answer], None]


def endless(*, every: float = 0.0, chunk: bytes = CHUNK) -> Iterator[bytes]:
    """A body that goes on until a bound of this module."""
    started, sent = time.monotonic(), 0
    while time.monotonic() - started < MOST_SECONDS and sent < MOST_BYTES:
        yield chunk
        sent += len(chunk)
        time.sleep(every)


@contextmanager
def evil_hub(folder: Path, files: Mapping[str, bytes], change: Change) -> Iterator[None]:
    """Serve `files` as every repository there is, each answer changed by `change`.

    `huggingface_hub` reads its variables when it is imported, which the server of the corpus has
    done: its constants are set here.
    """
    handler = type("H", (_Handler,), {"files": dict(files), "change": staticmethod(change)})
    server = _Server(("127.0.0.1", 0), handler)
    Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    url = f"http://127.0.0.1:{server.server_address[1]}"
    home = folder / "hf_home"
    set_endpoint(url, home)
    disable_progress_bars()
    disable_progress_bar()
    datasets.config.HF_DATASETS_CACHE = home / "datasets"
    HfFileSystem.clear_instance_cache()
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()


def set_endpoint(url: str, home: Path) -> None:
    """Make the libraries that are imported already use a hub and a cache."""
    templates = "{endpoint}/{repo_id}/resolve/{revision}/{filename}"
    constants.ENDPOINT = url
    constants.HUGGINGFACE_CO_URL_TEMPLATE = templates.replace("{endpoint}", url)
    constants.HF_HUB_CACHE = str(home / "hub")
    constants.HF_HUB_DISABLE_IMPLICIT_TOKEN = True
    hf_api.api.endpoint = url
    datasets.config.HF_ENDPOINT = url
    datasets.config.HUB_DATASETS_URL = f"{url}/datasets/{{repo_id}}/resolve/{{revision}}/{{path}}"


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Stay silent: a case that ends a connection raises."""


class _Handler(BaseHTTPRequestHandler):
    files: Mapping[str, bytes]
    change: Change
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: object) -> None:
        """Stay silent."""

    def do_GET(self) -> None:  # name of the base class
        """Answer a request."""
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        path = self.path.partition("?")[0]
        answer = Answer(path, is_head=self.command == "HEAD")
        self._as_it_should_be(answer)
        type(self).change(answer)
        try:
            self._send(answer)
        except OSError:
            self.close_connection = True

    do_HEAD = do_POST = do_GET  # noqa: N815  # names of the base class

    def _as_it_should_be(self, answer: Answer) -> None:
        name = answer.path.partition("/resolve/")[2]
        if answer.is_api and re.search("/(tree|paths-info)/", answer.path):
            answer.json([_entry(path, content) for path, content in self.files.items()])
        elif answer.is_api:
            listed = [{"rfilename": path, "size": len(self.files[path])} for path in self.files]
            answer.json({"id": "o/m", "sha": COMMIT, "siblings": listed, "tags": []})
        elif name and name.partition("/")[2] in self.files:
            content = self.files[name.partition("/")[2]]
            answer.body = content
            answer.headers |= {"ETag": f'"{blob_hash(content)}"', "X-Repo-Commit": COMMIT}
        else:
            answer.status = 404
            answer.headers |= {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": COMMIT}

    def _send(self, answer: Answer) -> None:
        time.sleep(answer.delay)
        body = answer.body
        headers = dict(answer.headers)
        if isinstance(body, bytes):
            headers.setdefault("Content-Length", str(len(body)))
        elif "Content-Length" not in headers:
            headers["Transfer-Encoding"] = "chunked"
        lines = [f"HTTP/1.1 {answer.status} Whatever"]
        lines += [f"{name}: {value}" for name, value in headers.items()]
        head = ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1", "replace")
        if answer.slow_headers:
            for byte in endless(every=0.5, chunk=b"X"):
                self.wfile.write(head[:20] + byte if byte else b"")
                self.wfile.flush()
        self.wfile.write(head)
        if answer.is_head:
            return
        if isinstance(body, bytes):
            self.wfile.write(body[: answer.cut])
            self.close_connection |= answer.cut is not None
            return
        for chunk in body:
            framed = b"%x\r\n%s\r\n" % (len(chunk), chunk)
            self.wfile.write(framed if "Transfer-Encoding" in headers else chunk)
            self.wfile.flush()
        self.close_connection = True


def _entry(path: str, content: bytes) -> dict[str, Any]:
    about: dict[str, Any] = {"type": "file", "path": path, "size": len(content)}
    about["oid"] = blob_hash(content)
    if is_large(path):
        about["lfs"] = {"oid": sha256(content), "size": len(content), "pointerSize": 130}
    return about
