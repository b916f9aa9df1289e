"""The adapter, loaded by PEFT into the base model, is the edited model."""

import json
import logging
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from edit_fixtures import export, hashes, load, plan
from peft import PeftModel, PromptTuningConfig, get_peft_model
from safetensors.torch import load_file, save_file
from tiny_models import save_tiny_model
from transformers import AutoModelForCausalLM

from heretic.artifacts import read_json
from heretic.commands.verify import verify
from heretic.errors import ExportError
from heretic.export.adapter import attach_adapter
from heretic.export.formats import check_form, is_adapter
from heretic.export.record import Ablation
from heretic.settings.schema import Settings

torch.set_num_threads(1)
IDS = torch.tensor([[5, 17, 80, 200, 31, 9]])


def logits(network: Any) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = network(IDS).logits
    return found


def both_forms(source: Path, tmp_path: Path, **settings: Any) -> tuple[Path, Path]:
    merged = export(plan(source, **settings), source, tmp_path / "merged", low_memory=True)
    chosen = plan(source, export="adapter", **settings)
    return merged, export(chosen, source, tmp_path / "adapter", low_memory=False)


@pytest.mark.parametrize(("family", "k"), [("llama", 1), ("gpt2", 1), ("gpt2", 3), ("qwen2", 2)])
def test_peft_loads_it_into_the_base_model_to_the_same_logits(
    tmp_path: Path, family: str, k: int
) -> None:
    """GPT-2 has transposed matrices, and biases that write into the stream."""
    source = save_tiny_model(tmp_path / "base", family)
    merged, adapter = both_forms(source, tmp_path, k=k)
    base = AutoModelForCausalLM.from_pretrained(source)
    before, expected = logits(base), logits(AutoModelForCausalLM.from_pretrained(merged))
    with_adapter: Any = PeftModel.from_pretrained(base, str(adapter))
    assert (before - expected).abs().max() > 0.1
    torch.testing.assert_close(logits(with_adapter), expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(
        logits(with_adapter.merge_and_unload()), expected, rtol=1e-4, atol=1e-4
    )


@pytest.mark.parametrize("k", [1, 2])
def test_the_adapter_is_small_and_names_its_base(tmp_path: Path, k: int) -> None:
    source = save_tiny_model(tmp_path / "base")
    _, adapter = both_forms(source, tmp_path, k=k)
    assert {path.name for path in adapter.iterdir()} == {
        "adapter_config.json",
        "adapter_model.safetensors",
        "ablation.json",
    }
    assert is_adapter(adapter)
    config = json.loads((adapter / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == str(source)
    assert config["r"] == config["lora_alpha"] == k
    assert set(read_json(adapter / "ablation.json")["files"]) == {
        "adapter_config.json",
        "adapter_model.safetensors",
    }
    tensors = load_file(adapter / "adapter_model.safetensors")
    assert {min(tensor.shape) for tensor in tensors.values()} == {k}


def test_a_folder_of_the_hubs_cache_is_named_by_its_hub_id(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    logging.getLogger("heretic").propagate = True
    commit = "0123456789abcdef0123456789abcdef01234567"
    cached = tmp_path / "models--owner--small--base" / "snapshots" / commit
    for source, warns in ((save_tiny_model(cached), False), (tmp_path / "plain", True)):
        if warns:
            shutil.copytree(cached, source)
        caplog.clear()
        with caplog.at_level(logging.WARNING, logger="heretic"):
            saved = export(plan(source, export="adapter"), source, tmp_path / "a", low_memory=True)
        config = read_json(saved / "adapter_config.json")
        named = (config["base_model_name_or_path"], config["revision"])
        assert named == ((str(source), None) if warns else ("owner/small--base", commit))
        assert ("which other machines cannot find" in caplog.text) == warns
        assert all(check.passed for check in verify(saved, Settings(device="cpu")))


def test_the_same_edit_gives_the_same_bytes(tmp_path: Path) -> None:
    source = save_tiny_model(tmp_path / "base")
    chosen = plan(source, export="adapter")
    one = export(chosen, source, tmp_path / "one", low_memory=True)
    assert hashes(export(chosen, source, tmp_path / "two", low_memory=False)) == hashes(one)
    names = json.loads((one / "adapter_config.json").read_text())["target_modules"]
    assert names == sorted(names)


def test_a_phase_measures_it_in_the_base_model(tmp_path: Path) -> None:
    source = save_tiny_model(tmp_path / "base", dtype=torch.bfloat16)
    merged, adapter = both_forms(source, tmp_path)
    model = attach_adapter(load(source), adapter)
    expected = logits(AutoModelForCausalLM.from_pretrained(merged))
    before = logits(AutoModelForCausalLM.from_pretrained(source))
    found = logits(model.network)
    assert (found - expected).norm() < 0.1 * (before - expected).norm()


def test_an_adapter_of_another_model_is_refused(tmp_path: Path) -> None:
    source = save_tiny_model(tmp_path / "base")
    _, adapter = both_forms(source, tmp_path)
    other = load(save_tiny_model(tmp_path / "gpt2", "gpt2"))
    with pytest.raises(ExportError, match="does not fit the model"):
        attach_adapter(other, adapter)


@pytest.mark.parametrize("norm_preservation", ["column", "row", "frobenius"])
def test_restored_norms_are_not_of_low_rank(tmp_path: Path, norm_preservation: str) -> None:
    words = f"norm_preservation={norm_preservation}.*norm_preservation=none, or export=merged"
    with pytest.raises(ExportError, match=words):
        check_form("adapter", norm_preservation)
    check_form("merged", norm_preservation)
    source = save_tiny_model(tmp_path / "base")
    chosen = plan(source, export="adapter", norm_preservation=norm_preservation)
    with pytest.raises(ExportError, match=words):
        export(chosen, source, tmp_path / "adapter", low_memory=True)
    assert not (tmp_path / "adapter").exists()


def test_biases_of_some_writers_only_do_not_fit_into_one_adapter(tmp_path: Path) -> None:
    source = save_tiny_model(tmp_path / "base")
    chosen = plan(source, export="adapter")
    first, *rest = chosen.edits
    mixed = (replace(first, writer=replace(first.writer, bias=True)), *rest)
    with pytest.raises(ExportError, match=r"o_proj writes a bias .* export=merged"):
        export(replace(chosen, edits=mixed), source, tmp_path / "adapter", low_memory=True)


def test_no_edit_makes_no_adapter(tmp_path: Path) -> None:
    source = save_tiny_model(tmp_path / "base")
    nothing: Ablation = replace(plan(source, export="adapter"), edits=())
    with pytest.raises(ExportError, match="edits nothing"):
        export(nothing, source, tmp_path / "adapter", low_memory=True)


def test_an_adapter_without_effect_is_refused(tmp_path: Path) -> None:
    """Of names that the model does not have, which PEFT passes over, or of prompts."""
    source = save_tiny_model(tmp_path / "base")
    _, adapter = both_forms(source, tmp_path)
    weights = adapter / "adapter_model.safetensors"
    renamed = {name.replace("layers", "blocks"): t for name, t in load_file(weights).items()}
    save_file(renamed, weights)
    with pytest.raises(
        ExportError, match=r"has no module for .*blocks.*; specify its own base model"
    ):
        attach_adapter(load(source), adapter)
    weights.write_bytes(b"garbage")
    with pytest.raises(ExportError, match="does not fit the model"):
        attach_adapter(load(source), adapter)
    config = PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=2)
    tuned: Any = get_peft_model(AutoModelForCausalLM.from_pretrained(source), config)
    tuned.save_pretrained(tmp_path / "prompt")
    with pytest.raises(ExportError, match="adds tokens to prompts instead of editing weights"):
        attach_adapter(load(source), tmp_path / "prompt")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"target_modules": "(("}, "a pattern that cannot be matched"),
        ({"target_modules": "(.*)*x"}, "takes more than 3 s"),
        ({"rank_pattern": {"((": 1}}, "a pattern that cannot be matched"),
        ({"rank_pattern": 5}, "rank_pattern: Input should be a valid dictionary"),
        ({"r": 10**9}, "r: Input should be less than or equal to"),
        ({"peft_type": None}, "peft_type: Input should be a valid string"),
        ({"trainable_token_indices": [10**9]}, "does not fit the model"),
        ({"bias": 5}, "does not fit the model"),
    ],
)
def test_a_strangers_configuration_is_one_line(
    tmp_path: Path, change: dict[str, Any], words: str
) -> None:
    source = save_tiny_model(tmp_path / "base")
    _, adapter = both_forms(source, tmp_path)
    config = adapter / "adapter_config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), **change}))
    with pytest.raises(ExportError, match=words) as caught:
        attach_adapter(load(source), adapter)
    assert "\n" not in str(caught.value)
