"""Where a model comes from, before anything is loaded."""

import hashlib
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
from huggingface_hub.errors import LocalEntryNotFoundError

from heretic.errors import ModelLoadError
from heretic.model.checkpoint import (
    check_model,
    checkpoint_files,
    is_local,
    locate,
    resolve_revision,
    source_facts,
    tokenizer_files,
    weight_files,
    weight_hashes,
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "a-model"
    path.mkdir()
    (path / "config.json").write_text("{}")
    (path / "model.safetensors").write_bytes(b"weights")
    return path


@pytest.mark.parametrize(
    ("model", "local"),
    [
        ("./a", True),
        ("/models/a", True),
        ("~/a", True),
        ("models/deep/a", True),
        ("owner/name", False),
        ("gpt2", False),
    ],
)
def test_tells_folders_from_hub_ids(model: str, local: bool) -> None:
    assert is_local(model) is local


def test_an_existing_folder_wins(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder.parent)

    assert is_local("a-model")
    assert locate("a-model", None) == Path("a-model")


def test_a_home_folder_is_expanded(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(folder.parent))

    assert locate("~/a-model", None) == folder


def test_a_missing_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelLoadError, match=r"/nowhere does not exist; check the path"):
        check_model(f"{tmp_path}/nowhere", None)


@pytest.mark.parametrize(
    ("file", "says"),
    [
        ("config.json", "has no config.json; point to a folder saved by transformers"),
        ("model.safetensors", "has no .safetensors files; convert its weights"),
    ],
)
def test_an_incomplete_folder_is_refused(folder: Path, file: str, says: str) -> None:
    (folder / file).unlink()

    with pytest.raises(ModelLoadError, match=says):
        locate(str(folder), None)


def test_a_name_that_is_neither_is_refused() -> None:
    with pytest.raises(ModelLoadError, match="'no good name' is neither a folder nor a hub id"):
        check_model("no good name", None)


def test_no_connection_is_not_mistaken_for_a_missing_file(monkeypatch: pytest.MonkeyPatch) -> None:
    """The hub's error for "offline and not in the cache" is a kind of "no such entry"."""

    def offline(*_: Any, **__: Any) -> str:
        raise LocalEntryNotFoundError("cannot find the requested files\nin the disk cache")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", offline)

    with pytest.raises(
        ModelLoadError, match=r"cannot fetch owner/name .*files in the disk.*check the connection"
    ):
        check_model("owner/name", None)


def test_only_a_hub_model_has_a_commit_to_resolve(folder: Path) -> None:
    assert resolve_revision(str(folder), None) is None
    # A whole commit needs nobody to be asked.
    assert resolve_revision("owner/name", "c" * 40) == "c" * 40


def test_facts_change_with_any_byte_of_any_weight(folder: Path) -> None:
    before = source_facts("m", "r", folder)
    (folder / "config.json").write_text('{"other": 1}')
    same = source_facts("m", "r", folder)
    (folder / "model.safetensors").write_bytes(b"weighty")
    changed = source_facts("m", "r", folder)
    (folder / "model-2.safetensors").write_bytes(b"more")
    more = source_facts("m", "r", folder)

    assert before["model"] == "m"
    assert before["revision"] == "r"
    assert same == before
    assert len({facts["sha256"] for facts in (before, changed, more)}) == 3


def cached_snapshot(root: Path, content: bytes, blob: str) -> Path:
    """A snapshot as the hub's cache keeps it: links to blobs named by their hash."""
    (root / "blobs").mkdir(parents=True)
    snapshot = root / "snapshots" / ("c" * 40)
    snapshot.mkdir(parents=True)
    (root / "blobs" / blob).write_bytes(content)
    (snapshot / "model.safetensors").symlink_to(root / "blobs" / blob)
    return snapshot


def test_the_hubs_cache_gives_commit_and_hash(tmp_path: Path, folder: Path) -> None:
    sha256 = hashlib.sha256(b"weights").hexdigest()
    snapshot = cached_snapshot(tmp_path / "models--m", b"weights", sha256)

    facts = source_facts("m", "main", snapshot)

    assert facts["revision"] == "c" * 40
    assert facts["sha256"] == source_facts("m", "main", folder)["sha256"]


@pytest.mark.parametrize("blob", ["a" * 40, "a" * 64])
def test_the_name_of_a_blob_is_not_taken_for_its_hash(tmp_path: Path, blob: str) -> None:
    """A server chooses the name: the ETag that it sends."""
    one = cached_snapshot(tmp_path / "models--a", b"anything", blob)
    other = cached_snapshot(tmp_path / "models--b", b"something else", blob)

    assert source_facts("m", None, one)["sha256"] != source_facts("m", None, other)["sha256"]
    assert weight_hashes(one) == {"model.safetensors": hashlib.sha256(b"anything").hexdigest()}


def test_a_second_copy_of_the_weights_is_not_of_the_model(folder: Path) -> None:
    before = source_facts("a-model", None, folder)["sha256"]
    (folder / "consolidated.safetensors").write_bytes(b"the same again")
    assert source_facts("a-model", None, folder)["sha256"] == before
    assert [path.name for path in weight_files(folder)] == ["model.safetensors"]
    (folder / "model.safetensors").unlink()
    assert [path.name for path in weight_files(folder)] == ["consolidated.safetensors"]


def test_the_files_of_a_local_model_are_watched_and_a_hub_model_has_none(folder: Path) -> None:
    (folder / "chat_template.jinja").write_text("")
    (folder / "notes.txt").write_text("")
    own = [
        "vocab.txt",
        "tokenizer.model",
        "modeling_own.py",
        "additional_chat_templates/tool.jinja",
    ]
    (folder / "additional_chat_templates").mkdir()
    for name in own:
        (folder / name).write_text("")
    names = {Path(path).relative_to(folder).as_posix() for path in checkpoint_files(str(folder))}
    small = {"chat_template.jinja", "config.json", *own}
    assert names == {"model.safetensors", *small}
    assert {path.relative_to(folder).as_posix() for path in tokenizer_files(folder)} == small
    assert checkpoint_files("owner/name") == checkpoint_files(None) == []
