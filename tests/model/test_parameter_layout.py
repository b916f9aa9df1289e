"""Where each parameter of a network lies in the files of its checkpoint."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tiny_models import LAYERS, save_tiny_model, tiny_network
from transformers import AutoModelForCausalLM

from heretic.model.parameter_layout import as_stored, places, saved_parameters, trace


@pytest.mark.parametrize("family", ["llama", "gpt2", "mixtral", "qwen3_moe", "gpt_oss", "dbrx"])
def test_the_files_make_up_the_parameters(tmp_path: Path, family: str) -> None:
    folder = save_tiny_model(tmp_path, family)
    network: Any = AutoModelForCausalLM.from_pretrained(folder)
    stored = load_file(folder / "model.safetensors")

    tensors, origins = trace(network)

    assert {name: t.shape for name, t in tensors.items()} == {
        name: t.shape for name, t in stored.items()
    }
    found = places(origins)
    for parameter, names in found.items():
        parts = [stored[name] for name in names]
        whole = torch.stack(parts) if len(parts) > 1 else parts[0]
        assert whole.equal(network.get_parameter(parameter)), parameter
    lost = saved_parameters(network).keys() - found.keys()
    assert all("gate_up_proj" in name for name in lost)  # joined of two parts of each expert


def test_experts_are_named_in_their_order() -> None:
    network = tiny_network("mixtral", num_local_experts=11)
    names = places(trace(network)[1])["model.layers.1.mlp.experts.down_proj"]
    assert names == [f"model.layers.1.block_sparse_moe.experts.{e}.w2.weight" for e in range(11)]


def test_what_is_joined_is_known_to_be() -> None:
    _, origins = trace(tiny_network("qwen3_moe"))
    origin = origins["model.layers.0.mlp.experts.3.up_proj.weight"]
    assert origin.parameters == {"model.layers.0.mlp.experts.gate_up_proj"}
    assert origin.parameter is None


def test_a_part_of_the_parameters_is_stored_alike() -> None:
    network = tiny_network("qwen3_moe")
    state = saved_parameters(network)
    name = f"model.layers.{LAYERS - 1}.mlp.experts.gate_up_proj"
    part, whole = as_stored(network, {name: state[name]}), as_stored(network, state)
    assert len(part) == 8
    assert all(tensor.equal(whole[name]) for name, tensor in part.items())
