"""What writes into the residual stream is found in known architectures, or refused by name."""

from typing import Any

import pytest
import torch
from tiny_models import D_MODEL, LAYERS, VOCABULARY, tiny_network
from torch import Tensor, nn
from transformers import PreTrainedModel

from heretic.errors import ModelLoadError
from heretic.model.anatomy import dissect, find_layers
from heretic.model.components import ATTENTION, MLP

LLAMA_LIKE = ("model.layers", "self_attn.o_proj", "mlp.down_proj")
GPT2_LIKE = ("transformer.h", "attn.c_proj", "mlp.c_proj")
SUPPORTED = {
    "llama": LLAMA_LIKE,
    "llama_mha": LLAMA_LIKE,
    "qwen2": LLAMA_LIKE,
    "qwen3": LLAMA_LIKE,
    "gemma": LLAMA_LIKE,
    "granite": LLAMA_LIKE,
    "gpt2": GPT2_LIKE,
    "gpt2_narrow": GPT2_LIKE,
}
TOKENS = torch.tensor([[5, 9, 2, 7]])


def logits(network: PreTrainedModel) -> Tensor:
    with torch.inference_mode():
        output: Tensor = network(input_ids=TOKENS).logits
    return output


def hooks(network: PreTrainedModel) -> int:
    return sum(
        len(module._forward_hooks) + len(module._forward_pre_hooks) for module in network.modules()
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("family", SUPPORTED)
def test_finds_both_writers_of_every_layer(family: str, dtype: torch.dtype) -> None:
    layers, attention, mlp = SUPPORTED[family]

    anatomy = dissect(tiny_network(family, dtype=dtype))

    assert [(writer.layer, writer.component, writer.name) for writer in anatomy.writers] == [
        (layer, component, f"{layers}.{layer}.{path}")
        for layer in range(LAYERS)
        for component, path in ((ATTENTION, attention), (MLP, mlp))
    ]
    assert anatomy.n_layers == LAYERS
    assert anatomy.d_model == D_MODEL


@pytest.mark.parametrize("family", ["llama_mha", "gpt2_narrow"])
def test_other_maps_of_the_streams_width_are_not_writers(family: str) -> None:
    """The premise of the cases above: projections of the same width do exist."""
    network = tiny_network(family)
    widths = {
        getattr(module, "out_features", getattr(module, "nf", None))
        for name, module in network.named_modules()
        if name.endswith(("q_proj", "c_fc"))
    }

    assert widths == {D_MODEL}
    assert len(dissect(network).writers) == 2 * LAYERS


def test_the_matrix_is_a_view_with_the_stream_first() -> None:
    network = tiny_network("gpt2")
    anatomy = dissect(network)
    mlp = anatomy.of_layer(1)[MLP][0]
    module: Any = network.get_submodule("transformer.h.1.mlp.c_proj")

    assert mlp.transposed
    assert mlp.weight.shape == (D_MODEL, 4 * D_MODEL)
    mlp.weight[3, 5] = 42.0
    assert mlp.bias is not None
    mlp.bias[3] = 43.0
    assert module.weight[5, 3] == 42.0
    assert module.bias[3] == 43.0


def test_maps_without_bias_have_none() -> None:
    writer = dissect(tiny_network("qwen2")).writers[0]

    assert writer.bias is None
    assert not writer.transposed


@pytest.mark.parametrize(
    ("family", "writes"),
    [
        ("mixtral", r"layer 0 of MixtralForCausalLM .*through model\.layers\.0\.mlp\.experts,"),
        ("qwen3_moe", r"layer 0 of Qwen3MoeForCausalLM .* model\.layers\.0\.mlp\.experts,"),
        ("gemma2", r"model\.layers\.0\.self_attn\.o_proj writes .* through a norm"),
        ("mamba", r"has no mlp\.down_proj .* only backbone\.layers\.0\.mixer\.out_proj"),
    ],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_cannot_be_edited_as_a_whole_is_refused_by_name(
    family: str, writes: str, dtype: torch.dtype
) -> None:
    with pytest.raises(ModelLoadError, match=f"{writes}.*this architecture is not supported"):
        dissect(tiny_network(family, dtype=dtype))


def test_a_norm_of_unit_gain_behind_a_writer_is_still_seen() -> None:
    """Such a norm keeps the direction of what it is given, only not its size."""
    network = tiny_network("gemma2")
    for name, parameter in network.named_parameters():
        if "norm" in name:
            parameter.data.zero_()

    with pytest.raises(ModelLoadError, match="through a norm"):
        dissect(network)


def test_a_small_writer_beside_a_large_stream_is_still_seen() -> None:
    network = tiny_network("mixtral")
    for name, parameter in network.named_parameters():
        if "experts" in name:
            parameter.data.mul_(0.01)

    with pytest.raises(ModelLoadError, match=r"through model\.layers\.0\.mlp\.experts"):
        dissect(network)


class SometimesUsed(nn.Module):
    """A block of two maps, of which a token uses only the one that its state chooses."""

    def __init__(self, first: nn.Linear, second: nn.Linear) -> None:
        super().__init__()
        self.first, self.second = first, second

    def forward(self, states: Tensor) -> Tensor:
        chosen: Tensor = (self.first if states.flatten()[0] > 0 else self.second)(states)
        return chosen


def test_a_map_that_not_every_token_uses_is_refused() -> None:
    """An expert that the probe happens not to reach would be left unedited."""
    network = tiny_network()
    layer: Any = find_layers(network)[1]
    layer.mlp = SometimesUsed(nn.Linear(D_MODEL, D_MODEL), nn.Linear(D_MODEL, D_MODEL))

    with pytest.raises(
        ModelLoadError, match=r"does not use model\.layers\.1\.mlp\.(first|second) on every token"
    ):
        dissect(network)


@pytest.mark.parametrize("family", ["llama", "gpt2", "mixtral", "gemma2"])
def test_the_proof_leaves_the_model_as_it_was(family: str) -> None:
    network = tiny_network(family)
    before, hooked = logits(network), hooks(network)

    try:
        dissect(network)
    except ModelLoadError:
        assert family in {"mixtral", "gemma2"}

    assert hooks(network) == hooked
    assert logits(network).equal(before)


def test_hooks_are_gone_after_a_network_that_does_not_run() -> None:
    network = tiny_network()
    layer: Any = find_layers(network)[1]
    layer.mlp.up_proj = nn.Linear(D_MODEL + 1, 48)

    with pytest.raises(ModelLoadError, match="does not run on a few tokens"):
        dissect(network)

    assert hooks(network) == 0


def test_a_vocabulary_smaller_than_the_probe_is_enough() -> None:
    network = tiny_network(vocab_size=2)

    assert len(dissect(network).writers) == 2 * LAYERS
    assert VOCABULARY > 2


def test_depth_does_not_blur_the_proof_in_half_precision() -> None:
    anatomy = dissect(tiny_network("granite", dtype=torch.bfloat16, num_hidden_layers=40))

    assert len(anatomy.writers) == 80


def test_a_small_residual_multiplier_does_not_hide_a_writer() -> None:
    anatomy = dissect(tiny_network("granite", dtype=torch.bfloat16, residual_multiplier=0.02))

    assert len(anatomy.writers) == 2 * LAYERS


def test_layers_are_the_list_of_the_configured_length() -> None:
    network = tiny_network()

    layers: Any = network.get_submodule("model.layers")
    assert find_layers(network) == list(layers)


def test_a_list_inside_a_layer_does_not_confuse() -> None:
    """As many experts as layers."""
    network = tiny_network()
    layer: Any = find_layers(network)[0]
    layer.experts = nn.ModuleList(nn.Linear(2, 2) for _ in range(LAYERS))

    assert len(find_layers(network)) == LAYERS


def test_no_list_of_layers_is_refused() -> None:
    network = tiny_network()
    network.config.num_hidden_layers = 7

    with pytest.raises(ModelLoadError, match="LlamaForCausalLM has 0 lists of 7 layers"):
        find_layers(network)
