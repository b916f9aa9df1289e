"""A quantized checkpoint is exported as its full-precision counterpart would be."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from edit_fixtures import PARAMETERS, hashes
from packed_models import FORMATS, configure, save_packed, save_plain
from quantized_models import directions, facts_of, held_out_table, logits, save_wide
from safetensors.torch import load_file, save_file
from tiny_models import load_saved, tiny_tokenizer

from heretic.artifacts import read_json
from heretic.export.adapter import load_edited
from heretic.export.export import export_model
from heretic.export.full_precision import fit_to_original
from heretic.export.record import Ablation
from heretic.model.checkpoint import source_facts
from heretic.model.loading import load_baseline
from heretic.model.quantization import editable_form
from heretic.settings.schema import Settings

OPTIONS = Settings(device="cpu", response_prefix="").model_dump(mode="json")


def export(source: Path, target: Path, form: Any, *, low_memory: bool, **settings: Any) -> Path:
    facts = facts_of(load_saved(source, quantization=form))
    plan = Ablation.plan(
        PARAMETERS.to_dict(),
        facts,
        directions(),
        Settings(quantization=form, **settings).model_dump(),
    )
    ablation = fit_to_original(plan, facts, source, None, trust_remote_code=False)
    loaded = editable_form("none", source / "config.json")
    export_model(
        ablation,
        source,
        target,
        {"source": source_facts(str(source), None, source), "parameters": PARAMETERS.to_dict()},
        load=lambda: load_saved(source, dtype=ablation.dtype, quantization=loaded),
        low_memory=low_memory,
        trust_remote_code=False,
    )
    return target


def files_of(folder: Path) -> dict[str, str]:
    """Hashes of the files, except for the record, which names the source."""
    return {name: value for name, value in hashes(folder).items() if name != "ablation.json"}


@pytest.mark.parametrize("form", ["mxfp4", "fp8", "gptq", "int4"])
@pytest.mark.parametrize("low_memory", [True, False])
def test_the_files_are_those_of_the_plain_counterpart(
    tmp_path: Path, form: str, low_memory: bool
) -> None:
    family = "gpt_oss" if form == "mxfp4" else "llama"
    values = save_packed(tmp_path / "packed", form, family, shards="100KB")
    plain = save_plain(tmp_path / "packed", tmp_path / "plain", values)
    wanted = export(plain, tmp_path / "a" / "model", "none", low_memory=True)

    found = export(
        tmp_path / "packed", tmp_path / "b" / "model", "dequantize", low_memory=low_memory
    )

    assert "quantization_config" not in json.loads((found / "config.json").read_text())
    assert files_of(found) == files_of(wanted)
    assert not logits(load_saved(found)).equal(logits(load_saved(plain)))


def test_a_search_on_the_released_form_exports_its_dequantized_matrices(tmp_path: Path) -> None:
    save_packed(tmp_path / "packed", "fp8")
    wanted = export(tmp_path / "packed", tmp_path / "a" / "model", "dequantize", low_memory=True)

    found = export(tmp_path / "packed", tmp_path / "b" / "model", "as_is", low_memory=True)

    assert files_of(found) == files_of(wanted)


def test_an_adapter_applies_to_the_dequantized_matrices(tmp_path: Path) -> None:
    save_packed(tmp_path / "packed", "fp8")
    source = tmp_path / "packed"
    merged = export(source, tmp_path / "a" / "model", "dequantize", low_memory=True)
    adapter = export(
        source, tmp_path / "b" / "model", "dequantize", low_memory=True, export="adapter"
    )
    options = {**OPTIONS, "model": str(source), "quantization": "dequantize"}

    edited, original = load_edited(adapter, options, str(source)), load_baseline(**options)

    change = logits(load_saved(merged)) - logits(original)
    assert (logits(edited) - logits(load_saved(merged))).norm() < 0.2 * change.norm()


def test_the_original_of_the_table_is_the_dequantized_model(tmp_path: Path) -> None:
    source = tmp_path / "packed"
    save_packed(source, "fp8")
    saved = export(source, tmp_path / "run" / "model", "dequantize", low_memory=True)
    options = {**OPTIONS, "model": str(source), "quantization": "dequantize"}

    table = held_out_table(
        saved,
        lambda: load_baseline(**options),
        lambda: load_edited(saved, options, str(source)),
    )

    assert table["noop_identical"] is True
    assert table["original"]["quantization"] == "dequantize"
    assert "quantization" not in table["edited"]
    means = [table[name]["kl_first_token"]["mean"] for name in ("original", "edited")]
    assert means[0] == 0 < means[1]


def test_a_checkpoint_that_runs_as_released_is_the_original(tmp_path: Path) -> None:
    pytest.importorskip("bitsandbytes")
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    config = BitsAndBytesConfig(load_in_4bit=True)  # type: ignore[no-untyped-call]
    network = AutoModelForCausalLM.from_pretrained(
        save_wide(tmp_path / "plain"), quantization_config=config, device_map={"": "cpu"}
    )
    network.save_pretrained(tmp_path / "packed")
    tiny_tokenizer().save_pretrained(tmp_path / "packed")
    options = {**OPTIONS, "model": str(tmp_path / "packed"), "quantization": "dequantize"}

    model = load_baseline(**options)

    assert model.quantization == "as_is"
    assert not any(writer.editable for writer in model.anatomy.writers)


@pytest.mark.parametrize("low_memory", [False, True])
def test_layers_that_transformers_does_not_load_are_dequantized_as_well(
    tmp_path: Path, low_memory: bool
) -> None:
    source = tmp_path / "packed"
    save_packed(source, "fp8")
    ahead, (path,) = "model.layers.3", source.glob("*.safetensors")
    parts, values = FORMATS["fp8"][0](np.random.default_rng(0).normal(size=(40, 72)))
    norm = torch.rand(72).bfloat16()
    more = {f"{ahead}.mlp.up_proj.weight{part}": found for part, found in parts.items()}
    save_file({**load_file(path), **more, f"{ahead}.enorm.weight": norm}, path, {"format": "pt"})
    configure(source, num_nextn_predict_layers=1)

    saved = export(source, tmp_path / "model", "dequantize", low_memory=low_memory)

    found = load_file(saved / "model.safetensors")
    expected = torch.from_numpy(values).float().bfloat16()
    assert found[f"{ahead}.mlp.up_proj.weight"].equal(expected)
    assert found[f"{ahead}.enorm.weight"].equal(norm)
    assert not any(name.endswith("scale_inv") for name in found)
    config = read_json(saved / "config.json")
    assert config["num_nextn_predict_layers"] == 1
    assert "quantization_config" not in config
    assert "omitted" not in read_json(saved / "ablation.json")
