"""Loading a checkpoint: what the phases get, and one line for everything that can be wrong."""

import io
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_models import (
    D_MODEL,
    LAYERS,
    PROMPTS,
    load_saved,
    save_tiny_model,
    tiny_network,
    tiny_tokenizer,
)
from transformers import AutoModelForCausalLM
from transformers.utils import logging as transformers_logging

from heretic.errors import ModelLoadError
from heretic.model.decoding import generate
from heretic.model.loading import choose_device, model_facts
from heretic.model.stream_writers.components import ATTENTION, MLP
from heretic.residuals import get_residuals_batched


def refusal(folder: Path, **changes: Any) -> str:
    with pytest.raises(ModelLoadError) as failure:
        load_saved(folder, **changes)
    message = str(failure.value)
    assert "\n" not in message
    return message


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_model(tmp_path_factory.mktemp("saved") / "llama")


def test_gives_the_checkpoint_as_it_is(folder: Path) -> None:
    model = load_saved(folder, response_prefix="So", max_batch_size=5)

    original = tiny_network("llama").state_dict()
    loaded = model.network.state_dict()
    assert all(loaded[name].equal(tensor) for name, tensor in original.items())
    assert not model.network.training
    assert not any(parameter.requires_grad for parameter in model.network.parameters())
    assert model.folder == folder
    assert model.batch_size.current == 5
    assert model.chat.response_prefix == "So"
    assert model.device == torch.device("cpu")


def test_says_what_writes_into_the_stream(folder: Path) -> None:
    model = load_saved(folder)

    assert len(model.get_layers()) == LAYERS
    matrices = model.get_layer_matrices(2)
    assert set(matrices) == {ATTENTION, MLP}
    for component, path in ((ATTENTION, "self_attn.o_proj"), (MLP, "mlp.down_proj")):
        weight = model.network.get_parameter(f"model.layers.2.{path}.weight")
        assert [matrix.data_ptr() for matrix in matrices[component]] == [weight.data_ptr()]


def test_ignores_settings_of_other_phases(folder: Path) -> None:
    assert load_saved(folder, n_trials=3, cache_weights="auto").anatomy.n_layers == LAYERS


def test_facts_for_the_report(folder: Path) -> None:
    model = load_saved(folder)

    assert model_facts(model) == {
        "architecture": "LlamaForCausalLM",
        "loader": "AutoModelForCausalLM",
        "parameters": tiny_network("llama").num_parameters(),
        "dtype": "float32",
        "layers": LAYERS,
        "d_model": D_MODEL,
    }


@pytest.mark.parametrize(
    ("dtype", "loaded"),
    [("auto", torch.bfloat16), ("float32", torch.float32), ("float16", torch.float16)],
)
def test_dtype_is_the_checkpoints_unless_asked(
    tmp_path: Path, dtype: str, loaded: torch.dtype
) -> None:
    save_tiny_model(tmp_path, dtype=torch.bfloat16)

    model = load_saved(tmp_path, dtype=dtype)

    assert model.loaded_dtype == loaded
    assert {parameter.dtype for parameter in model.network.parameters()} == {loaded}


@pytest.mark.parametrize("with_end", [True, False])
def test_a_missing_pad_token_does_not_matter(tmp_path: Path, with_end: bool) -> None:
    save_tiny_model(tmp_path)
    tokenizer = tiny_tokenizer()
    expected = get_residuals_batched(load_saved(tmp_path), PROMPTS)
    tokenizer.pad_token = None
    if not with_end:
        tokenizer.eos_token = None
    tokenizer.save_pretrained(tmp_path)

    model = load_saved(tmp_path)

    assert model.chat.tokenizer.pad_token_id is not None
    torch.testing.assert_close(
        get_residuals_batched(model, PROMPTS), expected, rtol=1e-4, atol=1e-4
    )
    assert len(generate(model, PROMPTS, 4)) == len(PROMPTS)


def test_pads_on_the_left_whatever_the_tokenizer_says(tmp_path: Path) -> None:
    save_tiny_model(tmp_path)
    tokenizer = tiny_tokenizer()
    tokenizer.padding_side = "right"
    tokenizer.save_pretrained(tmp_path)

    assert load_saved(tmp_path).chat.tokenizer.padding_side == "left"


def test_a_missing_chat_template_is_refused(tmp_path: Path) -> None:
    save_tiny_model(tmp_path)
    (tmp_path / "chat_template.jinja").unlink()

    assert "has no chat template" in refusal(tmp_path)


def test_an_architecture_that_cannot_be_edited_is_refused(tmp_path: Path) -> None:
    save_tiny_model(tmp_path, "mamba")

    assert "no layer of MambaForCausalLM has an mlp.down_proj" in refusal(tmp_path)


def truncate(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def scribble(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(b"\xff" * 4096)


def break_config(folder: Path) -> None:
    (folder / "config.json").write_text("{", encoding="utf-8")


def name_unknown_type(folder: Path) -> None:
    (folder / "config.json").write_text('{"model_type": "no-such"}', encoding="utf-8")


def name_an_encoder(folder: Path) -> None:
    (folder / "config.json").write_text('{"model_type": "vit"}', encoding="utf-8")


def lose_tokenizer(folder: Path) -> None:
    for path in folder.glob("tokenizer*"):
        path.unlink()


def change_width(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    config["intermediate_size"] += 1
    (folder / "config.json").write_text(json.dumps(config))


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (truncate, "cannot load {folder}: "),
        (scribble, "model.safetensors is not a complete safetensors file"),
        (break_config, "{folder}/config.json cannot be read"),
        (name_unknown_type, "does not know the model_type no-such"),
        (name_an_encoder, "is a vit, which does not generate text"),
        (lose_tokenizer, "has no tokenizer"),
        (change_width, "cannot load {folder}: "),
    ],
)
def test_a_damaged_checkpoint_is_one_line(
    tmp_path: Path, damage: Callable[[Path], None], reason: str
) -> None:
    save_tiny_model(tmp_path)
    damage(tmp_path)

    assert reason.format(folder=tmp_path) in refusal(tmp_path)


def test_a_checkpoint_that_lacks_a_tensor_is_not_filled_with_noise(tmp_path: Path) -> None:
    save_tiny_model(tmp_path)
    path = tmp_path / "model.safetensors"
    name = "model.layers.1.mlp.down_proj.weight"
    tensors = {key: tensor.clone() for key, tensor in load_file(path).items() if key != name}
    save_file(tensors, path, metadata={"format": "pt"})

    assert f"lacks 1 tensors of LlamaForCausalLM ({name}" in refusal(tmp_path)


def test_tied_embeddings_lack_nothing(tmp_path: Path) -> None:
    save_tiny_model(tmp_path, tie_word_embeddings=True)

    assert "lm_head.weight" not in load_file(tmp_path / "model.safetensors")
    assert load_saved(tmp_path).anatomy.n_layers == LAYERS


@pytest.mark.parametrize("device", ["cuda:99", "no-such-device"])
def test_a_device_that_is_not_there_is_one_line(folder: Path, device: str) -> None:
    assert refusal(folder, device=device).startswith(f"device={device} is not available")


def test_auto_takes_the_accelerator_or_the_cpu() -> None:
    accelerator = torch.accelerator.current_accelerator(check_available=True)

    assert choose_device("auto") == (accelerator or torch.device("cpu"))


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"),
        MemoryError(),
    ],
)
def test_a_model_that_does_not_fit_is_one_line_with_advice(
    folder: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise error

    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", full)

    assert "does not fit on cpu; use a smaller dtype" in refusal(folder)


def test_no_progress_bars_where_nobody_watches(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    transformers_logging.enable_progress_bar()  # type: ignore[no-untyped-call]
    log = io.StringIO()
    monkeypatch.setattr(sys, "stderr", log)

    load_saved(folder)

    assert "Loading weights" not in log.getvalue()


def test_a_terminal_keeps_its_progress_bars(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    transformers_logging.enable_progress_bar()  # type: ignore[no-untyped-call]
    screen = Terminal()
    monkeypatch.setattr(sys, "stderr", screen)

    load_saved(folder)

    assert "Loading weights" in screen.getvalue()
