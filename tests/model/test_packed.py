"""Quantized checkpoints load as the full-precision networks that their numbers stand for."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from packed_models import FORMATS, configure, pack_mlx, save_packed, save_plain
from quantized_models import logits, save_wide
from safetensors.torch import load_file, save_file
from tiny_models import load_saved
from transformers import AutoModelForCausalLM

from heretic.ablation.disk_weights import DiskWeights
from heretic.errors import ModelLoadError, SettingsError
from heretic.export.checkpoint import Checkpoint
from heretic.model.headers import read_headers
from heretic.model.packed.floats import tile_of
from heretic.model.packed.matrix import BLOCK_FP8, PackedMatrix
from heretic.model.packed.unpack import unpack
from heretic.model.quantization import check_checkpoint, check_packable
from heretic.model.size import checkpoint_bytes


def family_of(form: str) -> str:
    return "gpt_oss" if form == "mxfp4" else "llama"


@pytest.mark.parametrize("form", FORMATS)
def test_the_values_are_those_of_an_independent_packer(tmp_path: Path, form: str) -> None:
    values = save_packed(tmp_path / "packed", form, family_of(form))
    plain = load_saved(save_plain(tmp_path / "packed", tmp_path / "plain", values))

    model = load_saved(tmp_path / "packed", quantization="dequantize")

    assert model.loaded_dtype == torch.bfloat16
    assert all(writer.editable for writer in model.anatomy.writers)
    expected = plain.network.state_dict()
    found = model.network.state_dict()
    assert [name for name in expected if not found[name].equal(expected[name])] == []
    assert logits(model).equal(logits(plain))
    assert checkpoint_bytes(str(tmp_path / "packed"), None, "auto") == sum(
        tensor.nbytes for tensor in load_file(tmp_path / "plain" / "model.safetensors").values()
    )


@pytest.mark.parametrize("form", ["fp8", "mxfp4"])
def test_the_values_are_those_of_transformers(tmp_path: Path, form: str) -> None:
    save_packed(tmp_path, form, family_of(form))
    expected = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.bfloat16).state_dict()

    found = load_saved(tmp_path, quantization="dequantize").network.state_dict()

    assert found.keys() == expected.keys()
    assert [name for name in expected if not found[name].equal(expected[name])] == []


@pytest.mark.parametrize(("kind", "method"), [("4bit", "nf4"), ("8bit", "int8")])
def test_the_values_are_those_of_bitsandbytes(tmp_path: Path, kind: str, method: str) -> None:
    bitsandbytes = pytest.importorskip("bitsandbytes")
    from transformers import BitsAndBytesConfig

    save_wide(tmp_path / "plain")
    chosen: dict[str, Any] = {f"load_in_{kind}": True}
    if kind == "4bit":
        chosen |= {"bnb_4bit_quant_type": "nf4", "bnb_4bit_use_double_quant": True}
    config = BitsAndBytesConfig(**chosen)  # type: ignore[no-untyped-call]
    network = AutoModelForCausalLM.from_pretrained(
        tmp_path / "plain", quantization_config=config, device_map={"": "cpu"}
    )
    shutil.copytree(tmp_path / "plain", tmp_path / "packed")
    (tmp_path / "packed" / "model.safetensors").unlink()
    network.save_pretrained(tmp_path / "packed")

    found = load_saved(tmp_path / "packed", quantization="dequantize").network

    for layer in range(3):
        module = network.model.layers[layer].mlp.down_proj
        weight, own = module.weight, found.model.layers[layer].mlp.down_proj.weight
        if kind == "4bit":
            exact = bitsandbytes.functional.dequantize_4bit(weight.data, weight.quant_state)
        else:
            exact = bitsandbytes.functional.int8_vectorwise_dequant(weight.data, weight.SCB)
        assert own.equal(exact.to(own.dtype))


def test_experts_stored_one_by_one_are_joined(tmp_path: Path) -> None:
    source = save_wide(tmp_path / "base", "mixtral", dtype=torch.bfloat16)
    stored = load_file(source / "model.safetensors")
    scaled = {}
    for name in [name for name in stored if ".experts." in name]:
        values = stored[name].float()
        scale = values.abs().max() / 448
        stored[name] = (values / scale).to(torch.float8_e4m3fn)
        scaled[f"{name}_scale_inv"] = scale.reshape(1, 1)
    save_file(stored | scaled, source / "model.safetensors", {"format": "pt"})
    configure(source, quantization_config={"quant_method": "fp8", "weight_block_size": [128, 128]})

    network = load_saved(source, quantization="dequantize").network

    name = "model.layers.1.block_sparse_moe.experts.2.w2.weight"
    wanted = (stored[name].float() * scaled[f"{name}_scale_inv"]).bfloat16()
    assert network.get_parameter("model.layers.1.mlp.experts.down_proj")[2].equal(wanted)


def test_tiles_at_the_edges_may_be_cut_off() -> None:
    """Sizes that are not multiples of the tile, as in DeepSeek's projections."""
    assert tile_of((576, 300), (5, 3), [128, 128]) == (128, 128)
    assert tile_of((64, 64), (64, 1), None) == (1, 64)
    assert tile_of((4, 64, 64), (4,), [128, 128]) == (64, 64)
    with pytest.raises(ValueError, match="has scales"):
        tile_of((576, 300), (7, 3), [128, 128])
    matrix = PackedMatrix(BLOCK_FP8, {}, (576, 300), {"tile": (128, 128)})
    scales = torch.arange(1.0, 16).reshape(5, 3)
    parts = {"values": torch.ones(576, 300).to(torch.float8_e4m3fn), "scales": scales}

    found = unpack(matrix, parts, torch.float32)

    assert found[575, 299] == 15
    assert found[127, 128] == 2
    assert found[128, 127] == 4


def test_trials_restore_dequantized_matrices_from_disk(tmp_path: Path) -> None:
    save_packed(tmp_path, "mxfp4", "gpt_oss")
    model = load_saved(tmp_path, quantization="dequantize")

    source = DiskWeights(model)

    for writer in model.anatomy.writers:
        assert source.pristine(writer).weight.equal(writer.weight)


def test_leftover_settings_of_plain_weights_are_reported(tmp_path: Path) -> None:
    save_wide(tmp_path)
    configure(tmp_path, quantization_config={"quant_method": "gptq", "bits": 4})

    for chosen in ("none", "as_is", "bnb_4bit", "dequantize"):
        with pytest.raises(ModelLoadError, match="no tensor is quantized; delete the key"):
            check_checkpoint("mine", tmp_path / "config.json", chosen)


def test_empty_settings_count_as_absent(tmp_path: Path) -> None:
    save_wide(tmp_path)
    plain = logits(load_saved(tmp_path))
    configure(tmp_path, quantization_config={})

    assert logits(load_saved(tmp_path)).equal(plain)


@pytest.mark.parametrize("value", [[], "fp8", 7, ""])
def test_settings_that_are_no_object_are_reported(tmp_path: Path, value: object) -> None:
    save_wide(tmp_path)
    configure(tmp_path, quantization_config=value)

    with pytest.raises(ModelLoadError, match=r"which is not an object; delete the key"):
        check_checkpoint("mine", tmp_path / "config.json", "none")


@pytest.mark.parametrize("both", [False, True])
def test_the_format_of_mlx_is_named(tmp_path: Path, both: bool) -> None:
    save_wide(tmp_path)
    pack_mlx(tmp_path)
    if both:  # newer versions write the same under the key of transformers
        configure(tmp_path, quantization_config={"group_size": 32, "bits": 4})

    with pytest.raises(ModelLoadError, match=r"MLX's 4-bit format .*mlx_lm\.convert --dequantize"):
        check_checkpoint("mine", tmp_path / "config.json", "none")
    # Before the weights of a hub model are there.
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(ModelLoadError, match=r"MLX's 4-bit format"):
        check_checkpoint("mine", tmp_path / "config.json", "none")


def refusal(folder: Path, chosen: str = "dequantize") -> str:
    with pytest.raises(ModelLoadError) as caught:
        check_checkpoint("mine", folder / "config.json", chosen)
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_what_cannot_be_dequantized_is_refused_before_work(tmp_path: Path) -> None:
    save_packed(tmp_path, "gptq")
    check_checkpoint("mine", tmp_path / "config.json", "dequantize")
    assert "set quantization=dequantize" in refusal(tmp_path, "none")

    configure(tmp_path, quantization_config={"quant_method": "gptq", "bits": 3})
    assert "integers of 3 bits instead of 2, 4, 8" in refusal(tmp_path)
    configure(tmp_path, quantization_config={"quant_method": "hqq"})
    assert "cannot read the hqq weights of mine, only mxfp4, fp8" in refusal(tmp_path)
    configure(tmp_path, quantization_config={"quant_method": "fp8"})
    assert "qweight of mine has type I32 without the scales that fp8 stores" in refusal(tmp_path)


def test_the_package_of_bitsandbytes_is_needed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_packed(tmp_path, "fp8")
    configure(tmp_path, quantization_config={"quant_method": "bitsandbytes"})
    monkeypatch.setattr("heretic.model.quantization.find_spec", lambda name: None)

    with pytest.raises(SettingsError, match=r"needs the package bitsandbytes: pip install"):
        check_checkpoint("mine", tmp_path / "config.json", "dequantize")


def test_plain_weights_are_not_dequantized(tmp_path: Path) -> None:
    save_wide(tmp_path)
    assert "needs a quantized checkpoint, but mine is not quantized" in refusal(tmp_path)


def test_damaged_metadata_of_a_matrix_is_reported(tmp_path: Path) -> None:
    save_packed(tmp_path, "int4")
    path = tmp_path / "model.safetensors"
    stored = load_file(path)
    name = next(name for name in stored if name.endswith("weight_shape"))
    stored[name] = torch.tensor([7, 7])
    save_file(stored, path, {"format": "pt"})
    assert json.loads((tmp_path / "config.json").read_text())["quantization_config"]

    assert "not that of 7 x 7" in refusal(tmp_path)
    assert read_headers([path]).read(name) == torch.tensor([7, 7]).numpy().tobytes()


def test_formats_in_which_matrices_are_not_quantized_again(tmp_path: Path) -> None:
    save_packed(tmp_path, "gptq")

    with pytest.raises(ModelLoadError, match=r"saves mxfp4 and fp8 .* by gptq; set export=merged"):
        check_packable("mine", tmp_path / "config.json")


def test_a_matrix_in_a_file_that_the_index_leaves_out_is_not_there(tmp_path: Path) -> None:
    save_packed(tmp_path / "packed", "fp8", shards="100KB")
    path, name = tmp_path / "packed" / "model-extra.safetensors", "mtp.fc.weight"
    parts, _ = FORMATS["fp8"][0](np.random.default_rng(0).normal(size=(40, 72)))
    save_file({f"{name}{part}": found for part, found in parts.items()}, path, {"format": "pt"})
    assert name not in Checkpoint(tmp_path / "packed").files
