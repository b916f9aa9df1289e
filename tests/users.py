"""Another user of the same machine, for what a shared folder may do."""

import json
import os
import tempfile
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

NOBODY = 65534
ANOTHER = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")


def as_another_user(action: Callable[[], str]) -> str:
    """Return what an action returns in a child process without root's powers.

    The child has imported everything, since the interpreter may lie in a folder of root's.
    """
    ours, theirs = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.setgroups([])
            os.setgid(NOBODY)
            os.setuid(NOBODY)
            answer = {"returned": action()}
        except BaseException:
            answer = {"raised": traceback.format_exc()}
        os.write(theirs, json.dumps(answer).encode())
        os._exit(0)
    os.close(theirs)
    with os.fdopen(ours, "rb") as stream:
        answer = json.loads(stream.read())
    os.waitpid(child, 0)
    assert "returned" in answer, answer["raised"]
    return str(answer["returned"])


@contextmanager
def shared_folder() -> Iterator[Path]:
    """A folder that every user may enter and write to, unlike pytest's own."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name).resolve()
        folder.chmod(0o777)
        yield folder
