"""Pristine weights read back from the checkpoint."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_models import D_MODEL, load_saved, save_tiny_model, tiny_model
from transformers.core_model_loading import Transpose, WeightConverter

from heretic.ablation import disk_weights
from heretic.ablation.disk_weights import DiskWeights, tensor_files
from heretic.ablation.weights_cache import LayerWeightsCache
from heretic.errors import ModelLoadError
from heretic.model.headers import INDEX


def rewrite(folder: Path, change: Any) -> None:
    """Pass a checkpoint's tensors through `change`."""
    path = folder / "model.safetensors"
    tensors = change(load_file(path))
    path.unlink()  # the loaded model may still map the old file
    save_file(tensors, path, metadata={"format": "pt"})


def without_prefix(prefix: str) -> Any:
    return lambda tensors: {name.removeprefix(prefix): t for name, t in tensors.items()}


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_model(tmp_path_factory.mktemp("saved") / "gpt2", "gpt2")


@pytest.fixture
def folder(saved: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(saved, tmp_path / "gpt2"))


@pytest.mark.parametrize("family", ["llama", "gpt2", "gpt_oss", "mixtral", "gemma2"])
@pytest.mark.parametrize(("max_shard_size", "dtype"), [("5GB", "auto"), ("20KB", "bfloat16")])
def test_equals_the_cache_bit_for_bit(
    tmp_path: Path, family: str, max_shard_size: str, dtype: str
) -> None:
    model = load_saved(
        save_tiny_model(tmp_path, family, max_shard_size=max_shard_size), dtype=dtype
    )
    assert (tmp_path / INDEX).exists() == (max_shard_size == "20KB")
    cache, disk = LayerWeightsCache(model.anatomy), DiskWeights(model)

    for writer in model.anatomy.writers:
        cached, read = (source.pristine(writer) for source in (cache, disk))
        assert read.weight.equal(cached.weight)
        assert read.weight.stride() == cached.weight.stride()
        assert read.weight.dtype == cached.weight.dtype
        assert (read.bias is None) == (cached.bias is None) == (writer.bias is None)
        if read.bias is not None and cached.bias is not None:
            assert read.bias.equal(cached.bias)


def without(name: str) -> Any:
    return lambda tensors: {k: t for k, t in tensors.items() if k != name}


@pytest.mark.parametrize(
    ("family", "name"),
    [
        ("mixtral", "model.layers.1.block_sparse_moe.experts.2.w2.weight"),
        ("qwen3_moe", "model.layers.1.mlp.experts.2.down_proj.weight"),
    ],
)
def test_an_expert_that_is_missing_is_named(tmp_path: Path, family: str, name: str) -> None:
    model = load_saved(save_tiny_model(tmp_path, family))
    rewrite(tmp_path, without(name))

    with pytest.raises(ModelLoadError, match=f"no tensor {re.escape(name)}; .*cache_weights=true"):
        DiskWeights(model)


@pytest.mark.parametrize("shape", [(D_MODEL, 15), (16, D_MODEL), (D_MODEL * 16,)])
def test_an_expert_of_another_shape_is_refused(tmp_path: Path, shape: tuple[int, ...]) -> None:
    model = load_saved(save_tiny_model(tmp_path, "qwen3_moe"))
    name = "model.layers.1.mlp.experts.2.down_proj.weight"
    rewrite(tmp_path, lambda tensors: {**tensors, name: torch.zeros(shape)})

    with pytest.raises(
        ModelLoadError, match=r"experts\.down_proj has shape .* on disk \(.*2\.down"
    ):
        DiskWeights(model)


def test_experts_may_be_packed_in_the_files_too(tmp_path: Path) -> None:
    """As programs save them that know the network's names only."""
    model = load_saved(save_tiny_model(tmp_path, "mixtral"))
    state = {name: tensor.clone() for name, tensor in model.network.state_dict().items()}
    rewrite(tmp_path, lambda _: state)

    disk = DiskWeights(model)

    for writer in model.anatomy.writers:
        assert disk.pristine(writer).weight.equal(writer.weight)


def test_a_single_expert_is_a_stack_of_one(tmp_path: Path) -> None:
    changes = {"num_local_experts": 1, "num_experts_per_tok": 1}
    model = load_saved(save_tiny_model(tmp_path, "mixtral", **changes))

    disk = DiskWeights(model)

    for writer in model.anatomy.writers:
        assert disk.pristine(writer).weight.equal(writer.weight)


def test_what_loading_transposes_is_refused(tmp_path: Path) -> None:
    """Square matrices do not tell by their shape."""
    model = load_saved(save_tiny_model(tmp_path))
    name = "model.layers.1.self_attn.o_proj.weight"
    rewrite(tmp_path, lambda tensors: {**tensors, name: tensors[name].mT.contiguous()})
    pattern = "self_attn.o_proj.weight"
    turned: Any = model.network
    turned._weight_conversions = [WeightConverter(pattern, pattern, [Transpose(0, 1)])]

    with pytest.raises(
        ModelLoadError, match=r"in memory differs from .*run with cache_weights=true"
    ):
        DiskWeights(model)


@pytest.mark.parametrize("part", ["weight", "bias"])
def test_other_values_are_refused(folder: Path, part: str) -> None:
    model = load_saved(folder)
    name = f"transformer.h.2.mlp.c_proj.{part}"
    rewrite(folder, lambda tensors: {**tensors, name: tensors[name] + 1e-3})

    with pytest.raises(ModelLoadError, match=rf"{name} in memory differs from {name} on disk"):
        DiskWeights(model)


def test_names_that_transformers_cannot_restore_are_one_line(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise ValueError("no\nway back")

    model = load_saved(folder)
    monkeypatch.setattr(disk_weights, "trace", fail)

    with pytest.raises(
        ModelLoadError, match=r"cannot determine the layout of .*: no way back; .*=true$"
    ):
        DiskWeights(model)


def test_a_file_that_was_cut_off_is_one_line(folder: Path) -> None:
    model = load_saved(folder)
    disk = DiskWeights(model)
    content = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors").write_bytes(content[: len(content) // 2])

    with pytest.raises(ModelLoadError, match=r"cannot read .* from disk: .*cache_weights=true"):
        disk.pristine(model.anatomy.writers[-1])


def test_a_checkpoint_of_the_bare_decoder_has_no_prefix(folder: Path) -> None:
    """The original GPT-2 names its tensors `h.0…` where the network has `transformer.h.0…`."""
    rewrite(folder, without_prefix("transformer."))
    model = load_saved(folder)

    disk = DiskWeights(model)

    for writer in model.anatomy.writers:
        assert disk.pristine(writer).weight.equal(writer.weight)


def test_does_not_follow_the_model(folder: Path) -> None:
    model = load_saved(folder)
    disk = DiskWeights(model)
    writer = model.anatomy.writers[0]
    before = writer.weight.clone()

    writer.weight.zero_()

    assert disk.pristine(writer).weight.equal(before)


@pytest.mark.parametrize("part", ["weight", "bias"])
def test_a_missing_tensor_is_named(folder: Path, part: str) -> None:
    model = load_saved(folder)
    name = f"transformer.h.1.mlp.c_proj.{part}"
    rewrite(folder, without(name))

    with pytest.raises(ModelLoadError, match=f"no tensor {name}; run with cache_weights=true"):
        DiskWeights(model)


@pytest.mark.parametrize("part", ["weight", "bias"])
def test_another_shape_is_refused(folder: Path, part: str) -> None:
    model = load_saved(folder)
    name = f"transformer.h.1.mlp.c_proj.{part}"
    rewrite(folder, lambda tensors: {**tensors, name: torch.zeros(3)})

    with pytest.raises(ModelLoadError, match=rf"{name} has shape .* and \(3,\) on disk"):
        DiskWeights(model)


def test_a_folder_that_went_away_is_one_line(folder: Path) -> None:
    model = load_saved(folder)
    disk = DiskWeights(model)
    shutil.rmtree(folder)

    with pytest.raises(ModelLoadError, match=r"cannot read .* from disk: .*cache_weights=true"):
        disk.check(model.anatomy)


def test_a_folder_without_safetensors_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelLoadError, match="no safetensors files; run with cache_weights=true"):
        DiskWeights(tiny_model(folder=tmp_path))


@pytest.mark.parametrize(
    ("name", "content"), [("model.safetensors", b"not tensors"), (INDEX, b"{"), (INDEX, b"{}")]
)
def test_damaged_files_are_one_line(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)

    with pytest.raises(ModelLoadError, match=r"cannot read|cannot be read|no weight_map"):
        tensor_files(tmp_path)


def test_an_index_says_where_each_tensor_is(tmp_path: Path) -> None:
    save_tiny_model(tmp_path, max_shard_size="20KB")

    files = tensor_files(tmp_path)

    assert set(files) == set(json.loads((tmp_path / INDEX).read_text())["weight_map"])
    assert len(set(files.values())) > 1
    assert all(name in load_file(path) for name, path in files.items())
