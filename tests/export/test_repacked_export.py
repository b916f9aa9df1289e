"""Edited matrices of MXFP4 and block FP8 are quantized again; all other tensors stay the same."""

from pathlib import Path

import numpy as np
import pytest
import torch
from edit_fixtures import PARAMETERS
from packed_models import E2M1, TILE, Array, save_packed
from quantized_models import held_out_table, logits
from safetensors.torch import load_file
from test_dequantized_export import OPTIONS, export
from tiny_models import load_saved
from torch import Tensor

from heretic.artifacts import read_json, write_json
from heretic.commands.verify import verify
from heretic.export.adapter import load_edited
from heretic.export.edited_tensors import edited_blocks
from heretic.export.manifest import manifest
from heretic.export.record import Ablation
from heretic.model.loading import load_baseline
from heretic.model.packed.matrix import BLOCK_FP8, MXFP4, PackedMatrix
from heretic.model.packed.pack import encode_e2m1, pack
from heretic.model.packed.unpack import unpack
from heretic.settings.schema import Settings

KINDS = [("mxfp4", "gpt_oss"), ("fp8", "llama")]


def quantized_by_hand(matrix: Array, form: str) -> Array:
    """Values of a matrix [inputs, outputs] or [outputs, inputs] in the format, in float64."""
    if form == "mxfp4":
        groups = matrix.T.reshape(matrix.shape[1], -1, 32)
        scales = 2 ** (np.floor(np.log2(np.abs(groups).max(-1))) - 2)[..., None]
        distances = np.abs(groups[..., None] / scales[..., None] - E2M1)
        nearest: Array = (E2M1[distances.argmin(-1)] * scales).reshape(matrix.T.shape).T
        return nearest
    found = np.empty_like(matrix)
    for i in range(0, matrix.shape[0], TILE):
        for j in range(0, matrix.shape[1], TILE):
            part = np.s_[i : i + TILE, j : j + TILE]
            scale = np.float64(np.float32(np.abs(matrix[part]).max() / 448))
            numbers = torch.from_numpy(matrix[part] / scale).float().to(torch.float8_e4m3fn)
            found[part] = numbers.double().numpy() * scale
    return found


def stored(folder: Path) -> dict[str, Tensor]:
    return {
        name: tensor
        for path in sorted(folder.glob("*.safetensors"))
        for name, tensor in load_file(path).items()
    }


@pytest.mark.parametrize(("form", "family"), KINDS)
def test_only_edited_tensors_change_and_as_an_independent_packer_does(
    tmp_path: Path, form: str, family: str
) -> None:
    source = tmp_path / "packed"
    values = save_packed(source, form, family, shards="100KB")
    saved = export(source, tmp_path / "model", "dequantize", low_memory=False, export="quantized")
    ablation = Ablation.from_dict(read_json(saved / "ablation.json"))
    edits, names = ablation.matrix_edits(), set()

    before, after = stored(source), stored(saved)
    for name in edits:
        if f"{name}_blocks" in before or f"{name}_scale_inv" in before:
            plain = values[name].float()
            blocks = list(edited_blocks(plain, edits[name], torch.float32))
            edited = torch.cat([block.clone() for block in blocks]).reshape(plain.shape)
            experts = edited.double().numpy().reshape(-1, *plain.shape[-2:])
            wanted = np.stack([quantized_by_hand(matrix, form) for matrix in experts])
            found = load_saved(saved, quantization="dequantize", dtype="float32")
            assert found.network.get_parameter(name).equal(
                torch.from_numpy(wanted).float().reshape(plain.shape)
            )
            names |= {f"{name}_blocks", f"{name}_scales", name, f"{name}_scale_inv"}
        else:
            expected = torch.cat(list(edited_blocks(before[name], edits[name], torch.bfloat16)))
            assert after[name].equal(expected)
            names.add(name)
    assert len(names) > len(edits)
    names |= {edit.writer.bias_name or "" for edit in ablation.edits}
    assert after.keys() == before.keys()
    for name in before.keys() - names:
        assert after[name].view(torch.uint8).equal(before[name].view(torch.uint8))
    assert (saved / "config.json").read_text() == (source / "config.json").read_text()


@pytest.mark.parametrize(("form", "family"), KINDS)
def test_the_rounding_error_is_recorded_and_the_result_is_close(
    tmp_path: Path, form: str, family: str
) -> None:
    source = tmp_path / "packed"
    save_packed(source, form, family)
    merged = export(source, tmp_path / "a" / "model", "dequantize", low_memory=True)

    saved = export(
        source, tmp_path / "b" / "model", "dequantize", low_memory=True, export="quantized"
    )

    error = read_json(saved / "ablation.json")["rounding_error"]
    limit = {"mxfp4": 0.2, "fp8": 0.05}[form]
    assert 0 < error["mean"] <= error["max"] < limit
    exact, original = logits(load_saved(merged)), load_saved(source, quantization="dequantize")
    found = logits(load_saved(saved, quantization="dequantize"))
    assert (found - exact).norm() < limit * 5 * (logits(original) - exact).norm()


def test_both_quantized_models_are_compared_in_one_form(tmp_path: Path) -> None:
    source = tmp_path / "packed"
    save_packed(source, "fp8")
    saved = export(source, tmp_path / "model", "dequantize", low_memory=True, export="quantized")
    options = {**OPTIONS, "model": str(source), "quantization": "dequantize"}

    table = held_out_table(
        saved,
        lambda: load_baseline(**options),
        lambda: load_edited(saved, options, str(source)),
    )

    assert PARAMETERS.components
    forms = [table[name]["quantization"] for name in ("original", "edited")]
    assert forms == ["dequantize", "dequantize"]


def test_ties_are_rounded_to_even_codes() -> None:
    values = torch.tensor([0.25, 0.75, 1.25, 1.75, 2.5, 3.5, 5.0, 7.0, -0.75, -5.1])

    assert encode_e2m1(values).tolist() == [0, 2, 2, 4, 4, 6, 6, 7, 10, 15]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.uint8])
def test_scales_keep_their_type_and_tiles_at_the_edges_their_size(dtype: torch.dtype) -> None:
    draw = torch.Generator().manual_seed(3)
    values = torch.randn(40, 70, generator=draw)
    values[:32, :32] = 0
    matrix = PackedMatrix(BLOCK_FP8, {}, (40, 70), {"tile": (32, 32)})
    parts = {
        "values": torch.zeros(40, 70).to(torch.float8_e4m3fn),
        "scales": torch.ones(2, 3).to(dtype),
    }

    packed = pack(matrix, values, parts)

    assert {name: (part.dtype, part.shape) for name, part in packed.items()} == {
        name: (part.dtype, part.shape) for name, part in parts.items()
    }
    found = unpack(matrix, packed, torch.float32)
    # Half of the last of three binary places.
    assert ((found - values).abs() <= values.abs() / 16 + 1e-3).all()


def test_blocks_of_zeros_and_values_already_in_the_format_stay(tmp_path: Path) -> None:
    matrix = PackedMatrix(MXFP4, {}, (1, 64, 2))
    codes = torch.arange(64, dtype=torch.uint8).reshape(1, 2, 2, 16) * 3
    codes[0, 1, 1] = 0
    parts = {"values": codes, "scales": torch.full((1, 2, 2), 130, dtype=torch.uint8)}
    values = unpack(matrix, parts, torch.float32)

    found = unpack(matrix, pack(matrix, values, parts), torch.float32)

    assert found.equal(values)


@pytest.mark.parametrize(("form", "family"), KINDS)
def test_verification_finds_a_changed_bit(tmp_path: Path, form: str, family: str) -> None:
    source, settings = tmp_path / "packed", Settings(device="cpu")
    save_packed(source, form, family)
    saved = export(source, tmp_path / "model", "dequantize", low_memory=True, export="quantized")
    checks = list(verify(saved, settings))
    assert [check.name for check in checks] == ["record", "files", "base model", "edit"]
    assert all(check.passed for check in checks)

    path = saved / "model.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)

    failed = {check.name: check.found for check in verify(saved, settings) if not check.passed}
    assert failed.keys() == {"files", "edit"}
    assert failed["edit"] == "model.safetensors differs from the recorded edit"


def test_verification_finds_a_file_added_to_the_record(tmp_path: Path) -> None:
    source = tmp_path / "packed"
    save_packed(source, "fp8")
    saved = export(source, tmp_path / "model", "dequantize", low_memory=True, export="quantized")
    (saved / "modeling_other.py").write_text("import os")
    record = read_json(saved / "ablation.json")
    record["files"]["modeling_other.py"] = manifest(saved)["modeling_other.py"]
    write_json(saved / "ablation.json", record)
    (failed,) = [each for each in verify(saved, Settings(device="cpu")) if not each.passed]
    assert failed.found == "modeling_other.py is not part of the recorded edit"
