"""What a saved model will take on the disk, told from the headers of its files."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from heretic.errors import ModelLoadError
from heretic.model.size import checkpoint_bytes


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two shards: 12 float32 and 10 bfloat16 numbers, 3 integers."""
    weights = {"a": torch.zeros(3, 4), "steps": torch.zeros(3, dtype=torch.int64)}
    save_file(weights, tmp_path / "model-1.safetensors")
    save_file({"b": torch.zeros(10, dtype=torch.bfloat16)}, tmp_path / "model-2.safetensors")
    return tmp_path


@pytest.mark.parametrize(
    ("dtype", "size"),
    [
        ("auto", 12 * 4 + 10 * 2 + 3 * 8),
        ("float32", 12 * 4 + 10 * 4 + 3 * 8),
        ("bfloat16", 12 * 2 + 10 * 2 + 3 * 8),
        ("float16", 12 * 2 + 10 * 2 + 3 * 8),
    ],
)
def test_bytes_by_dtype(folder: Path, dtype: str, size: int) -> None:
    assert checkpoint_bytes(str(folder), None, dtype) == size


@pytest.mark.parametrize("content", [b"", b"short", b"\xff" * 8 + b"{}", b"\2\0\0\0\0\0\0\0[]"])
def test_a_damaged_file_is_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "model.safetensors").write_bytes(content)
    with pytest.raises(ModelLoadError, match=r"model\.safetensors is not a complete .*download"):
        checkpoint_bytes(str(tmp_path), None, "auto")


def test_a_hub_that_cannot_be_asked_tells_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert checkpoint_bytes("owner/name", None, "auto") is None


def test_a_second_copy_in_another_layout_does_not_count(folder: Path) -> None:
    before = checkpoint_bytes(str(folder), None, "auto")
    save_file({"c": torch.zeros(99)}, folder / "consolidated.safetensors")
    assert checkpoint_bytes(str(folder), None, "auto") == before


def test_eight_bit_numbers_take_a_byte(tmp_path: Path) -> None:
    weights = {"a": torch.zeros(5, dtype=torch.float8_e4m3fn), "b": torch.zeros(3).bool()}
    save_file(weights, tmp_path / "model.safetensors")
    assert checkpoint_bytes(str(tmp_path), None, "bfloat16") == 8
