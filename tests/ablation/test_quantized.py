"""Quantised networks: what writes is found and proved, and edited by what it puts out."""

import json
import logging
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from quantized_models import (
    KINDS,
    SHAPES,
    WIDTH,
    edits_of,
    logits,
    projected_by_hand,
    save_wide,
)
from tiny_models import PROMPTS, load_saved, tiny_model, tiny_network
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, BitsAndBytesConfig

from heretic.ablation.editors import make_editor
from heretic.ablation.hook_editor import HookEditor
from heretic.ablation.projection import NormPreservation, ablate_matrix
from heretic.errors import ModelLoadError, SettingsError
from heretic.model.decoding import generate
from heretic.model.loading import Model, model_facts
from heretic.model.quantization import require_alike, unquantized_original
from heretic.model.stream_writers.anatomy import find_layers, find_stream_writers

pytest.importorskip("bitsandbytes")
NORMS: tuple[NormPreservation, ...] = get_args(NormPreservation)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    made = tmp_path_factory.mktemp("wide")
    return {family: save_wide(made / family, family) for family in SHAPES}


@pytest.fixture(scope="module")
def stored(folders: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint that is quantized on the disk."""
    folder = tmp_path_factory.mktemp("quantized")
    chosen: Any = BitsAndBytesConfig(  # type: ignore[no-untyped-call]
        load_in_4bit=True, bnb_4bit_quant_type="nf4"
    )
    network: Any = AutoModelForCausalLM.from_pretrained(
        folders["llama"], quantization_config=chosen, device_map={"": "cpu"}
    )
    network.save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        (folder / name).write_bytes((folders["llama"] / name).read_bytes())
    return folder


@pytest.mark.parametrize("kind", KINDS)
def test_large_activations_do_not_turn_an_mlp_into_attention(
    folders: dict[str, Path], tmp_path: Path, kind: str
) -> None:
    """Which columns 8 bits keep apart depends on all tokens of a pass."""
    network = AutoModelForCausalLM.from_pretrained(folders["llama"])
    for name, parameter in network.named_parameters():
        if "norm" in name:
            parameter.data *= 4
    network.save_pretrained(tmp_path)
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        (tmp_path / name).write_bytes((folders["llama"] / name).read_bytes())

    found = load_saved(tmp_path, quantization=kind).anatomy.writers

    plain = load_saved(tmp_path).anatomy.writers
    assert [(w.name, w.component) for w in found] == [(w.name, w.component) for w in plain]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("family", SHAPES)
def test_writers_are_those_of_the_full_precision(
    folders: dict[str, Path], family: str, kind: str
) -> None:
    plain, model = load_saved(folders[family]), load_saved(folders[family], quantization=kind)

    found, wanted = model.anatomy.writers, plain.anatomy.writers
    assert [(w.name, w.component, w.shape) for w in found] == [
        (w.name, w.component, w.weight.shape) for w in wanted
    ]
    for one, other in zip(found, wanted, strict=True):
        assert one.editable == one.is_raw
        assert other.editable
        numbers, weight = one.numbers(model.loaded_dtype), other.weight
        assert (numbers - weight).abs().max() <= 0.15 * weight.abs().max()
        assert (one.gain is None) == (other.gain is None)
        if one.gain is not None and other.gain is not None:
            assert one.gain.equal(other.gain)
    assert model_facts(model) == {**model_facts(plain), "quantization": kind}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("family", SHAPES)
def test_logits_are_those_of_outputs_projected_by_hand(
    folders: dict[str, Path], family: str, kind: str
) -> None:
    model = load_saved(folders[family], quantization=kind)
    original, edits = logits(model), edits_of(model)
    expected = projected_by_hand(model, edits)

    editor = make_editor(model, "auto", "none", "auto")
    editor.abliterate(edits)
    found = logits(model)
    editor.restore()

    assert type(editor) is HookEditor
    # A last bit that falls to the other side is made larger by the rounding to 8 bits.
    share = 1e-5 if kind == "bnb_4bit" else 2e-2
    assert (found - expected).norm() <= share * expected.norm()
    assert (expected - original).norm() > 0.1 * original.norm()
    assert logits(model).equal(original)


def test_weights_of_a_quantized_network_cannot_be_edited(folders: dict[str, Path]) -> None:
    model = load_saved(folders["llama"], quantization="bnb_8bit")

    with pytest.raises(ModelLoadError, match=r"self_attn\.o_proj is quantized .* edit_mode=auto"):
        make_editor(model, "weights", "none", "true")


@pytest.mark.parametrize(
    ("quantization", "dtype", "expected"),
    [
        ("bnb_4bit", "auto", torch.bfloat16),
        ("bnb_8bit", "auto", torch.bfloat16),
        ("bnb_4bit", "float32", torch.float32),
    ],
)
def test_data_type_is_that_of_the_full_precision(
    tmp_path: Path, quantization: str, dtype: str, expected: torch.dtype
) -> None:
    folder = save_wide(tmp_path, dtype=torch.bfloat16)

    model = load_saved(folder, quantization=quantization, dtype=dtype)

    assert model.loaded_dtype == expected
    assert logits(model).dtype == expected


def test_products_in_8_bits_are_not_told_of_one_by_one(
    folders: dict[str, Path], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        model = load_saved(folders["llama"], quantization="bnb_8bit")
        generate(model, PROMPTS, 2)
    assert "MatMul8bitLt" not in caplog.text


def test_a_quantized_checkpoint_is_taken_as_it_is(folders: dict[str, Path], stored: Path) -> None:
    model = load_saved(stored, quantization="as_is")

    assert not any(writer.editable for writer in model.anatomy.writers)
    assert logits(model).equal(logits(load_saved(folders["llama"], quantization="bnb_4bit")))


@pytest.mark.parametrize(
    ("quantization", "says"),
    [("none", r"\(bitsandbytes\).* quantization=as_is"), ("bnb_4bit", "already quantized")],
)
def test_a_quantized_checkpoint_is_not_quantized_again_or_edited(
    stored: Path, quantization: str, says: str
) -> None:
    with pytest.raises(ModelLoadError, match=says):
        load_saved(stored, quantization=quantization)


def test_full_precision_is_not_quantized_as_it_is(folders: dict[str, Path]) -> None:
    with pytest.raises(ModelLoadError, match=r"is not quantized; set quantization=none"):
        load_saved(folders["llama"], quantization="as_is")


def test_a_method_inside_the_text_model_is_seen(stored: Path, tmp_path: Path) -> None:
    config = json.loads((stored / "config.json").read_text())
    for path in stored.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    config["text_config"] = {"quantization_config": config.pop("quantization_config")}
    (tmp_path / "config.json").write_text(json.dumps(config))

    with pytest.raises(ModelLoadError, match=r"is quantized \(bitsandbytes\)"):
        load_saved(tmp_path)


def test_a_missing_package_is_one_line(
    folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("heretic.model.quantization.find_spec", lambda name: None)

    with pytest.raises(SettingsError, match=r"needs the package bitsandbytes: pip install"):
        load_saved(folders["llama"], quantization="bnb_4bit")


class Packed(nn.Module):
    """A linear map as GPTQ and AWQ have it: integers in a buffer, and no weight."""

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.out_features, self.in_features = weight.shape
        scales = weight.abs().amax(0) / 127
        self.register_buffer("qweight", (weight / scales).round().to(torch.int32).T.contiguous())
        self.register_buffer("scales", scales)

    def forward(self, states: Tensor) -> Tensor:
        weight, scales = self.get_buffer("qweight"), self.get_buffer("scales")
        products: Tensor = states @ (weight * scales[:, None]).to(states)
        return products


def packed_model() -> Model:
    """A Llama of which the MLPs are packed."""
    network: Any = tiny_network("llama", hidden_size=WIDTH, head_dim=16)
    for layer in find_layers(network):
        mlp: Any = layer.mlp
        mlp.down_proj = Packed(mlp.down_proj.weight.data)
        mlp.gate_proj = Packed(mlp.gate_proj.weight.data)
    model = tiny_model("llama")
    return Model(network, model.chat, find_stream_writers(network), Path(), model.batch_size)


def test_maps_that_keep_integers_in_buffers_are_found_and_edited() -> None:
    model = packed_model()
    names = [writer.name for writer in model.anatomy.writers if not writer.editable]
    assert names == [f"model.layers.{layer}.mlp.down_proj" for layer in range(3)]
    expected = projected_by_hand(model, edits_of(model))

    make_editor(model, "auto", "none", "auto").abliterate(edits_of(model))

    assert (logits(model) - expected).norm() <= 1e-5 * expected.norm()


@pytest.mark.parametrize("norms", NORMS[1:])
def test_restored_norms_are_those_of_the_matrices_at_work(norms: NormPreservation) -> None:
    """Against plain maps with the numbers to which the matrices were rounded."""
    model, other = packed_model(), packed_model()
    plainly = projected_by_hand(model, edits_of(model))
    for edit in edits_of(other):
        numbers = edit.writer.numbers(torch.float32)
        plain = nn.Linear(numbers.shape[1], numbers.shape[0], bias=False).requires_grad_(False)
        plain.weight.data = ablate_matrix(numbers, edit.directions, edit.strengths, norms)
        other.network.set_submodule(edit.writer.name, plain)
    expected = logits(other)

    make_editor(model, "auto", norms, "auto").abliterate(edits_of(model))

    assert (logits(model) - expected).norm() <= 1e-5 * expected.norm()
    assert (plainly - expected).norm() > 1e-3 * expected.norm()


@pytest.mark.parametrize("kind", KINDS)
def test_numbers_are_read_past_an_edit(folders: dict[str, Path], kind: str) -> None:
    model = load_saved(folders["llama"], quantization=kind)
    writer = model.anatomy.writers[0]
    before = writer.numbers(torch.float32)

    make_editor(model, "auto", "column", "auto").abliterate(edits_of(model))

    assert writer.numbers(torch.float32).equal(before)


def test_what_is_quantized_already_is_compared_with_its_original() -> None:
    chosen = {"quantization": "as_is", "export_from": "org/full"}
    assert unquantized_original(chosen, "org/small") == {
        "model": "org/full",
        "model_revision": None,
        "quantization": "none",
    }
    assert unquantized_original({**chosen, "quantization": "bnb_4bit"}, "x") == {"model": "x"}


def test_an_original_of_another_size_is_refused_by_its_config(tmp_path: Path) -> None:
    one, other = tmp_path / "one.json", tmp_path / "other.json"
    one.write_text(json.dumps({"model_type": "llama", "hidden_size": 64}))
    other.write_text(json.dumps({"model_type": "llama", "hidden_size": 64, "num_hidden_layers": 2}))
    require_alike(one, other, "org/full")
    other.write_text(json.dumps({"model_type": "llama", "text_config": {"hidden_size": 32}}))
    with pytest.raises(
        ModelLoadError, match=r"org/full is not the searched model.* hidden_size is 32, not"
    ):
        require_alike(one, other, "org/full")
