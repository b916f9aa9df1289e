"""Files besides the weights are those of the base model; what is not copied is named."""

import json
import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from edit_fixtures import export, hashes, plan
from tiny_models import CHAT_TEMPLATE, save_tiny_model
from transformers import AutoModelForCausalLM, AutoTokenizer

from heretic.artifacts import read_json
from heretic.model.size import listed_files

torch.set_num_threads(1)
KEPT = {
    "LICENSE": "free",
    "Llama_License.txt": "also free",
    "licence.pdf": "%PDF",
    "legal/MODEL_LICENSE": "free",
    "COPYING": "GPL",
    "NOTICE.txt": "note",
    "USE_POLICY": "be kind",
    "Acceptable_Use_Policy.pdf": "%PDF",
    "added_tokens.json": "{}",
    "tokenizer.model": "spm",
    "tekken.json": "{}",
    "params.json": '{"dim": 32}',
    "preprocessor_config.json": '{"size": 224}',
    "video_preprocessor_config.json": "{}",
    "special_tokens_map.json": '{"eos_token": "<|end|>"}',
    "generation_config.json": '{"temperature": 0.6, "top_p": 0.95, "unknown": 1.50}',
    "merges.bpe": "a b",
}
OMITTED = {
    "pytorch_model.bin": "pickle",
    "pytorch_model.bin.index.json": "{}",
    "consolidated.safetensors": "not read",
    "figures/curve.png": "png",
    "model-q4.gguf": "GGUF",
    "onnx/config.json": "{}",
    "onnx/model.onnx": "onnx",
    "hf_quant_config.json": "{}",
}
CODE = {
    "configuration_tiny.py": """
from transformers import LlamaConfig
class TinyConfig(LlamaConfig):
    model_type = "tiny"
""",
    "modeling_tiny.py": """
from transformers import LlamaForCausalLM
from .configuration_tiny import TinyConfig
from .helpers import WORD
class TinyForCausalLM(LlamaForCausalLM):
    config_class = TinyConfig
    word = WORD
""",
    "helpers.py": 'from .words import WORD\n__all__ = ["WORD"]\n',
    "words.py": 'WORD = "kept"\n',
    "inference/kernels/matmul.py": "TILE = 8\n",
}


def write(folder: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)


@pytest.mark.parametrize("low_memory", [False, True])
def test_each_file_is_kept_byte_for_byte_or_named(
    tmp_path: Path, low_memory: bool, caplog: pytest.LogCaptureFixture
) -> None:
    source = save_tiny_model(tmp_path / "base")
    write(source, {**KEPT, **OMITTED, ".gitattributes": "*", ".cache/x.py": "", "README.md": "c"})
    logging.getLogger("heretic").propagate = True
    with caplog.at_level(logging.WARNING, logger="heretic"):
        saved = export(plan(source), source, tmp_path / "model", low_memory=low_memory)
    for name in KEPT:
        assert (saved / name).read_bytes() == (source / name).read_bytes(), name
    assert not hashes(saved).keys() & {*OMITTED, "README.md", ".gitattributes", ".cache/x.py"}
    assert read_json(saved / "ablation.json")["omitted"] == {"files": sorted(OMITTED)}
    (warning,) = [each.getMessage() for each in caplog.records if "Not copied" in each.getMessage()]
    assert all(name in warning for name in OMITTED)
    assert "README" not in warning


def test_no_generation_defaults_are_invented(tmp_path: Path) -> None:
    source = save_tiny_model(tmp_path / "base")
    (source / "generation_config.json").unlink()
    for low_memory in (False, True):
        saved = export(plan(source), source, tmp_path / str(low_memory), low_memory=low_memory)
        assert not (saved / "generation_config.json").exists()
        assert "omitted" not in read_json(saved / "ablation.json")


@pytest.mark.parametrize("low_memory", [False, True])
def test_code_is_saved_with_the_modules_that_it_imports(tmp_path: Path, low_memory: bool) -> None:
    source = save_tiny_model(tmp_path / "base")
    ablation = plan(source)
    write(source, CODE)
    names = {
        "AutoConfig": "configuration_tiny.TinyConfig",
        "AutoModelForCausalLM": "modeling_tiny.TinyForCausalLM",
    }
    config = {**read_json(source / "config.json"), "auto_map": names}
    (source / "config.json").write_text(json.dumps(config))
    saved = export(ablation, source, tmp_path / "model", low_memory=low_memory)
    for name in CODE:
        assert (saved / name).read_bytes() == (source / name).read_bytes(), name
    assert read_json(saved / "config.json")["auto_map"] == names
    again: Any = AutoModelForCausalLM.from_pretrained(saved, trust_remote_code=True)
    assert again.word == "kept"


PLACES: dict[str, str] = {
    "chat_template.jinja": CHAT_TEMPLATE,
    "additional_chat_templates/tool_use.jinja": "tools: " + CHAT_TEMPLATE,
    "chat_template.json": json.dumps({"chat_template": CHAT_TEMPLATE}),
    "processor_config.json": json.dumps({"chat_template": CHAT_TEMPLATE, "size": 1.5}),
}


def with_every_template(folder: Path, in_tokenizer: object) -> Path:
    source = save_tiny_model(folder)
    write(source, PLACES)
    path = source / "tokenizer_config.json"
    values = {"padding_side": "right", "chat_template": in_tokenizer, **read_json(path)}
    path.write_text(json.dumps(values, indent=4))
    return source


@pytest.mark.parametrize(
    "in_tokenizer", [CHAT_TEMPLATE, [{"name": "default", "template": CHAT_TEMPLATE}]]
)
def test_templates_are_kept_in_every_place(tmp_path: Path, in_tokenizer: object) -> None:
    source = with_every_template(tmp_path / "base", in_tokenizer)
    saved = export(plan(source), source, tmp_path / "model", low_memory=True)
    for name in (*PLACES, "tokenizer_config.json"):
        assert (saved / name).read_bytes() == (source / name).read_bytes(), name


def test_a_given_template_is_the_only_default(tmp_path: Path) -> None:
    source = with_every_template(tmp_path / "base", CHAT_TEMPLATE)
    mine = "mine: " + CHAT_TEMPLATE
    saved = export(plan(source, chat_template=mine), source, tmp_path / "model", low_memory=True)
    assert (saved / "chat_template.jinja").read_text() == mine
    assert not (saved / "chat_template.json").exists()
    for name in ("processor_config.json", "tokenizer_config.json"):
        before, after = read_json(source / name), read_json(saved / name)
        assert before.pop("chat_template") == CHAT_TEMPLATE
        assert before == after
    tool = "additional_chat_templates/tool_use.jinja"
    assert (saved / tool).read_bytes() == (source / tool).read_bytes()
    tokenizer = AutoTokenizer.from_pretrained(saved)
    assert tokenizer.chat_template["default"] == mine


def test_files_of_a_folder_that_is_no_snapshot_are_not_looked_up(tmp_path: Path) -> None:
    assert listed_files(tmp_path) == set()
