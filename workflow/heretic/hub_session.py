"""Downloads through `huggingface_hub` and `datasets` within limits of size, time and trust.

Both libraries send every request through one client, which `hub_session` temporarily replaces.
Import this module only where it is used: it imports `huggingface_hub`.
"""

import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import copy_context
from dataclasses import dataclass, field
from typing import Any, TypeVar

from huggingface_hub import set_client_factory
from huggingface_hub.errors import OfflineModeIsEnabled
from huggingface_hub.utils import _http, httpx  # type: ignore[attr-defined]  # httpx or httpx2

from heretic.console import log
from heretic.hub_answers import (
    HubAnswerError,
    check_body,
    check_headers,
    length_of,
    most_bytes,
)

# For a lookup before any work: enough for a slow connection and one retry.
LOOKUP_SECONDS = 15.0
LOOKUP_FAILURES = 3
# As in huggingface_hub.
WORTH_ANOTHER_TRY = (408, 429, 500, 502, 503, 504)
CONNECT_SECONDS = 6.0
READ_SECONDS = 10.0
# A download is aborted if it receives fewer bytes than the minimum within a span of this length.
SPAN_SECONDS = 10.0
SPAN_BYTES = 1000
# The hub counts requests in spans of 5 minutes.
MOST_WAIT_SECONDS = 300
MOST_REDIRECTS = 10
XET_HASH = "X-Xet-Hash"
T = TypeVar("T")


@dataclass
class HubState:
    """Observed state of the hub.

    Attributes:
        answered: whether it has answered a request.
        failures: number of requests that it left unanswered or answered with an error of its own.
        announced: sizes of files in bytes by URL, as first announced.
        abandoned: whether a lookup took too long and is still running in its thread.
    """

    answered: bool = False
    failures: int = 0
    abandoned: bool = False
    announced: dict[str, int] = field(default_factory=dict)

    @property
    def away(self) -> bool:
        """Return whether requests failed and none was answered."""
        return self.failures > 0 and not self.answered


@contextmanager
def hub_session(
    state: HubState | None = None, *, most_failures: int | None = None
) -> Iterator[None]:
    """Send all requests to the hub through a client that checks and limits the responses.

    Args:
        state: state of an earlier session; if the hub was unreachable then, nothing is requested,
            so that the libraries read their caches immediately.
        most_failures: number of failures after which no further requests are sent; None leaves
            retries to the libraries.
    """
    before = _http._GLOBAL_CLIENT_FACTORY
    known = state or HubState()
    most = 0 if known.away else most_failures
    set_client_factory(lambda: _Client(known, most))
    try:
        yield
    finally:
        # Further requests of an abandoned lookup must be checked as well.
        set_client_factory((lambda: _Client(HubState(), None)) if known.abandoned else before)


def lookup(
    call: Callable[[], T], state: HubState | None = None, *, seconds: float = LOOKUP_SECONDS
) -> T:
    """Return the result of a short request to the hub, without retries that take minutes.

    The call runs in its own thread, since neither name resolution nor headers that arrive byte by
    byte have a time limit.

    Args:
        call: makes the request.
        state: updated with the hub's behavior.
        seconds: time limit.

    Raises:
        TimeoutError: the call takes longer than `seconds`.
        Exception: any exception of the call.
    """
    known = state or HubState()
    result: list[T] = []
    errors: list[BaseException] = []

    def run() -> None:
        try:
            result.append(call())
        except BaseException as error:
            errors.append(error)

    with hub_session(known, most_failures=LOOKUP_FAILURES), quiet("huggingface_hub"):
        thread = threading.Thread(target=copy_context().run, args=(run,), daemon=True)
        thread.start()
        thread.join(seconds)
        known.abandoned = thread.is_alive()
    if errors:
        raise errors[0]
    if not result:
        known.failures += 1
        raise TimeoutError(f"no complete answer within {seconds:.0f} s")
    return result[0]


@contextmanager
def quiet(*libraries: str) -> Iterator[None]:
    """Suppress libraries' log lines about a failure: the error itself is reported."""
    loggers = [logging.getLogger(name) for name in libraries]
    levels = [each.level for each in loggers]
    for each in loggers:
        each.setLevel(logging.CRITICAL + 1)
    try:
        yield
    finally:
        for each, level in zip(loggers, levels, strict=True):
            each.setLevel(level)


class _Client(httpx.Client):
    """The library's own client with limits.

    Args:
        state: updated with the hub's behavior.
        most_failures: number of failures after which nothing is sent; None for no limit.
    """

    def __init__(self, state: HubState, most_failures: int | None) -> None:
        hooks: dict[str, Any] = {
            "request": [_http.hf_request_event_hook],
            "response": [self._check_answer],
        }
        super().__init__(event_hooks=hooks, follow_redirects=True, max_redirects=MOST_REDIRECTS)
        self._hub, self._most_hub_failures = state, most_failures

    def send(self, request: Any, **options: Any) -> Any:
        """Send a request, with time limits and without compression, which hides sizes."""
        if self._most_hub_failures is not None and self._hub.failures >= self._most_hub_failures:
            raise OfflineModeIsEnabled("the hub is unreachable")
        if request.method in ("GET", "HEAD"):
            request.headers["Accept-Encoding"] = "identity"
        asked = request.extensions.get("timeout", {})
        request.extensions["timeout"] = {
            "connect": _lower(asked.get("connect"), CONNECT_SECONDS),
            "read": _lower(asked.get("read"), READ_SECONDS if _is_read(request) else None),
            "write": asked.get("write"),
            "pool": asked.get("pool"),
        }
        try:
            return super().send(request, **options)
        except httpx.TooManyRedirects as error:
            raise HubAnswerError(f"it redirects {request.url.path} endlessly") from error
        except (httpx.InvalidURL, httpx.UnsupportedProtocol) as error:
            raise HubAnswerError(f"it redirects {request.url.path} without an address") from error
        except httpx.TransportError:
            self._hub.failures += 1
            raise

    def _check_answer(self, response: Any) -> None:
        """Check a response's headers, and its body if it is small; limit the body."""
        request, headers, status = response.request, response.headers, response.status_code
        path = request.url.path
        # The Xet client would fetch the file from any address, without these limits.
        headers.pop(XET_HASH, None)
        if status in WORTH_ANOTHER_TRY:
            self._hub.failures += 1
        else:
            self._hub.answered = True
        check_headers(request.method, path, status, headers)
        _limit_wait(status, headers)
        announced = self._announced_size(request, response)
        limit = most_bytes(path, status, announced)
        if _is_read(request):
            if headers.get("Content-Encoding", "identity") != "identity":
                raise HubAnswerError(f"it compresses {path} despite a request for no compression")
            if announced is not None and announced > limit:
                raise HubAnswerError(f"{path} has {announced} bytes, at most {limit} are accepted")
            response.stream = _LimitedStream(response.stream, limit, path)
        if status == httpx.codes.OK and path.startswith("/api/") and request.method != "HEAD":
            check_body(request.method, path, response.read())

    def _announced_size(self, request: Any, response: Any) -> int | None:
        """Return the first announced size of the file, or else of the body."""
        url = str(request.url)
        found = length_of(response.headers, "X-Linked-Size")
        if found is None and not response.is_redirect:
            found = length_of(response.headers, "Content-Length")
        if request.method == "HEAD" and response.status_code < 400 and found is not None:
            target = response.headers.get("Location")
            self._hub.announced[str(request.url.join(target)) if target else url] = found
        return self._hub.announced.get(url, found)


class _LimitedStream(httpx.SyncByteStream):
    """A body that raises an error when it becomes too long or too slow."""

    def __init__(self, stream: Any, most: int, path: str) -> None:
        self._stream, self._most, self._path = stream, most, path

    def __iter__(self) -> Iterator[bytes]:
        total = in_span = 0
        waited = 0.0
        chunks = iter(self._stream)
        while True:
            started = time.monotonic()
            chunk = next(chunks, None)
            # Only waiting counts, since the consumer of the body may take time as well.
            waited += time.monotonic() - started
            if chunk is None:
                return
            total, in_span = total + len(chunk), in_span + len(chunk)
            if total > self._most:
                raise HubAnswerError(f"{self._path} exceeds {self._most} bytes")
            if waited > SPAN_SECONDS:
                if in_span < SPAN_BYTES:
                    raise HubAnswerError(
                        f"{self._path} arrives at less than {SPAN_BYTES / SPAN_SECONDS:.0f} bytes "
                        "a second"
                    )
                waited, in_span = 0.0, 0
            yield chunk

    def close(self) -> None:
        """Close the connection's side."""
        self._stream.close()


def _limit_wait(status: int, headers: Any) -> None:
    """Reject long waits; the library waits for as long as requested."""
    wait = length_of(headers, "Retry-After")
    limits = _http.parse_ratelimit_headers(headers)
    if limits is not None and limits.remaining == 0:
        wait = limits.reset_in_seconds
    if status < 400 or wait is None:
        return
    if wait > MOST_WAIT_SECONDS:
        raise HubAnswerError(f"it asks to wait for {wait} s before the next request")
    log.info("The hub asks to wait for %d s", wait)


def _is_read(request: Any) -> bool:
    return bool(request.method in ("GET", "HEAD"))


def _lower(asked: float | None, limit: float | None) -> float | None:
    known = [value for value in (asked, limit) if value is not None]
    return min(known, default=None)
