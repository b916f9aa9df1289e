"""Which model an edited one is compared with."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from heretic.errors import ModelLoadError
from heretic.export.base_model import edited_demo_model
from heretic.model.source import source_facts


@pytest.fixture
def results(tmp_path: Path) -> Path:
    for number, name in enumerate(("demo", "demo-model", "demo-model-seed1")):
        (tmp_path / name).mkdir()
        save_file(
            {"weight": torch.full((2,), float(number))}, tmp_path / name / "model.safetensors"
        )
    (tmp_path / "demo-model.manifest.json").write_text("{}")
    return tmp_path


def sha256(folder: Path) -> str:
    return str(source_facts("demo", None, folder)["sha256"])


@pytest.mark.parametrize("name", ["demo-model", "demo-model-seed1"])
def test_the_demo_model_is_found_by_its_weights(results: Path, name: str) -> None:
    assert edited_demo_model([results], sha256(results / name)) == results / name


def test_a_demo_model_that_is_gone_is_an_error(results: Path) -> None:
    with pytest.raises(ModelLoadError, match="run the workflow again"):
        edited_demo_model([results], sha256(results / "demo"))
