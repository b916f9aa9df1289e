"""A hub of its own for every test that asks for one, and clients in processes of their own."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from services.hub_repos import TOKEN
from services.hub_server import HubServer

Client = Callable[..., Any]


@pytest.fixture
def hub() -> Iterator[HubServer]:
    """A running hub without repositories."""
    with HubServer() as server:
        yield server


@pytest.fixture
def client(hub: HubServer, tmp_path: Path) -> Client:
    """Runs Python code against the hub and returns what it assigns to `answer`.

    In a process of its own, because the client libraries read HF_ENDPOINT when imported.
    """

    def run(code: str, *, token: str | None = TOKEN, **environment: str) -> Any:
        inherited = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "HERETIC_"))}
        answer = tmp_path / "answer.json"
        answer.unlink(missing_ok=True)
        ending = f"\nimport json\nopen({str(answer)!r}, 'w').write(json.dumps(answer))\n"
        done = subprocess.run(
            [sys.executable, "-c", code + ending],
            env={**inherited, **hub.environment(tmp_path / "hf_home", token), **environment},
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == 0, done.stderr[-4000:]
        return {"output": done.stdout + done.stderr, "answer": json.loads(answer.read_text())}

    return run
