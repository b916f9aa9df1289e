"""The saved configuration is the base model's own, so that every reader computes the same."""

import json
from pathlib import Path
from typing import Any

import pytest
from edit_fixtures import export, plan
from tiny_models import save_tiny_model
from transformers import AutoConfig

from heretic.errors import ExportError
from heretic.export.configuration import adapted

SCALING = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
SAVED = {"dtype": "bfloat16", "architectures": ["LlamaForCausalLM"]}
BASE = """{
    "architectures": ["LlamaForCausalLM"], "torch_dtype": "float32",
  "rope_theta": 5e5,"unknown key": [1.50, null],
  "quantization_config": {"bits": 4, "name": "a, b}"},
  "text_config": {"dtype": "float32", "hidden_size": 8},
  "vision_config": {"torch_dtype": "float16"}
}
"""


def with_version_4_form(folder: Path) -> tuple[str, dict[str, Any]]:
    """Rewrite a configuration as transformers 4 wrote it, with a format of its own."""
    path = folder / "config.json"
    config = json.loads(path.read_text())
    del config["rope_parameters"]
    config |= {"rope_theta": 500000.0, "rope_scaling": SCALING, "torch_dtype": config.pop("dtype")}
    if "num_local_experts" in config:
        config["num_experts"] = config.pop("num_local_experts")
    text = json.dumps(config, indent=4).replace("500000.0", "5e5")
    path.write_text(text)
    return text, config


@pytest.mark.parametrize("low_memory", [False, True])
@pytest.mark.parametrize("family", ["llama", "qwen3_moe"])
def test_a_configuration_is_kept_byte_for_byte(
    tmp_path: Path, family: str, low_memory: bool
) -> None:
    base = save_tiny_model(tmp_path / "base", family)
    text, config = with_version_4_form(base)
    saved = export(plan(base), base, tmp_path / "saved", low_memory=low_memory)
    assert (saved / "config.json").read_text() == text
    found: Any = AutoConfig.from_pretrained(saved)
    assert found.rope_parameters["rope_theta"] == config["rope_theta"]


@pytest.mark.parametrize("low_memory", [False, True])
def test_another_data_type_is_the_only_change(tmp_path: Path, low_memory: bool) -> None:
    base = save_tiny_model(tmp_path / "base", "llama")
    text, _ = with_version_4_form(base)
    ablation = plan(base, dtype="bfloat16")
    saved = export(ablation, base, tmp_path / "saved", low_memory=low_memory)
    expected = text.replace('"torch_dtype": "float32"', '"torch_dtype": "bfloat16"')
    assert expected != text
    assert (saved / "config.json").read_text() == expected


def test_parts_of_the_same_type_change_too_and_a_dropped_quantization_is_left_out() -> None:
    expected = (
        BASE.replace('"torch_dtype": "float32"', '"torch_dtype": "bfloat16"')
        .replace('"dtype": "float32"', '"dtype": "bfloat16"')
        .replace(',\n  "quantization_config": {"bits": 4, "name": "a, b}"}', "")
    )
    assert adapted(BASE, SAVED) == expected
    assert adapted(BASE, {**SAVED, "dtype": "float32", "quantization_config": {}}) == BASE


@pytest.mark.parametrize("position", ["first", "only", "last"])
def test_a_member_is_left_out_wherever_it_stands(position: str) -> None:
    member, other = '"quantization_config": {"bits": 4}', '"dtype": "bfloat16"'
    text = {
        "first": f"{{ {member} , {other} }}",
        "only": f"{{{member}}}",
        "last": f"{{{other},\n {member}\n}}",
    }[position]
    expected = {} if position == "only" else {"dtype": "bfloat16"}
    assert json.loads(adapted(text, SAVED)) == expected


def test_quantizations_of_parts_and_adjacent_ones_are_left_out() -> None:
    both = '"quantization_config": {"bits": 4}, "compression_config": {"n": 1}'
    text = f'{{{both}, "n": 1e0, "text_config": {{"quantization_config": {{}}, "k": [1.50]}}}}'
    assert adapted(text, SAVED) == '{"n": 1e0, "text_config": {"k": [1.50]}}'
    kept: dict[str, Any] = {"quantization_config": {}, "compression_config": {}}
    assert adapted(text, {**SAVED, **kept, "text_config": kept}) == text


def test_the_type_of_a_part_changes_where_the_whole_has_none() -> None:
    text = '{"architectures": ["LlamaForCausalLM"], "text_config": {"dtype": "float32", "n": 1e0}}'
    assert adapted(text, SAVED) == text.replace("float32", "bfloat16")


def test_nothing_is_added() -> None:
    for text in ("{}", '{"n": 1}', '{"text_config": {"n": 1}}'):
        assert adapted(text, SAVED) == text


def test_another_architecture_is_named() -> None:
    text = adapted('{"architectures": ["LlamaModel"], "dtype": "bfloat16"}', SAVED)
    assert text == '{"architectures": ["LlamaForCausalLM"], "dtype": "bfloat16"}'


@pytest.mark.parametrize("text", ["[]", "{", '{"dtype": 5', "", "5"])
def test_a_damaged_configuration_is_one_line(text: str) -> None:
    with pytest.raises(ExportError, match=r"config\.json is not a JSON object .*download it again"):
        adapted(text, SAVED)
