"""Model folders: configurations, index files, headers, tensors, and folders of another kind."""

import json
import os
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from malformed.case import Case
from malformed.model_folders import Change, case_of, edited_json, in_turn, removed, written

WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
SIZES = (
    *("num_hidden_layers", "hidden_size", "intermediate_size", "num_attention_heads"),
    *("num_key_value_heads", "head_dim", "vocab_size", "max_position_embeddings"),
)
ODD_SIZES: tuple[Any, ...] = (
    None,
    0,
    -1,
    1,
    7,
    10**6,
    10**12,
    2.5,
    "3",
    True,
    [],
    {},
    float("nan"),
)
OTHER_FIELDS: dict[str, tuple[Any, ...]] = {
    "rms_norm_eps": (None, "x", -1, float("inf"), []),
    "pad_token_id": (10**9, -1, "x", [1], 2.5),
    "eos_token_id": ("x", [], list(range(300)), 10**9, {"a": 1}, [[1]], -1),
    "tie_word_embeddings": ("maybe", None, 3),
    "hidden_act": ("none", None, 5, []),
    "rope_parameters": (None, [], {"rope_type": "x"}, {"rope_theta": 0}, {"factor": "x"}, 5),
    "num_labels": (10**6, -1, "x", 10**12),
    "id2label": ([], "x", {"a": "b"}),
    "dtype": ("float8_e4m3fn", "int8", "x", 5, [], "float64"),
    "architectures": ("x", [], [5], ["NoSuchModel"], {"a": 1}, ["BertModel"]),
    "model_type": (
        *(None, 5, "", [], "no-such", "bert", "t5", "vit", "mamba", "gpt2", "whisper", "../x"),
        *("bart", "clip", "albert", "\x1b]0;x\x07", "x" * 10**5, "llava", "qwen2_vl"),
    ),
    "layer_types": (["x"], [], "full_attention", ["full_attention"] * 10**6),
    "text_config": ({}, [], "x", {"hidden_size": 5}, None),
    "auto_map": ("x", {"AutoConfig": "x.Y"}, {"AutoModelForCausalLM": "../x.Y"}, []),
    "quantization_config": ({}, [], "x", {"quant_method": "x"}, {"quant_method": 5}, 7),
    "attn_implementation": ("x", 5, "kernels/x"),
    "_attn_implementation": ("x", 5),
    "initializer_range": ("x", -1, None),
    "attention_dropout": ("x", 5, None),
    "is_encoder_decoder": (True, "x"),
    "transformers_version": (5, "x", None),
    "torch_dtype": ("x", 5),
    "use_cache": ("x", None),
    "num_beams": (10**5, "x"),
    "name_or_path": (5, "/etc/passwd"),
}
CONFIGS: dict[str, str | bytes] = {
    "empty": "",
    "no object": "[]",
    "text": '"x"',
    "null": "null",
    "cut off": '{"model_type": "llama", "hid',
    "no JSON": "model_type: llama",
    "only the type": '{"model_type": "llama"}',
    "nothing": "{}",
    "lists 100,000 deep": "[" * 100_000 + "]" * 100_000,
    "objects 100,000 deep": '{"a":' * 100_000 + "1" + "}" * 100_000,
    "900 deep": json.dumps({"model_type": "llama"})[:-1] + ', "a": ' + "[" * 900 + "]" * 900 + "}",
    "invalid UTF-8": b'{"model_type": "\xff"}',
    "UTF-16": json.dumps({"model_type": "llama"}).encode("utf-16"),
    "50 MB": json.dumps({"model_type": "llama", "a": "x" * 50_000_000}),
    "a million keys": "{" + ",".join(f'"a{i}": 1' for i in range(10**6)) + "}",
    "a lone surrogate": '{"model_type": "\\ud800"}',
    "NUL bytes": "\0" * 100,
}
INDICES: dict[str, Any] = {
    "parent": {"w": "../model/model.safetensors"},
    "absolute": {"w": "/etc/passwd"},
    "device": {"w": "/dev/zero"},
    "missing": {"w": "model-00001-of-00002.safetensors"},
    "number": {"w": 5},
    "null": {"w": None},
    "list": {"w": ["model.safetensors"]},
    "empty name": {"w": ""},
    "folder": {"w": "."},
    "other suffix": {"w": "config.json"},
    "no such tensor": {"no.such.tensor": WEIGHTS},
    "nothing": {},
    "NUL": {"w": "a\0b"},
    "backslash": {"w": "..\\model.safetensors"},
    "100,000 tensors": {f"t{i}": WEIGHTS for i in range(100_000)},
    "10,000 files": {f"t{i}": f"model-{i}.safetensors" for i in range(10_000)},
}


def cases() -> Iterator[Case]:
    """Every case of the group."""
    yield case_of("sound", lambda folder: None)
    fields = {**dict.fromkeys(SIZES, ODD_SIZES), **OTHER_FIELDS}
    for field, values in fields.items():
        for value in values:
            shown = json.dumps(value)[:30]
            yield case_of(
                f"config.json: {field} {shown}", edited_json("config.json", {field: value})
            )
        yield case_of(f"config.json: without {field}", edited_json("config.json", {field: ...}))
    for what, text in CONFIGS.items():
        yield case_of(f"config.json: {what}", written("config.json", text))
    for what, weight_map in INDICES.items():
        index = {"metadata": {"total_size": 1}, "weight_map": weight_map}
        for kept in (True, False):
            change = written(INDEX, json.dumps(index))
            renamed = in_turn(change, lambda folder: _rename(folder))
            yield case_of(
                f"index: {what}, {'with' if kept else 'without'} model.safetensors",
                change if kept else renamed,
            )
    for what, text in {
        "list": "[]",
        "no map": "{}",
        "map is text": '{"weight_map": "x"}',
        "map is a list": '{"weight_map": [1]}',
        "no JSON": "{",
        "deep": "[" * 10**5,
        "metadata null": '{"metadata": null, "weight_map": {}}',
    }.items():
        yield case_of(f"index: {what}", in_turn(written(INDEX, text), _rename))
    for what, content in _headers().items():
        yield case_of(f"header: {what}", written(WEIGHTS, content))
    for what, change in _tensors().items():
        yield case_of(f"tensors: {what}", change)
    for what, change in _folders().items():
        yield case_of(f"folder: {what}", change)
    for device in ("cuda:3", "cuda", "mps", "xpu", "no-such", "cpu:7", "", "cuda:-1", "meta"):
        yield case_of(f"device: {device}", lambda folder: None, device=device)


def _rename(folder: Path) -> None:
    (folder / WEIGHTS).rename(folder / "model-00001-of-00001.safetensors")


def _file(header: bytes, data: bytes = b"") -> bytes:
    return struct.pack("<Q", len(header)) + header + data


def _headers() -> dict[str, bytes]:
    def one(**changes: Any) -> bytes:
        entry = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8], **changes}
        return _file(json.dumps({"w": entry}).encode(), b"\0" * 8)

    empty = {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}
    return {
        "empty file": b"",
        "8 bytes": b"\0" * 8,
        "length 2^63": struct.pack("<Q", 2**63) + b"{}",
        "length 2^64-1": struct.pack("<Q", 2**64 - 1) + b"{}",
        "100 MB announced": struct.pack("<Q", 10**8) + b"{}",
        "no JSON": _file(b"{"),
        "list": _file(b"[]"),
        "deep": _file(b"[" * 100_000),
        "deep metadata": _file(b'{"__metadata__": ' + b"[" * 50_000 + b"]" * 50_000 + b"}"),
        "nothing": _file(b"{}"),
        "unknown type": one(dtype="X9"),
        "type is a number": one(dtype=5),
        "shape is text": one(shape="x"),
        "negative shape": one(shape=[-2]),
        "huge shape": one(shape=[2**40, 2**40]),
        "offsets beyond": one(data_offsets=[0, 80]),
        "offsets reversed": one(data_offsets=[8, 0]),
        "offsets negative": one(data_offsets=[-8, 0]),
        "one offset": one(data_offsets=[0]),
        "entry is null": _file(b'{"w": null}'),
        "metadata of numbers": _file(b'{"__metadata__": {"format": 5}}'),
        "format tf": _file(b'{"__metadata__": {"format": "tf"}}'),
        "300,000 empty tensors": _file(
            json.dumps({f"t{i}": empty for i in range(300_000)}).encode()
        ),
        "a name of 1 MB": _file(json.dumps({"w" * 10**6: empty}).encode()),
        "pickle": b"\x80\x02}q\x00." + b"\0" * 100,
        "HTML": b"<!DOCTYPE html><html><body>Not found</body></html>",
        "Git LFS pointer": b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n",
    }


def _tensors() -> dict[str, Change]:
    def of(name: str, change: Any) -> Change:
        def edit(folder: Path) -> None:
            path = folder / WEIGHTS
            tensors = {key: value.clone() for key, value in load_file(path).items()}
            found = {key: change(value) if name in key else value for key, value in tensors.items()}
            kept = {key: value for key, value in found.items() if value is not None}
            save_file(kept, path, metadata={"format": "pt"})

        return edit

    def fill(number: float) -> Any:
        return lambda tensor: torch.full_like(tensor, number)

    names = ("embed_tokens", "layers.1.mlp.down_proj", "model.norm", "lm_head", "q_proj")
    changes: dict[str, Any] = {
        "missing": lambda tensor: None,
        "NaN": fill(float("nan")),
        "infinite": fill(float("inf")),
        "1e30": fill(1e30),
        "zero": fill(0.0),
        "int8": lambda tensor: tensor.to(torch.int8),
        "float8": lambda tensor: tensor.to(torch.float8_e4m3fn),
        "flat": lambda tensor: tensor.reshape(-1),
        "half": lambda tensor: tensor[: len(tensor) // 2].clone(),
        "twice": lambda tensor: torch.cat([tensor, tensor]),
        "empty": lambda tensor: tensor[:0].clone(),
        "bool": lambda tensor: tensor.to(torch.bool),
        "complex": lambda tensor: tensor.to(torch.complex64),
    }
    found = {
        f"{name} {what}": of(name, change) for name in names for what, change in changes.items()
    }
    found["all missing"] = of("", lambda tensor: None)
    found["cut off"] = lambda folder: os.truncate(folder / WEIGHTS, 40_000)
    return found


def _folders() -> dict[str, Change]:
    lora = json.dumps({"peft_type": "LORA", "base_model_name_or_path": "owner/base"})
    tokenizer = ("tokenizer*", "special_tokens_map.json")
    return {
        "empty": removed("*"),
        "no config": removed("config.json"),
        "no weights": removed("*.safetensors"),
        "only config": removed("t*", "c*.jinja", "*.safetensors", "g*"),
        "no tokenizer": removed(*tokenizer),
        "no template": removed("*.jinja"),
        "LoRA adapter": in_turn(
            removed("*"),
            written("adapter_config.json", lora),
            written("adapter_model.safetensors", _file(b"{}")),
        ),
        "LoRA adapter beside config": in_turn(
            removed(WEIGHTS),
            written("adapter_config.json", lora),
            written("adapter_model.safetensors", _file(b"{}")),
        ),
        "pickles only": in_turn(removed(WEIGHTS), written("pytorch_model.bin", b"\x80\x02.")),
        "GGUF": in_turn(removed("*"), written("model-Q4_K_M.gguf", b"GGUF")),
        "TensorFlow": in_turn(removed(WEIGHTS), written("tf_model.h5", b"x")),
        "other program's weights": lambda folder: (folder / WEIGHTS).rename(
            folder / "consolidated.safetensors"
        ),
        "config is a folder": in_turn(
            removed("config.json"), lambda folder: (folder / "config.json").mkdir()
        ),
        "weights are a folder": in_turn(
            removed(WEIGHTS), lambda folder: (folder / WEIGHTS).mkdir()
        ),
        "weights are a broken link": in_turn(
            removed(WEIGHTS), lambda folder: (folder / WEIGHTS).symlink_to("nowhere")
        ),
        "config is a broken link": in_turn(
            removed("config.json"), lambda folder: (folder / "config.json").symlink_to("nowhere")
        ),
        "weights are a loop of links": in_turn(
            removed(WEIGHTS), lambda folder: (folder / WEIGHTS).symlink_to(WEIGHTS)
        ),
        "weights are a device": in_turn(
            removed(WEIGHTS), lambda folder: (folder / WEIGHTS).symlink_to("/dev/zero")
        ),
        "config is a device": in_turn(
            removed("config.json"), lambda folder: (folder / "config.json").symlink_to("/dev/zero")
        ),
        "config is a pipe": in_turn(
            removed("config.json"), lambda folder: os.mkfifo(folder / "config.json")
        ),
        "weights are a pipe": in_turn(removed(WEIGHTS), lambda folder: os.mkfifo(folder / WEIGHTS)),
        "a second file of weights": written("model-2.safetensors", b"x"),
    }
