"""A checkpoint that cannot be loaded is recognized by its files, each with what to do."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy
import pytest
from safetensors.numpy import save_file
from transformers.models.auto import modeling_auto

from heretic.errors import ModelLoadError
from heretic.model.architectures import (
    CAUSAL,
    ENCODER_DECODER,
    IMAGE_TEXT,
    MASKED,
    check_architecture,
    known_types,
)
from heretic.model.checkpoint import check_model, weight_files
from heretic.model.headers import INDEX, index_files, read_headers
from heretic.model.inspection import check_chat, check_listing, has_tokenizer, inspect_folder

LLAMA = {"model_type": "llama", "num_hidden_layers": 2, "hidden_size": 8, "vocab_size": 16}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two layers of eight channels, and sixteen tokens."""
    (tmp_path / "config.json").write_text(json.dumps(LLAMA))
    tensors = {f"layers.{i}.down.weight": numpy.zeros((8, 12), numpy.float32) for i in range(2)}
    save_file(
        {**tensors, "embed.weight": numpy.zeros((16, 8), numpy.float32)},
        tmp_path / "model.safetensors",
    )
    return tmp_path


def refusal(folder: Path) -> str:
    with pytest.raises(ModelLoadError) as caught:
        inspect_folder("mine", folder, trust_remote_code=False)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_sound_folder_passes(folder: Path) -> None:
    inspect_folder("mine", folder, trust_remote_code=False)
    headers = read_headers(weight_files(folder))
    assert (headers.layers, headers.largest_dimension, headers.elements) == (2, 16, 2 * 96 + 128)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"num_hidden_layers": 10**6}, "num_hidden_layers=1000000, but the weights have at most 2"),
        ({"hidden_size": 17}, "hidden_size=17, but the weights have at most 16"),
        ({"text_config": {"vocab_size": 10**9}}, "vocab_size=1000000000, but the weights have"),
        ({"num_attention_heads": 0}, "num_attention_heads=0, which is not a size"),
        ({"num_hidden_layers": "2"}, "num_hidden_layers='2', which is not a size"),
        ({"hidden_size": None}, "hidden_size=None, which is not a size"),
        ({"vocab_size": True}, "vocab_size=True, which is not a size"),
        ({"num_labels": 10**6}, "num_labels=1000000, more than"),
        ({"transformers_weights": "../a.safetensors"}, "takes weights from '../a.safetensors'"),
        ({"model_type": None}, "has no model_type"),
    ],
)
def test_sizes_are_compared_with_the_headers(
    folder: Path, change: dict[str, Any], reason: str
) -> None:
    (folder / "config.json").write_text(json.dumps({**LLAMA, **change}))
    assert reason in refusal(folder)


def test_quantized_numbers_may_be_packed(folder: Path) -> None:
    config = {**LLAMA, "hidden_size": 64, "quantization_config": {"quant_method": "gptq"}}
    (folder / "config.json").write_text(json.dumps(config))
    inspect_folder("mine", folder, trust_remote_code=False)


@pytest.mark.parametrize("depth", [60, 100_000])
def test_a_configuration_may_not_be_nested_deeply(folder: Path, depth: int) -> None:
    (folder / "config.json").write_text('{"a":' * depth + "1" + "}" * depth)
    message = refusal(folder)
    assert "nested more than" in message or "cannot be read" in message


@pytest.mark.parametrize(
    "name", ["../model.safetensors", "/dev/zero", "a/b.safetensors", 5, None, "config.json", ""]
)
def test_an_index_names_plain_files_only(folder: Path, name: object) -> None:
    (folder / INDEX).write_text(json.dumps({"weight_map": {"w": name}}))
    assert "only safetensors files of the same folder are loaded" in refusal(folder)


def test_files_that_an_index_names_are_hashed(folder: Path) -> None:
    save_file({"x": numpy.zeros(1, numpy.float32)}, folder / "other.safetensors")
    assert [path.name for path in weight_files(folder)] == ["model.safetensors"]
    (folder / INDEX).write_text(json.dumps({"weight_map": {"x": "other.safetensors"}}))
    assert index_files(folder) == ["other.safetensors"]
    assert "other.safetensors" in [path.name for path in weight_files(folder)]


@pytest.mark.parametrize(
    ("files", "reason"),
    [
        (["adapter_config.json", "adapter_model.safetensors"], "LoRA adapter"),
        (["config.json", "model.safetensors", "adapter_config.json"], "LoRA adapter"),
        (["model-Q4_K_M.gguf", "README.md"], "GGUF"),
        (["config.json", "pytorch_model.bin"], "no .safetensors files but pytorch_model.bin"),
        (["config.json"], "has no .safetensors files"),
        (["model.safetensors"], "has no config.json"),
    ],
)
def test_folders_of_another_kind(tmp_path: Path, files: list[str], reason: str) -> None:
    for name in files:
        (tmp_path / name).write_text("{}")
    with pytest.raises(ModelLoadError, match=reason):
        check_model(str(tmp_path), None)
    with pytest.raises(ModelLoadError, match=reason):
        check_listing("owner/name", files)


def test_a_gguf_file(tmp_path: Path) -> None:
    with pytest.raises(ModelLoadError, match="is a GGUF model"):
        check_model(str(tmp_path / "model.gguf"), None)
    with pytest.raises(ModelLoadError, match="is a GGUF model"):
        check_model("model.gguf", None)


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        ({"model_type": "bert", "architectures": ["BertForMaskedLM"]}, "BertForMaskedLM, which"),
        ({"model_type": "bert"}, "is an encoder"),
        ({"model_type": "t5"}, "is an encoder-decoder"),
        ({"model_type": "bart", "is_encoder_decoder": True}, "is an encoder-decoder"),
        ({"model_type": "vit"}, "does not generate text"),
        (
            {"model_type": "llama", "architectures": ["LlamaForSequenceClassification"]},
            "does not gen",
        ),
        ({"model_type": "no-such"}, "update transformers"),
        ({"model_type": "own", "auto_map": {"AutoConfig": "x.Y"}}, "set trust_remote_code=true"),
        ({"model_type": "\x1b[2J"}, r"\\x1b\[2J"),
        ({}, "has no model_type"),
    ],
)
def test_networks_that_write_no_text(config: dict[str, Any], reason: str) -> None:
    with pytest.raises(ModelLoadError, match=reason) as caught:
        check_architecture("mine", config)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "kind", ["llama", "qwen3_moe", "gpt2", "gemma3", "llava", "mamba", "gpt_oss"]
)
def test_networks_that_write_text(kind: str) -> None:
    check_architecture("mine", {"model_type": kind})


def test_own_code_may_know_any_type() -> None:
    config = {"model_type": "own", "auto_map": {"AutoConfig": "x.Y"}}
    check_architecture("mine", config, trust_remote_code=True)


@pytest.mark.parametrize("table", [CAUSAL, MASKED, IMAGE_TEXT, ENCODER_DECODER])
def test_tables_are_those_of_transformers(table: str) -> None:
    assert known_types()[table] == dict(getattr(modeling_auto, table))


@pytest.mark.parametrize(
    ("names", "found"),
    [
        (["tokenizer.json"], True),
        (["tokenizer.model"], True),
        (["vocab.json", "merges.txt"], True),
        (["qwen.tiktoken"], True),
        (["tokenizer_config.json"], False),
        (["config.json", "model.safetensors"], False),
    ],
)
def test_tokenizers_are_known_by_their_files(names: list[str], found: bool) -> None:
    assert has_tokenizer(names) is found


def test_templates_are_looked_for_wherever_they_may_be(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(ModelLoadError, match="has no chat template"):
        check_chat("mine", tmp_path, None)
    check_chat("mine", tmp_path, "{{ messages }}")
    for name in ("tokenizer_config.json", "processor_config.json", "chat_template.json"):
        (tmp_path / name).write_text(json.dumps({"chat_template": "{{ messages }}"}))
        check_chat("mine", tmp_path, None)
        (tmp_path / name).unlink()
    (tmp_path / "chat_template.jinja").write_text("{{ messages }}")
    check_chat("mine", tmp_path, None)


def test_nothing_here_imports_torch() -> None:
    code = (
        "import sys, heretic.preflight; "
        "from heretic.model.architectures import known_types; known_types(); "
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
