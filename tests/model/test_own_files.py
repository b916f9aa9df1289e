"""Only what lies inside a model folder is part of it, whatever a stranger's links say."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from heretic.errors import ModelLoadError
from heretic.model.checkpoint import check_model, locate
from heretic.model.own_files import check_files, is_own_file, own_files

SECRET = "hf_secret_token"
COMMIT = "c" * 40


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    path = tmp_path / "home" / "token"
    path.parent.mkdir()
    path.write_text(SECRET)
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "a-model"
    path.mkdir()
    for name, text in {"config.json": "{}", "model.safetensors": "w", "README.md": "Hi"}.items():
        (path / name).write_text(text)
    return path


def snapshot_of(cache: Path, **files: str) -> Path:
    """A snapshot as the hub's cache keeps it: relative links to blobs."""
    repository = cache / "models--owner--name"
    snapshot = repository / "snapshots" / COMMIT
    snapshot.mkdir(parents=True)
    (repository / "blobs").mkdir()
    for number, (name, text) in enumerate(files.items()):
        (repository / "blobs" / f"{number:040x}").write_text(text)
        (snapshot / name.replace("_", ".")).symlink_to(f"../../blobs/{number:040x}")
    return snapshot


def test_files_and_links_inside_the_folder_are_its_own(folder: Path) -> None:
    (folder / "LICENSE").symlink_to("README.md")
    own, foreign = own_files(folder, ["*"])
    assert [path.name for path in own] == [
        "LICENSE",
        "README.md",
        "config.json",
        "model.safetensors",
    ]
    assert foreign == []
    check_files("m", folder)


def test_a_folder_may_itself_be_a_link(folder: Path, tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to(folder)
    assert is_own_file(link / "config.json", link)
    assert locate(str(link), None) == link


def _to_file(path: Path, secret: Path) -> None:
    path.symlink_to(secret)


def _relative(path: Path, secret: Path) -> None:
    path.symlink_to(os.path.relpath(secret, path.parent))


def _through_another_link(path: Path, secret: Path) -> None:
    (path.parent / "between").symlink_to(secret)
    path.symlink_to("between")


def _through_a_folder(path: Path, secret: Path) -> None:
    (path.parent / "deep").symlink_to(secret.parent)
    path.symlink_to("deep/token")


def _to_a_device(path: Path, secret: Path) -> None:
    path.symlink_to("/dev/zero")


def _to_nothing(path: Path, secret: Path) -> None:
    path.symlink_to("nowhere")


def _to_itself(path: Path, secret: Path) -> None:
    path.symlink_to(path.name)


def _pipe(path: Path, secret: Path) -> None:
    os.mkfifo(path)


LINKS = [
    *(_to_file, _relative, _through_another_link, _through_a_folder),
    *(_to_a_device, _to_nothing, _to_itself, _pipe),
]
ESSENTIAL_NAMES = [
    *("config.json", "tokenizer.json", "model.safetensors", "model-00001-of-00002.safetensors"),
    *("chat_template.jinja", "merges.txt", "vocab.txt", "tokenizer.model", "modeling_x.py"),
    "model.safetensors.index.json",
]


@pytest.mark.parametrize("link", LINKS)
@pytest.mark.parametrize("name", ESSENTIAL_NAMES)
def test_an_essential_file_elsewhere_is_refused(
    folder: Path, secret: Path, link: Callable[[Path, Path], None], name: str
) -> None:
    (folder / name).unlink(missing_ok=True)
    if name == "model.safetensors":
        (folder / "model-2.safetensors").write_text("w")
    link(folder / name, secret)
    with pytest.raises(ModelLoadError, match=name) as told:
        locate(str(folder), None)
    assert "\n" not in str(told.value)
    assert SECRET not in str(told.value)


@pytest.mark.parametrize("link", LINKS)
def test_any_other_file_elsewhere_is_not_the_folders(
    folder: Path, secret: Path, link: Callable[[Path, Path], None]
) -> None:
    link(folder / "notes.txt", secret)
    assert own_files(folder, ["*.txt"]) == ([], [folder / "notes.txt"])
    check_files("m", folder)


def test_templates_in_a_linked_folder_are_refused(folder: Path, secret: Path) -> None:
    secret.with_name("a.jinja").write_text(SECRET)
    (folder / "additional_chat_templates").symlink_to(secret.parent)
    with pytest.raises(ModelLoadError, match=r"additional_chat_templates/a\.jinja"):
        check_model(str(folder), None)


def test_a_snapshot_of_the_hubs_cache_may_link_to_its_blobs_alone(
    tmp_path: Path, secret: Path
) -> None:
    snapshot = snapshot_of(tmp_path / "hub", config_json="{}", model_safetensors="w")
    check_files("m", snapshot)
    assert is_own_file(snapshot / "config.json", snapshot)
    other = tmp_path / "hub" / "models--other--name" / "blobs"
    other.mkdir(parents=True)
    (other / "x").write_text("of another repository")
    (snapshot / "a.json").symlink_to(other / "x")
    with pytest.raises(ModelLoadError, match=r"a\.json"):
        check_files("m", snapshot)


def test_blobs_that_the_hubs_client_shares_between_repositories(tmp_path: Path) -> None:
    snapshot = snapshot_of(tmp_path / "hub", config_json="{}", model_safetensors="w")
    shared = tmp_path / "hub" / "blobs" / "ab"
    shared.mkdir(parents=True)
    (shared / ("b" * 64)).write_text("weights")
    blob = snapshot.parent.parent / "blobs" / ("d" * 64)
    blob.symlink_to(f"../../blobs/ab/{'b' * 64}")
    (snapshot / "model-2.safetensors").symlink_to(f"../../blobs/{'d' * 64}")
    assert not is_own_file(snapshot / "model-2.safetensors", snapshot)
    (shared.parent / ".huggingface-shared-blobs").write_text("1\n")
    assert is_own_file(snapshot / "model-2.safetensors", snapshot)


def test_blobs_that_are_a_link_are_not_followed(tmp_path: Path, secret: Path) -> None:
    """An archive may be laid out as the hub's cache is."""
    snapshot = tmp_path / "models--owner--name" / "snapshots" / COMMIT
    snapshot.mkdir(parents=True)
    (snapshot.parent.parent / "blobs").symlink_to(secret.parent)
    (snapshot / "config.json").symlink_to("../../blobs/token")
    assert not is_own_file(snapshot / "config.json", snapshot)


def test_folders_that_only_resemble_the_cache(tmp_path: Path, secret: Path) -> None:
    home = secret.parent
    (home / "blobs").mkdir()
    (home / "blobs" / "key").write_text(SECRET)
    folder = home / "snapshots" / "model"
    folder.mkdir(parents=True)
    (folder / "config.json").symlink_to(home / "blobs" / "key")
    assert not is_own_file(folder / "config.json", folder)


@pytest.mark.parametrize(
    "name",
    [
        *("../base/model.safetensors", "/dev/zero", "/etc/passwd", "sub/model.safetensors"),
        *("..", ".", "", "model.bin", "a\0.safetensors", "..\\model.safetensors"),
        *(None, 5, ["model.safetensors"], {}),
    ],
)
def test_an_index_names_files_of_its_folder_alone(folder: Path, name: Any) -> None:
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"a": "model.safetensors", "b": name}}))
    with pytest.raises(ModelLoadError, match="only safetensors files of the same folder"):
        check_model(str(folder), None)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"weight_map": []}', "[" * 10**5, "\xff\0"])
def test_a_damaged_index_is_one_line(folder: Path, text: str) -> None:
    index = folder / "model.safetensors.index.json"
    index.write_text(text)
    with pytest.raises(ModelLoadError, match="copy or download the model again") as told:
        check_files("m", folder)
    assert "\n" not in str(told.value)


def test_an_index_of_a_shard_that_is_not_there(folder: Path) -> None:
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"a": "model-2.safetensors"}}))
    with pytest.raises(ModelLoadError, match=r"has no file model-2\.safetensors"):
        check_model(str(folder), None)


def test_other_weights_than_those_of_the_folder_are_not_loaded(folder: Path) -> None:
    (folder / "config.json").write_text('{"transformers_weights": "adapter_model.bin"}')
    with pytest.raises(ModelLoadError, match="refers to other weights"):
        check_model(str(folder), None)
    (folder / "config.json").write_text("{}")
    (folder / "adapter_config.json").write_text('{"base_model_name_or_path": "/elsewhere"}')
    with pytest.raises(ModelLoadError, match="is a LoRA adapter"):
        check_model(str(folder), None)
