"""Models of a hub: sharded, private to a commit, and the same for all jobs of a run."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tiny_models import save_tiny_model

from services.hub_server import HubServer

Client = Callable[..., Any]

MODELS = """
from heretic.errors import ModelLoadError
from heretic.model.checkpoint import check_model, resolve_revision

def resolved(model="owner/tiny", revision=None):
    try:
        return resolve_revision(model, revision)
    except ModelLoadError as error:
        return str(error)
"""
LOAD = """
from heretic.model.loading import load_model
from heretic.settings.resolve import resolve
def load(**changes):
    settings = resolve({}, {}, {"model": "owner/tiny", "device": "cpu", **changes}).settings
    return load_model(**settings.model_dump())
"""


def files_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


@pytest.fixture
def files(tmp_path: Path) -> dict[str, bytes]:
    return files_of(save_tiny_model(tmp_path / "tiny", max_shard_size="40KB"))


def test_a_sharded_model_is_loaded_at_a_commit(
    hub: HubServer, client: Client, files: dict[str, bytes], tmp_path: Path
) -> None:
    other = files_of(save_tiny_model(tmp_path / "other", seed=1, max_shard_size="40KB"))
    assert sum(name.endswith(".safetensors") for name in files) >= 3
    old, _ = hub.add("model", "owner/tiny", files), hub.add("model", "owner/tiny", other)
    code = f"""
newest, pinned = load(), load(model_revision={old!r})
weight = "model.layers.1.mlp.down_proj.weight"
answer = {{
    "folder": pinned.folder.name,
    "differs": not newest.network.get_parameter(weight).equal(
        pinned.network.get_parameter(weight)),
}}
"""
    answer = client(LOAD + code)["answer"]
    assert answer == {"folder": old, "differs": True}


def test_a_branch_is_resolved_to_its_commit_even_offline(
    hub: HubServer, client: Client, files: dict[str, bytes]
) -> None:
    first = hub.add("model", "owner/tiny", files)
    code = 'answer = [resolved(), resolved(revision="main"), resolved(revision="no-such")]'
    assert client(MODELS + code)["answer"][:2] == [first, first]
    assert "no revision 'no-such'; check model_revision" in client(MODELS + code)["answer"][2]
    offline = client(MODELS + "answer = resolved()", HF_HUB_OFFLINE="1")["answer"]
    assert offline == first
    moved = hub.add("model", "owner/tiny", {**files, "README.md": b"moved"})
    assert client(MODELS + "answer = resolved()")["answer"] == moved != first
    gone = client(MODELS + "answer = resolved()", HF_ENDPOINT="http://127.0.0.1:9")["answer"]
    assert gone == moved
    unknown = client(MODELS + 'answer = resolved("owner/none")', HF_HUB_OFFLINE="1")["answer"]
    assert "check the connection" in unknown
    assert len(hub.asked("GET .*safetensors")) == 0, "weights are not needed to know a commit"


def test_files_that_are_not_downloaded_are_known_to_be_left_out(
    hub: HubServer, client: Client, files: dict[str, bytes]
) -> None:
    kept = {"inference/model.py": b"", "MODEL_LICENSE": b"free", "Use_Policy.txt": b"kind"}
    others = {"figures/x.png": b"png", "m.gguf": b"GGUF", "README.md": b"card", "x.bin": b"pickle"}
    hub.add("model", "owner/tiny", {**files, **kept, **others})
    code = """
from heretic.export.checkpoint import Checkpoint
from heretic.export.copied_files import files_left_out
from heretic.model.checkpoint import locate, snapshot_repo
folder = locate("owner/tiny", None)
answer = [snapshot_repo(folder), files_left_out(folder, Checkpoint(folder), folder),
          [name for name in KEPT if (folder / name).is_file()]]
""".replace("KEPT", repr(list(kept)))
    answer = client(code)["answer"]
    assert answer == ["owner/tiny", ["figures/x.png", "m.gguf", "x.bin"], list(kept)]
    assert client(code, HF_HUB_OFFLINE="1")["answer"][1] == []
