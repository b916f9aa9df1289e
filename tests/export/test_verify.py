"""A saved folder is compared with its record and its base model; each kind of damage is found."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from edit_fixtures import export, plan
from safetensors.torch import load_file, save_file
from tiny_models import save_tiny_model
from typer.testing import CliRunner

from heretic.artifacts import read_json, write_json
from heretic.cli import command_line
from heretic.commands.verify import verify
from heretic.errors import ExportError, ModelLoadError
from heretic.export.manifest import manifest
from heretic.settings.schema import Settings

torch.set_num_threads(1)
SETTINGS = Settings(device="cpu")
EDITED, UNTOUCHED = "model.layers.1.self_attn.o_proj.weight", "model.layers.0.mlp.up_proj.weight"


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base model, its edit in shards, and its edit as an adapter."""
    place = tmp_path_factory.mktemp("original")
    base = save_tiny_model(place / "base", max_shard_size="40KB", dtype=torch.bfloat16)
    (base / "LICENSE").write_text("free")
    export(plan(base), base, place / "model", low_memory=True)
    export(plan(base, export="adapter"), base, place / "adapter", low_memory=True)
    return place


@pytest.fixture
def saved(original: Path, tmp_path: Path) -> Path:
    """A copy of the saved model, as after a download."""
    shutil.copytree(original / "model", tmp_path / "model")
    (tmp_path / "model" / "README.md").write_text("The card may be edited.")
    (tmp_path / "model" / ".gitattributes").write_text("*.safetensors filter=lfs")
    return tmp_path / "model"


def failures(folder: Path, **options: Any) -> dict[str, str]:
    """The first difference found by each failed comparison."""
    checks = list(verify(folder, SETTINGS, **options))
    return {check.name: check.found for check in checks if not check.passed}


def change_value(folder: Path, tensor: str, file: str = "") -> str:
    """Flip the last bit of a tensor, and return the name of its file."""
    index = folder / "model.safetensors.index.json"
    name = file or read_json(index)["weight_map"][tensor]
    stored = load_file(folder / name)
    raw = stored[tensor].view(-1).view(torch.uint8)
    raw[0] ^= 1
    save_file(stored, folder / name, metadata={"format": "pt"})
    return name


def record_again(folder: Path) -> None:
    """Update the hashes in the record, as a deliberate change would."""
    record = read_json(folder / "ablation.json")
    files = {k: v for k, v in manifest(folder).items() if k in record["files"]}
    write_json(folder / "ablation.json", {**record, "files": files})


def test_an_unchanged_model_passes_each_comparison(saved: Path) -> None:
    checks = list(verify(saved, SETTINGS))
    assert all(check.passed for check in checks)
    names = ["record", "files", "base model", "configuration", "other files", "tensors"]
    assert [check.name for check in checks] == names
    assert checks[-1].found == "5 edited as recorded, 25 identical to the base model"


@pytest.mark.parametrize(
    ("tensor", "what"), [(UNTOUCHED, "the base model"), (EDITED, "the recorded edit")]
)
def test_a_changed_bit_is_found_even_if_the_record_was_changed_with_it(
    saved: Path, tensor: str, what: str
) -> None:
    file = change_value(saved, tensor)
    expected = {"tensors": f"{tensor} differs from {what}"}
    hashes = {"files": f"SHA-256 of {file} differs from ablation.json"}
    assert failures(saved) == {**hashes, **expected}
    record_again(saved)
    assert failures(saved) == expected


def test_a_changed_edit_in_the_record_is_found(saved: Path) -> None:
    record = read_json(saved / "ablation.json")
    record["edits"][0]["strengths"][0] *= 1.01
    write_json(saved / "ablation.json", record)
    name = f"{record['edits'][0]['name']}.weight"
    assert failures(saved) == {"tensors": f"{name} differs from the recorded edit"}


def _configure(folder: Path) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps({**read_json(path), "rms_norm_eps": 1e-5}))


def _retokenize(folder: Path) -> None:
    path = folder / "tokenizer_config.json"
    path.write_text(json.dumps({**read_json(path), "padding_side": "left"}, indent=2))


def _add_shard(folder: Path) -> None:
    save_file({"more": torch.ones(2)}, folder / "model-00009-of-00009.safetensors")


def _add_code(folder: Path) -> None:
    (folder / "modeling_other.py").write_text("import os\n")


@pytest.mark.parametrize(
    ("damage", "found"),
    [
        (_configure, {"configuration": "rms_norm_eps of config.json differs from the base model"}),
        (_retokenize, {"other files": "tokenizer_config.json differs from the base model"}),
        (lambda f: (f / "LICENSE").unlink(), {"files": "LICENSE is missing"}),
        (
            _add_shard,
            {"files": "model-00009-of-00009.safetensors does not belong to the saved model"},
        ),
        (_add_code, {"files": "modeling_other.py does not belong to the saved model"}),
    ],
)
def test_other_damage_is_found(
    saved: Path, damage: Callable[[Path], Any], found: dict[str, str]
) -> None:
    damage(saved)
    reported = failures(saved)
    assert found.items() <= reported.items()


@pytest.mark.parametrize("low", [0, 20])
def test_a_file_cut_off_is_found(saved: Path, low: int) -> None:
    path = min(saved.glob("*.safetensors"))
    path.write_bytes(path.read_bytes()[:low])
    assert failures(saved).keys() == {"files", "tensors"}


def test_files_added_to_the_record_are_found(saved: Path) -> None:
    _add_code(saved)
    record = read_json(saved / "ablation.json")
    record["files"]["modeling_other.py"] = manifest(saved)["modeling_other.py"]
    write_json(saved / "ablation.json", record)
    assert failures(saved) == {"other files": "modeling_other.py is not in the base model"}


def test_hidden_files_of_the_manifest_are_ignored(saved: Path) -> None:
    (saved / ".DS_Store").write_text("a")
    facts = {"files": manifest(saved), "parameters": {}, "source": {}, "prompts": {}}
    write_json(saved.with_name(f"{saved.name}.manifest.json"), {"format": 1, **facts})
    (saved / ".DS_Store").write_text("b")
    assert not failures(saved)


def test_a_tensor_too_few_or_too_many_is_found(saved: Path) -> None:
    index = read_json(saved / "model.safetensors.index.json")
    file = saved / index["weight_map"][UNTOUCHED]
    stored = load_file(file)
    index["weight_map"]["mtp.fc.weight"] = file.name
    save_file({**stored, "mtp.fc.weight": torch.ones(1)}, file, metadata={"format": "pt"})
    (saved / "model.safetensors.index.json").write_text(json.dumps(index))
    assert failures(saved)["tensors"] == "mtp.fc.weight is not in the base model"
    del index["weight_map"][UNTOUCHED]
    (saved / "model.safetensors.index.json").write_text(json.dumps(index))
    assert failures(saved)["tensors"] == f"{UNTOUCHED} is missing"


def test_other_files_such_as_figures_are_only_named(saved: Path) -> None:
    (saved / "figure.png").write_text("png")
    checks = {check.name: check for check in verify(saved, SETTINGS)}
    assert all(check.passed for check in checks.values())
    assert "not part of the model: figure.png" in checks["files"].found


def test_a_manifest_next_to_the_folder_is_compared_too(saved: Path) -> None:
    files = manifest(saved)
    payload = {"format": 1, "files": files, "parameters": {}, "source": {}, "prompts": {}}
    write_json(saved.with_name("model.manifest.json"), {**payload, "provenance": {}})
    (saved / "README.md").write_text("edited")
    assert failures(saved) == {}
    record = read_json(saved / "ablation.json")
    write_json(saved / "ablation.json", {**record, "note": "mine"})
    what = "ablation.json is not the file listed in model.manifest.json"
    assert failures(saved) == {"manifest": what}


def test_the_working_folder_may_be_the_saved_one(
    saved: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(saved)
    assert failures(Path()) == {}


def test_the_base_model_must_be_the_recorded_one(saved: Path, tmp_path: Path) -> None:
    other = save_tiny_model(tmp_path / "other", seed=1, dtype=torch.bfloat16)
    with pytest.raises(ExportError, match="differ from the ones that were edited"):
        failures(saved, base_model=str(other))
    with pytest.raises(ModelLoadError, match="does not exist"):
        failures(saved, base_model=str(tmp_path / "nothing"))
    (saved / "ablation.json").unlink()
    with pytest.raises(ExportError, match=r"has no ablation\.json"):
        failures(saved)


def test_an_adapter_is_compared_with_the_recorded_edit(original: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(original / "adapter", tmp_path / "adapter")
    assert failures(folder) == {}
    name = "base_model.model.model.layers.1.self_attn.o_proj.lora_A.weight"
    change_value(folder, name, "adapter_model.safetensors")
    config = read_json(folder / "adapter_config.json")
    (folder / "adapter_config.json").write_text(json.dumps({**config, "lora_alpha": 7}))
    record_again(folder)
    assert failures(folder) == {
        "configuration": "lora_alpha of adapter_config.json differs from the recorded edit",
        "tensors": f"{name} differs from the recorded edit",
    }


def test_the_command_prints_each_comparison_and_fails(saved: Path, original: Path) -> None:
    arguments = ["verify", str(saved), "--device", "cpu", "--base-model", str(original / "base")]
    done = CliRunner().invoke(command_line(), arguments)
    assert done.exit_code == 0, done.output
    assert done.output.count("ok      ") == 6
    change_value(saved, UNTOUCHED)
    done = CliRunner().invoke(command_line(), arguments)
    assert "FAILED  files: " in done.output
    assert f"FAILED  tensors: {UNTOUCHED} differs from the base model" in done.output
    assert isinstance(done.exception, ExportError)
    assert "SHA-256 of" in str(done.exception)
