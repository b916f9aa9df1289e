"""Uploads that meet trouble: what passes is tried again, what does not is told, nothing is lost."""

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save as save_tensors

from services.hub_repos import TOKEN, Fault
from services.hub_server import HubServer

Client = Callable[..., Any]
SHARDS = 3
UPLOAD = """
import logging, sys
from pathlib import Path
from heretic.errors import UploadError
from heretic.export.upload import upload_model

logging.basicConfig(stream=sys.stderr, level=logging.INFO)

def upload(waits=(0.01, 0.01)):
    try:
        return upload_model(Path("model"), "tester/edited", private=True, waits=waits)
    except UploadError as error:
        return str(error)
"""


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A saved model of three shards."""
    folder = tmp_path / "model"
    folder.mkdir()
    for number in range(SHARDS):
        weight = np.full((100, number + 1), number, dtype=np.float32)
        name = f"model-{number + 1:05d}-of-{SHARDS:05d}.safetensors"
        (folder / name).write_bytes(save_tensors({f"weight{number}": weight}))
    (folder / "config.json").write_text("{}")
    (folder / "README.md").write_text("---\nlicense: mit\n---\n")
    return folder


def uploaded_once(hub: HubServer, model: Path, receipt: dict[str, Any]) -> None:
    """One commit beside the creation, with every file, each large one sent a single time."""
    repo = hub.repos["model", "tester/edited"]
    assert len(repo.commits) == 2
    assert receipt["commit"] == repo.commits[-1][0]
    files = {path: content for path, content in repo.commits[-1][1].items() if path[0] != "."}
    assert files == {path.name: path.read_bytes() for path in model.iterdir()}
    assert len(hub.large_files) == SHARDS


@pytest.mark.parametrize("status", [409, 429, 500, 502, 503, 504])
def test_a_refused_commit_is_tried_again(
    hub: HubServer, client: Client, model: Path, status: int
) -> None:
    hub.faults.append(Fault("POST", "/commit/", status, f"wait, {TOKEN}", times=2))
    done = client(UPLOAD + "answer = upload()")
    uploaded_once(hub, model, done["answer"])
    assert len(hub.asked("^POST .*/commit/")) == 3
    assert len(hub.asked("^PUT /large/")) == SHARDS, "a shard was sent twice"
    assert f"status {status}" in done["output"]
    assert "attempt 3 of 3" in done["output"]
    assert TOKEN not in done["output"] + json.dumps(done["answer"])


@pytest.mark.parametrize("path", ["/api/repos/create", "/preupload/", "/info/lfs/objects/batch"])
@pytest.mark.parametrize("status", [429, 503])
def test_trouble_on_the_way_to_the_commit(
    hub: HubServer, client: Client, model: Path, path: str, status: int
) -> None:
    hub.faults.append(Fault("POST", path, status))
    uploaded_once(hub, model, client(UPLOAD + "answer = upload()")["answer"])


@pytest.mark.parametrize("fault", [Fault("PUT", "/large/", 503), Fault("PUT", "/large/", 500)])
def test_trouble_in_the_middle_of_the_shards(
    hub: HubServer, client: Client, model: Path, fault: Fault
) -> None:
    hub.faults.append(fault)
    uploaded_once(hub, model, client(UPLOAD + "answer = upload()")["answer"])
    assert len(hub.asked("^PUT /large/")) == SHARDS + 1


@pytest.mark.parametrize(
    ("method", "path"), [("PUT", "/large/"), ("POST", "/commit/"), ("POST", "/api/repos/create")]
)
@pytest.mark.parametrize("drop", ["before", "after"])
def test_a_dropped_connection(
    hub: HubServer, client: Client, model: Path, method: str, path: str, drop: str
) -> None:
    """Dropped after the commit had its effect, it is not made a second time."""
    hub.faults.append(Fault(method, path, drop=drop))
    uploaded_once(hub, model, client(UPLOAD + "answer = upload()")["answer"])


def test_what_stays_is_told_and_a_rerun_finishes(
    hub: HubServer, client: Client, model: Path
) -> None:
    hub.faults.append(Fault("PUT", "/large/", 400, times=1))
    hub.faults.append(Fault("POST", "/commit/", 503, "down for now", times=3))
    refused, failed, receipt = client(UPLOAD + "answer = [upload(), upload(), upload()]")["answer"]
    assert "status 400" in refused
    assert "status 503: down for now" in failed
    assert "rerun the command" in failed
    uploaded_once(hub, model, receipt)
    accepted = SHARDS + 1
    assert len(hub.asked("^PUT /large/")) <= accepted, "what had arrived was sent again"


@pytest.mark.parametrize(
    ("status", "words"),
    [(401, "hf auth login"), (403, "write permission"), (404, "repository not found")],
)
def test_what_waiting_does_not_mend_is_told_at_once(
    hub: HubServer, client: Client, model: Path, status: int, words: str
) -> None:
    hub.faults.append(Fault("POST", "/commit/", status))
    failed, receipt = client(UPLOAD + "answer = [upload(waits=(60,)), upload()]")["answer"]
    assert words in failed
    assert f"status {status}" in failed
    uploaded_once(hub, model, receipt)


def test_the_hub_may_ask_to_wait_longer(hub: HubServer, client: Client, model: Path) -> None:
    hub.faults.append(Fault("POST", "/commit/", 429, headers={"Retry-After": "2"}))
    start = time.monotonic()
    done = client(UPLOAD + "answer = upload()")
    uploaded_once(hub, model, done["answer"])
    assert "in 2 s" in done["output"]
    assert time.monotonic() - start > 2


def test_an_adapter_takes_the_place_of_merged_weights(
    hub: HubServer, client: Client, model: Path
) -> None:
    client(UPLOAD + "answer = upload()")
    for path in model.glob("*.safetensors"):
        path.unlink()
    (model / "adapter_config.json").write_text("{}")
    (model / "adapter_model.safetensors").write_bytes(save_tensors({"a": np.ones(3)}))
    client(UPLOAD + "answer = upload()")
    paths = set(hub.repos["model", "tester/edited"].at("main")[1])
    assert paths == {
        ".gitattributes",
        "README.md",
        "config.json",
        "adapter_config.json",
        "adapter_model.safetensors",
    }
