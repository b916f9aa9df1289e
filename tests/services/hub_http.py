"""The plumbing of the tests' hub: one HTTP request, its token, its faults and its answer."""

import json
import re
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler
from socket import SHUT_RDWR
from typing import Any, ClassVar
from urllib.parse import parse_qs, unquote, urlsplit

from services.hub_repos import TOKEN, DroppedError, Hub, RefusedError

Route = tuple[str, str, Callable[..., None]]


class Request(BaseHTTPRequestHandler):
    """One request; `routes` say which method answers it."""

    routes: ClassVar[tuple[Route, ...]]
    hub: Hub
    protocol_version = "HTTP/1.1"
    # Headers and body in one packet: sent apart, each answer waits 40 ms for an acknowledgement.
    wbufsize = -1

    def log_message(self, format: str, *args: object) -> None:
        """Stay silent: the hub's `requests` hold what was asked."""

    def _serve(self) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        self.content = self.rfile.read(length)
        url = urlsplit(self.path)
        self.query, path = parse_qs(url.query), unquote(url.path)
        self.hub.requests.append(f"{self.command} {path}")
        self.keep_bytes: int | None = None
        self.dropped = False
        method = "GET" if self.command == "HEAD" else self.command
        try:
            self._inject_fault(path)
            self._check_token()
            for verb, pattern, answer in self.routes:
                match = re.fullmatch(pattern, path)
                if match and verb == method:
                    return answer(self, **match.groupdict())
            raise RefusedError(404, f"no route {path}", "EntryNotFound")
        except RefusedError as refused:
            return self._refuse(refused)
        except DroppedError:
            self.close_connection = True
            self.connection.shutdown(SHUT_RDWR)
            return None

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = _serve  # noqa: N815 (names of the base class)

    def _inject_fault(self, path: str) -> None:
        for fault in self.hub.faults:
            if fault.times > 0 and fault.method == self.command and re.search(fault.path, path):
                fault.times -= 1
                self.keep_bytes = fault.keep_bytes
                self.dropped = fault.drop == "after"
                if fault.drop == "before":
                    raise DroppedError
                if fault.status:
                    raise RefusedError(fault.status, fault.message, headers=fault.headers)

    def _check_token(self) -> None:
        sent = self.headers.get("Authorization")
        if sent is not None and sent != f"Bearer {TOKEN}":
            raise RefusedError(401, "Invalid credentials in Authorization header")

    def _answer(self, status: int, content: bytes = b"", **headers: str) -> None:
        if self.dropped:
            raise DroppedError
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            sent = content[: self.keep_bytes]
            self.hub.bytes_sent += len(sent)
            self.wfile.write(sent)
            self.close_connection |= len(sent) < len(content)

    def _json(self, value: Any, **headers: str) -> None:
        self._answer(200, json.dumps(value).encode(), Content_Type="application/json", **headers)

    def _refuse(self, refused: RefusedError) -> None:
        headers = {"X-Error-Message": refused.message, "Content-Type": "application/json"}
        headers |= refused.headers
        if refused.code:
            headers["X-Error-Code"] = refused.code
        body = json.dumps({"error": refused.message}).encode()
        self._answer(refused.status, body, **headers)

    def _content(self, content: bytes, **headers: str) -> None:
        headers["Accept_Ranges"] = "bytes"
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range") or "")
        if asked is None:
            self._answer(200, content, **headers)
            return
        start, last = int(asked[1]), min(int(asked[2] or len(content)), len(content) - 1)
        if start > last:
            raise RefusedError(416, "range not satisfiable")
        headers["Content_Range"] = f"bytes {start}-{last}/{len(content)}"
        self._answer(206, content[start : last + 1], **headers)
