"""Reading of streams, resumed after interruptions at the same position and in the same order."""

import random
import time
from collections.abc import Callable, Generator, Iterator
from typing import Any, Protocol, TypeVar

from heretic.console import log
from heretic.errors import one_line
from heretic.prompts.columns import Row

# About two minutes in total, in addition to retries by the client libraries.
PAUSES = (1.0, 2.0, 4.0, 8.0, 15.0, 30.0, 60.0)
TOO_MANY_REQUESTS = 429


class Stream(Protocol):
    """Required interface of an iterable dataset."""

    def __iter__(self) -> Iterator[Row]: ...

    def state_dict(self) -> dict[str, Any]:
        """Return the position of the stream after the last row it returned."""
        ...

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Resume from a position of `state_dict`."""
        ...


def resumed_rows(open_stream: Callable[[], Stream], where: str) -> Generator[Row, None, None]:
    """Return every row once and in order, even if the connection breaks.

    After a temporary failure, a new stream continues after the last row received; at most the shard
    of that row is fetched again. Each received row resets the pauses.

    Args:
        open_stream: opens the stream at its start.
        where: name of the dataset in messages.

    Raises:
        Exception: error of the stream that is not a network failure, or that persists after all
            pauses.
    """
    state: dict[str, Any] | None = None
    failures = 0
    while True:
        stream = open_stream()
        if state is not None:
            stream.load_state_dict(state)
        try:
            for row in stream:
                state, failures = stream.state_dict(), 0
                yield row
            return
        except Exception as error:
            if failures == len(PAUSES) or not may_pass(error):
                raise
            pause = PAUSES[failures]
            failures += 1
            log.warning(
                "The stream of %s was interrupted (%s); resuming in %g s",
                where,
                one_line(error),
                pause,
            )
        time.sleep(pause)


def may_pass(error: Exception) -> bool:
    """Return whether an error comes from a temporary failure of the network or a server."""
    from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled
    from huggingface_hub.utils import httpx  # type: ignore[attr-defined]  # httpx or httpx2

    if isinstance(error, OfflineModeIsEnabled):
        return False
    if isinstance(error, HfHubHTTPError | httpx.HTTPStatusError):
        status = error.response.status_code if error.response is not None else 500
        return bool(status >= 500 or status == TOO_MANY_REQUESTS)
    # EOFError: a truncated compressed shard.
    return isinstance(error, httpx.TransportError | ConnectionError | TimeoutError | EOFError)


T = TypeVar("T")


def shuffled(rows: Iterator[T], buffer: int, seed: int) -> Generator[T, None, None]:
    """Return the rows in shuffled order, each drawn from the next `buffer` rows.

    The order depends on the seed alone, so that slices of one stream share no row, and an
    interrupted read returns the same rows as an uninterrupted one.
    """
    draw = random.Random(seed)
    held: list[T] = []
    for row in rows:
        if len(held) < buffer:
            held.append(row)
            continue
        place = draw.randrange(buffer)
        chosen, held[place] = held[place], row
        yield chosen
    draw.shuffle(held)
    yield from held
