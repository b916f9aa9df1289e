"""An export never holds the contents of files to which a stranger's model folder links."""

import logging
import os
from pathlib import Path

import pytest
import torch
from edit_fixtures import export, plan
from tiny_models import save_tiny_model

from heretic.errors import ExportError, ModelLoadError
from heretic.export.adapter import attach_adapter
from heretic.export.manifest import manifest
from heretic.export.source_card import inherited_metadata

torch.set_num_threads(1)
SECRET = "license: hf_secret_token_of_the_victim"


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    path = tmp_path / "home" / "token"
    path.parent.mkdir()
    path.write_text(f"---\n{SECRET}\n---\n")
    return path


@pytest.mark.parametrize("low_memory", [False, True])
def test_links_out_of_a_model_folder_are_left_out_with_a_warning(
    tmp_path: Path, secret: Path, low_memory: bool, caplog: pytest.LogCaptureFixture
) -> None:
    source = save_tiny_model(tmp_path / "original")
    (source / "LICENSE").write_text("free")
    (source / "NOTICE").symlink_to("LICENSE")
    (source / "notes.txt").symlink_to(secret)
    (source / "USE_POLICY.md").symlink_to(os.path.relpath(secret, source))
    (source / "README.md").symlink_to(secret)
    logging.getLogger("heretic").propagate = True
    with caplog.at_level(logging.WARNING, logger="heretic"):
        saved = export(plan(source), source, tmp_path / "saved", low_memory=low_memory)
    assert (saved / "LICENSE").read_text() == (saved / "NOTICE").read_text() == "free"
    assert not (saved / "NOTICE").is_symlink()
    assert not {"notes.txt", "USE_POLICY.md", "README.md"} & manifest(saved).keys()
    assert not any(SECRET.encode() in path.read_bytes() for path in saved.iterdir())
    for name in ("notes.txt", "USE_POLICY.md"):
        assert f"{name} is excluded from the export" in caplog.text
    assert inherited_metadata(source) == {}


def test_a_link_in_a_saved_folder_is_refused(tmp_path: Path, secret: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "extra.bin").symlink_to(secret)
    with pytest.raises(ExportError, match=r"extra\.bin is a link .*; delete it and run again"):
        manifest(tmp_path / "model")


def test_an_adapter_of_links_or_pickles_is_refused(tmp_path: Path, secret: Path) -> None:
    source = save_tiny_model(tmp_path / "original")
    saved = export(plan(source, export="adapter"), source, tmp_path / "adapter", low_memory=False)
    weights = saved / "adapter_model.safetensors"
    model = object()
    weights.rename(saved / "adapter_model.bin")
    with pytest.raises(ExportError, match=r"has no adapter_model\.safetensors"):
        attach_adapter(model, saved)  # type: ignore[arg-type]
    weights.symlink_to(secret)
    with pytest.raises(ModelLoadError, match="which is not followed"):
        attach_adapter(model, saved)  # type: ignore[arg-type]
