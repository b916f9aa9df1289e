"""Tensors that transformers does not load are saved as they are, or no longer promised."""

import json
import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from edit_fixtures import export, hashes, plan
from safetensors.torch import load_file, save_file
from tiny_models import LAYERS, save_tiny_model
from torch import Tensor
from transformers import AutoModelForCausalLM

from heretic.ablation.disk_weights import tensor_files
from heretic.artifacts import read_json
from heretic.export.reproduce import reproduce
from heretic.export.safetensors_writer import raw_bytes
from heretic.model.headers import INDEX
from heretic.settings.schema import Settings

torch.set_num_threads(1)
SHARDS = "80KB"
BEYOND = "model.layers.3"  # the models have layers 0 to 2


def tensors(folder: Path) -> dict[str, Tensor]:
    found: dict[str, Tensor] = {}
    for path in set(tensor_files(folder).values()):
        found.update(load_file(path))
    return found


def with_tensors(folder: Path, more: dict[str, Tensor], **config: Any) -> Path:
    """Add tensors to the last file of a checkpoint, and values to its configuration."""
    path = max(set(tensor_files(folder).values()))
    save_file({**load_file(path), **more}, path, metadata={"format": "pt"})
    if (folder / INDEX).is_file():
        index = read_json(folder / INDEX)
        index["weight_map"] |= dict.fromkeys(more, path.name)
        (folder / INDEX).write_text(json.dumps(index))
    known = read_json(folder / "config.json")
    (folder / "config.json").write_text(json.dumps({**known, **config}))
    return folder


def ahead(family: str) -> dict[str, Tensor]:
    """Layers that predict further tokens, under the names that these families use on the hub."""
    draw = torch.Generator().manual_seed(5)

    def random(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=draw)

    if family == "qwen3_next":
        experts = {
            f"mtp.layers.0.mlp.experts.{expert}.{name}.weight": random(16, 32)
            for expert in range(4)
            for name in ("gate_proj", "up_proj")
        }
        return {"mtp.fc.weight": random(32, 64), "mtp.norm.weight": random(32), **experts}
    found = {
        f"{BEYOND}.eh_proj.weight": random(32, 64),
        f"{BEYOND}.enorm.weight": random(32).bfloat16(),
        f"{BEYOND}.shared_head.head.weight": random(32, 32),
        f"{BEYOND}.self_attn.o_proj.weight": random(32, 32),
        "model.scale": torch.tensor(0.5),
        "model.nothing": torch.zeros(0, 4),
        "model.e8m0": torch.ones(3).to(torch.float8_e8m0fnu),
    }
    if family == "deepseek_v3":
        found |= {f"{BEYOND}.mlp.experts.{n}.gate_proj.weight": random(16, 32) for n in range(4)}
    return found


@pytest.mark.parametrize("max_shard_size", ["5GB", "40KB"])
@pytest.mark.parametrize("family", ["llama", "deepseek_v3", "qwen3_next"])
def test_they_are_saved_byte_for_byte(tmp_path: Path, family: str, max_shard_size: str) -> None:
    sizes: dict[str, Any] = {"max_shard_size": SHARDS, "num_hidden_layers": LAYERS}
    if family == "qwen3_next":
        sizes["layer_types"] = ["linear_attention", "full_attention", "linear_attention"]
    source = save_tiny_model(tmp_path / "base", family, **sizes)
    more = ahead(family)
    with_tensors(source, more, num_nextn_predict_layers=1)
    ablation = plan(source, max_shard_size=max_shard_size)
    ways = [
        export(ablation, source, tmp_path / str(way) / "model", low_memory=way)
        for way in (False, True)
    ]
    assert len({str(hashes(folder)) for folder in ways}) == 1
    saved = tensors(ways[0])
    assert saved.keys() == tensors(source).keys()
    for name, tensor in more.items():
        assert saved[name].dtype == tensor.dtype
        assert raw_bytes(saved[name]).equal(raw_bytes(tensor)), name
    assert read_json(ways[0] / "config.json")["num_nextn_predict_layers"] == 1
    index = read_json(ways[0] / INDEX)
    assert index["metadata"]["total_size"] == sum(t.nbytes for t in saved.values())
    if max_shard_size == "5GB":
        assert index["weight_map"] == read_json(source / INDEX)["weight_map"]
    loaded: Any = AutoModelForCausalLM.from_pretrained(ways[0], output_loading_info=True)
    assert not loaded[1]["missing_keys"]


@pytest.mark.parametrize("low_memory", ["true", "false"])
def test_they_are_reproduced(tmp_path: Path, low_memory: Any) -> None:
    source = with_tensors(save_tiny_model(tmp_path / "base"), ahead("llama"))
    saved = export(plan(source), source, tmp_path / "model", low_memory=True)
    settings = Settings(device="cpu", low_memory_export=low_memory)
    reproduce(saved / "ablation.json", tmp_path / "again", settings)
    assert hashes(tmp_path / "again") == hashes(saved)


def test_they_keep_their_type_if_the_others_are_converted(tmp_path: Path) -> None:
    source = with_tensors(save_tiny_model(tmp_path / "base"), {"mtp.fc.weight": torch.randn(4, 4)})
    saved = export(plan(source, dtype="bfloat16"), source, tmp_path / "model", low_memory=True)
    found = tensors(saved)
    assert found.pop("mtp.fc.weight").dtype == torch.float32
    assert {tensor.dtype for tensor in found.values()} == {torch.bfloat16}


def test_copies_of_a_tied_head_and_renamed_tensors_are_not_saved_twice(tmp_path: Path) -> None:
    source = save_tiny_model(tmp_path / "base", tie_word_embeddings=True)
    head = tensors(source)["model.embed_tokens.weight"].clone()
    with_tensors(source, {"lm_head.weight": head, "mtp.fc.weight": torch.ones(2)})
    for low_memory in (False, True):
        saved = export(plan(source), source, tmp_path / str(low_memory), low_memory=low_memory)
        assert "lm_head.weight" not in tensors(saved)
        assert "mtp.fc.weight" in tensors(saved)
        assert read_json(saved / "config.json")["tie_word_embeddings"] is True


def test_a_second_copy_of_the_weights_is_neither_loaded_nor_saved(tmp_path: Path) -> None:
    source = save_tiny_model(tmp_path / "base")
    save_file({"tok_embeddings.weight": torch.ones(2, 2)}, source / "consolidated.safetensors")
    saved = export(plan(source), source, tmp_path / "model", low_memory=True)
    assert tensors(saved).keys() == load_file(source / "model.safetensors").keys()
    assert not (saved / "consolidated.safetensors").exists()


def with_unknown_type(path: Path, name: str) -> None:
    """Add a tensor of 6-bit numbers, which torch does not have, to a safetensors file."""
    data = path.read_bytes()
    length = int.from_bytes(data[:8], "little")
    header, body = json.loads(data[8 : 8 + length]), data[8 + length :]
    offsets = [len(body), len(body) + 12]
    header[name] = {"dtype": "F6_E2M3", "shape": [4, 4], "data_offsets": offsets}
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + body + bytes(12))


@pytest.mark.parametrize("low_memory", [False, True])
def test_layers_that_cannot_be_saved_are_no_longer_promised(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, low_memory: bool
) -> None:
    source, ahead = save_tiny_model(tmp_path / "base"), "model.layers.3.eh_proj.weight"
    text = {"mtp_num_hidden_layers": 1, "hidden_act": "silu"}
    with_tensors(source, {}, num_nextn_predict_layers=1, use_mtp=True, part_config=text)
    with_unknown_type(source / "model.safetensors", ahead)

    logging.getLogger("heretic").propagate = True
    with caplog.at_level(logging.WARNING, logger="heretic"):
        saved = export(plan(source), source, tmp_path / "model", low_memory=low_memory)

    assert ahead not in tensors(saved)
    config = read_json(saved / "config.json")
    assert config["num_nextn_predict_layers"] == 0
    assert config["use_mtp"] is False
    assert config["part_config"] == {"mtp_num_hidden_layers": 0, "hidden_act": "silu"}
    assert read_json(saved / "ablation.json")["omitted"] == {"tensors": [ahead]}
    (warning,) = [each.getMessage() for each in caplog.records if each.levelname == "WARNING"]
    assert ahead in warning
