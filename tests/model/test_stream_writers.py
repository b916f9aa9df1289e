"""What writes into the residual stream is found in known architectures, or refused by name."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from tiny_models import D_MODEL, LAYERS, VOCABULARY, tiny_network
from torch import Tensor, nn
from transformers import AutoModelForImageTextToText, PreTrainedModel

from heretic.errors import ModelLoadError
from heretic.model.stream_writers.anatomy import StreamWriter, find_layers, find_stream_writers
from heretic.model.stream_writers.components import ATTENTION, MLP
from tiny_configs import tiny_configuration

LLAMA_LIKE = ("model.layers", "self_attn.o_proj", "mlp.down_proj")
GPT2_LIKE = ("transformer.h", "attn.c_proj", "mlp.c_proj")
EXPERTS = ("model.layers", "self_attn.o_proj", "mlp.experts.down_proj")
SUPPORTED = {
    "llama": LLAMA_LIKE,
    "llama_mha": LLAMA_LIKE,
    "qwen2": LLAMA_LIKE,
    "qwen3": LLAMA_LIKE,
    "gemma": LLAMA_LIKE,
    "granite": LLAMA_LIKE,
    "gpt2": GPT2_LIKE,
    "gpt2_narrow": GPT2_LIKE,
    "gemma2": LLAMA_LIKE,
    "mixtral": EXPERTS,
    "qwen3_moe": EXPERTS,
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

    anatomy = find_stream_writers(tiny_network(family, dtype=dtype))

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
    assert len(find_stream_writers(network).writers) == 2 * LAYERS


def test_the_matrix_is_a_view_with_the_stream_first() -> None:
    network = tiny_network("gpt2")
    anatomy = find_stream_writers(network)
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
    writer = find_stream_writers(tiny_network("qwen2")).writers[0]

    assert writer.bias is None
    assert not writer.transposed


def first(network: PreTrainedModel) -> StreamWriter:
    return find_stream_writers(network).of_layer(1)[MLP][0]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize(
    ("family", "transposed", "bias"),
    [("mixtral", False, False), ("llama4_text", True, False), ("gpt_oss", True, True)],
)
def test_matrices_of_experts_are_one_view_with_the_stream_first(
    family: str, transposed: bool, bias: bool, dtype: torch.dtype
) -> None:
    network = tiny_network(family, dtype=dtype)
    writers = find_stream_writers(network).of_layer(1)[MLP]
    writer = next(w for w in writers if w.name.endswith("experts.down_proj"))
    stored = network.get_parameter(writer.parameter_name)

    assert writer.transposed == transposed
    assert writer.weight.shape[:2] == (4, D_MODEL)
    writer.weight[2, 3, 5] = 42.0
    assert stored[(2, 5, 3) if transposed else (2, 3, 5)] == 42.0
    assert (writer.bias is not None) == bias
    if writer.bias is not None and writer.bias_name is not None:
        assert writer.bias_name == f"{writer.name}_bias"
        writer.bias[2, 3] = 43.0
        assert network.get_parameter(writer.bias_name)[2, 3] == 43.0


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_square_matrices_of_experts_are_told_from_their_transposes(dtype: torch.dtype) -> None:
    """As in gpt-oss, where both sides have the stream's width, and biases like rows of gates."""
    changes = {"intermediate_size": D_MODEL, "num_local_experts": 4}
    stored = find_stream_writers(tiny_network("gpt_oss", dtype=dtype, **changes)).of_layer(0)[MLP]
    other = find_stream_writers(tiny_network("mixtral", dtype=dtype, **changes)).of_layer(0)[MLP]

    assert [(writer.transposed, writer.bias_parameter) for writer in stored] == [
        (True, "down_proj_bias")
    ]
    assert [(writer.transposed, writer.bias_parameter) for writer in other] == [(False, None)]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_the_gain_of_a_norm_before_the_stream_is_read_exactly(dtype: torch.dtype) -> None:
    network = tiny_network("gemma2", dtype=dtype)
    norm: Any = network.get_submodule("model.layers.1.post_feedforward_layernorm")
    gain = first(network).gain
    expected = 1 + norm.weight.double()

    assert gain is not None
    scaled = gain.double() * (expected @ expected / (expected @ gain.double()))
    torch.testing.assert_close(scaled, expected, rtol=1e-6, atol=1e-6)


def test_a_norm_of_unit_gain_turns_no_direction() -> None:
    network = tiny_network("gemma2")
    for name, parameter in network.named_parameters():
        if "norm" in name:
            parameter.data.zero_()

    assert all(writer.gain is None for writer in find_stream_writers(network).writers)


def test_the_gains_of_two_norms_in_a_row_are_one() -> None:
    experts: dict[str, Any] = {"num_experts": 4, "top_k_experts": 2, "moe_intermediate_size": 16}
    network = tiny_network("gemma4_text", enable_moe_block=True, **experts)
    layer: Any = find_layers(network)[1]
    writers = {
        writer.name.removeprefix("model.layers.1."): writer
        for writer in find_stream_writers(network).of_layer(1)[MLP]
    }
    gain = writers["mlp.down_proj"].gain
    inner, outer = (
        layer.post_feedforward_layernorm_1.weight,
        layer.post_feedforward_layernorm.weight,
    )

    assert "experts.down_proj" in writers
    assert gain is not None
    assert torch.cosine_similarity(gain, inner * outer, dim=0) > 1 - 1e-6


def test_a_layer_that_multiplies_its_stream_is_explained() -> None:
    network = tiny_network("gemma4_text")
    for layer in find_layers(network):
        scale: Any = layer.layer_scalar
        scale.fill_(0.37)

    assert find_stream_writers(network).scales == pytest.approx([0.37] * 4)


def test_the_decoder_of_a_network_that_sees_images_is_found() -> None:
    config = tiny_configuration("gemma3")
    network: Any = AutoModelForImageTextToText.from_config(config)  # type: ignore[no-untyped-call]

    anatomy = find_stream_writers(network.eval())

    assert all(".language_model.layers." in writer.name for writer in anatomy.writers)
    assert anatomy.d_model == config.get_text_config().hidden_size
    assert len(anatomy.writers) == 8


@pytest.mark.parametrize(
    ("family", "says"),
    [
        ("mamba", r"no layer of MambaForCausalLM has an mlp\.down_proj .*0\.mixer\.out_proj"),
        ("bert", r"layer 0 of BertLMHeadModel still changes .*attention\.output\.LayerNorm"),
        ("doge", r"layer 0 of DogeForCausalLM still changes the residual stream"),
        ("jetmoe", r"still changes .*some of .*layers\.0\.mlp, .*self_attention\.experts"),
        (
            "deepseek_v4",
            r"states of shape \(1, 6, 4, 32\) instead of the \(1, 6, 32\) of a single residual",
        ),
        ("inkling_text", r"self_attn\.o_proj writes .* a step that mixes channels or positions"),
        ("mbart", r"does not use model\.decoder\.layers\.0\.encoder_attn\.k_proj"),
        ("mllama", r"does not run layer 3 on text alone"),
    ],
)
def test_what_cannot_be_edited_as_a_whole_is_refused_by_name(family: str, says: str) -> None:
    with pytest.raises(ModelLoadError, match=f"{says}.*this architecture is not supported"):
        find_stream_writers(tiny_network(family))


class Around(nn.Module):
    """A block with a step after it."""

    def __init__(self, inner: nn.Module, step: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.inner, self.step = inner, step

    def forward(self, states: Tensor) -> Tensor:
        return self.step(self.inner(states), states)


def with_step(step: Callable[[Tensor, Tensor], Tensor]) -> PreTrainedModel:
    """A network in whose second layer something happens between the MLP and the stream."""
    network = tiny_network()
    layer: Any = find_layers(network)[1]
    layer.mlp = Around(layer.mlp, step)
    return network


@pytest.mark.parametrize(
    ("step", "says"),
    [
        (
            lambda out, _: nn.functional.layer_norm(out, out.shape[-1:]),
            r"down_proj passes through",
        ),
        (lambda out, _: out.roll(1, -1), r"down_proj passes through"),
        (lambda out, _: out.cumsum(1) + out.flip(-1), r"down_proj writes .* mixes channels"),
        (lambda out, _: out.relu(), r"down_proj passes through"),
        (lambda out, states: out * states.sigmoid(), r"down_proj writes (is changed|.* mixes)"),
        (lambda out, states: out + 1e-6 * states, r"layer 1 of LlamaForCausalLM still changes"),
    ],
)
def test_a_step_that_an_edit_would_not_survive_is_refused(
    step: Callable[[Tensor, Tensor], Tensor], says: str
) -> None:
    with pytest.raises(ModelLoadError, match=rf"{says}"):
        find_stream_writers(with_step(step))


def test_a_gate_of_a_linear_map_of_the_streams_width_is_refused() -> None:
    """While that map is silent the gate is even, and would not be seen."""
    network = tiny_network()
    layer: Any = find_layers(network)[1]
    gate = nn.Linear(D_MODEL, D_MODEL)
    layer.mlp = Around(layer.mlp, lambda out, states: out * gate(states).sigmoid())
    layer.mlp.gate = gate

    with pytest.raises(ModelLoadError, match=r"down_proj passes .*through a norm, a gate"):
        find_stream_writers(network)


def test_one_factor_for_a_token_is_no_hindrance() -> None:
    anatomy = find_stream_writers(with_step(lambda out, states: out * states.sum(-1, keepdim=True)))

    assert len(anatomy.writers) == 2 * LAYERS


def test_a_small_writer_beside_a_large_stream_is_still_seen() -> None:
    network = tiny_network()
    layer: Any = find_layers(network)[1]
    layer.mlp = Around(layer.mlp, lambda out, _: out + layer.mlp.tiny)
    layer.mlp.tiny = nn.Parameter(torch.full((D_MODEL,), 1e-6))

    with pytest.raises(ModelLoadError, match=r"layer 1 .* through model\.layers\.1\.mlp,"):
        find_stream_writers(network)


class Clamped(nn.Linear):
    def forward(self, states: Tensor) -> Tensor:
        return super().forward(states).clamp(-1, 1)


class Renamed(nn.Linear):
    def forward(self, states: Tensor) -> Tensor:
        return nn.functional.linear(states, self.weight, self.bias)


def test_a_linear_map_of_its_own_class_must_multiply_and_nothing_else() -> None:
    network = tiny_network()
    layer: Any = find_layers(network)[1]

    layer.mlp.down_proj.__class__ = Renamed
    assert len(find_stream_writers(network).writers) == 2 * LAYERS
    layer.mlp.down_proj.__class__ = Clamped
    with pytest.raises(ModelLoadError, match=r"layers\.1\.mlp\.down_proj .* is a Clamped, which"):
        find_stream_writers(network)


def test_what_writes_between_two_layers_is_refused() -> None:
    network = tiny_network()
    layers = find_layers(network)
    layers[2].register_forward_pre_hook(
        lambda _, args, kwargs: ((args[0] * 1.001, *args[1:]), kwargs), with_kwargs=True
    )

    with pytest.raises(
        ModelLoadError,
        match=r"layer 2 of LlamaForCausalLM does not receive the residual stream of layer 1",
    ):
        find_stream_writers(network)


def test_weights_of_two_layers_at_once_are_refused() -> None:
    network = tiny_network()
    layers: Any = find_layers(network)
    layers[2].mlp.down_proj.weight = layers[0].mlp.down_proj.weight

    with pytest.raises(ModelLoadError, match=r"0\.mlp\.down_proj\.weight and .* share weights"):
        find_stream_writers(network)


def test_quantized_experts_are_refused() -> None:
    network = tiny_network("mixtral")
    layer: Any = find_layers(network)[1]
    quantized = layer.mlp.experts.down_proj.to(torch.float8_e4m3fn)
    layer.mlp.experts.down_proj = nn.Parameter(quantized, requires_grad=False)

    with pytest.raises(
        ModelLoadError, match=r"1\.mlp\.experts\.down_proj is quantized .* in bfloat16"
    ):
        find_stream_writers(network)


class Experts(nn.Module):
    """Experts in modules of their own, one of which takes all tokens."""

    def __init__(self, chosen: int, others: type[nn.Linear] = nn.Linear) -> None:
        super().__init__()
        self.chosen = chosen
        self.experts = nn.ModuleList(
            (nn.Linear if index == chosen else others)(D_MODEL, D_MODEL) for index in range(3)
        )

    def forward(self, states: Tensor) -> Tensor:
        output: Tensor = self.experts[self.chosen](states)
        return output


def test_experts_that_no_token_meets_are_taken_for_what_their_like_is() -> None:
    network = tiny_network()
    layer: Any = find_layers(network)[1]
    layer.mlp = Experts(chosen=1)

    writers = find_stream_writers(network).of_layer(1)[MLP]

    assert [w.name for w in writers] == [f"model.layers.1.mlp.experts.{n}" for n in range(3)]


def test_experts_that_no_token_meets_and_that_differ_are_refused() -> None:
    network = tiny_network()
    layer: Any = find_layers(network)[1]
    layer.mlp = Experts(chosen=1, others=Renamed)

    with pytest.raises(ModelLoadError, match=r"does not use model\.layers\.1\.mlp\.experts\.0"):
        find_stream_writers(network)


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
        find_stream_writers(network)


@pytest.mark.parametrize("family", ["llama", "gpt2", "mixtral", "gemma2", "gpt_oss", "mamba"])
def test_the_proof_leaves_the_model_as_it_was(family: str) -> None:
    network = tiny_network(family)
    before, hooked = logits(network), hooks(network)
    parameters = {name: id(parameter) for name, parameter in network.named_parameters()}
    values = {name: value.clone() for name, value in network.state_dict().items()}

    try:
        find_stream_writers(network)
    except ModelLoadError:
        assert family == "mamba"

    assert {name: id(parameter) for name, parameter in network.named_parameters()} == parameters
    after = network.state_dict()
    assert all(after[name].equal(value) for name, value in values.items())
    assert hooks(network) == hooked
    assert logits(network).equal(before)


def test_hooks_are_gone_after_a_network_that_does_not_run() -> None:
    network = tiny_network()
    layer: Any = find_layers(network)[1]
    layer.mlp.up_proj = nn.Linear(D_MODEL + 1, 48)

    with pytest.raises(ModelLoadError, match="does not run on a few tokens"):
        find_stream_writers(network)

    assert hooks(network) == 0


def test_a_vocabulary_smaller_than_the_probe_is_enough() -> None:
    network = tiny_network(vocab_size=2)

    assert len(find_stream_writers(network).writers) == 2 * LAYERS
    assert VOCABULARY > 2


def test_depth_does_not_blur_the_proof_in_half_precision() -> None:
    anatomy = find_stream_writers(
        tiny_network("granite", dtype=torch.bfloat16, num_hidden_layers=40)
    )

    assert len(anatomy.writers) == 80


def test_a_small_residual_multiplier_does_not_hide_a_writer() -> None:
    anatomy = find_stream_writers(
        tiny_network("granite", dtype=torch.bfloat16, residual_multiplier=0.02)
    )

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
