"""Editing what writers put out gives what editing their weights gives, and leaves no trace."""

import copy
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from tiny_models import D_MODEL, EXPERTS, LAYERS, PROMPTS, SIZES, VOCABULARY, tiny_tokenizer
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM

from heretic.ablation.editor import WeightEditor
from heretic.ablation.engines import make_editor
from heretic.ablation.output_side import OutputSideEditor
from heretic.ablation.plan import Edit
from heretic.ablation.projection import NormPreservation, ablate_bias, ablate_matrix
from heretic.errors import ModelLoadError
from heretic.model.anatomy import dissect
from heretic.model.batching import BatchSize
from heretic.model.chat import ChatFormat
from heretic.model.decoding import forced_log_probabilities, generate
from heretic.model.loading import Model

ALL: tuple[NormPreservation, ...] = get_args(NormPreservation)
SHAPES: dict[str, dict[str, Any]] = {
    "llama": {"attention_bias": True, "mlp_bias": True},
    "qwen2": {},
    "gpt2": {"n_embd": D_MODEL, "n_layer": LAYERS, "n_head": 4, "n_positions": 128},
    "gpt_neox": {},  # attention and MLP in parallel
    "cohere": {},  # likewise
    "gemma2": {},  # norms between the maps and the stream
    "granite": {"residual_multiplier": 0.22},
    "mixtral": {**EXPERTS, "num_local_experts": 4},
    "qwen3_moe": {**EXPERTS, "num_experts": 4},
    "gpt_oss": {**EXPERTS, "num_local_experts": 4},  # biases for each expert
}
PACKED = ("mixtral", "qwen3_moe", "gpt_oss")
DENSE = tuple(family for family in SHAPES if family not in PACKED)
STRENGTHS = {1: [1.2], 2: [1.0, 0.6]}


def random_model(family: str, dtype: torch.dtype = torch.float64) -> Model:
    """A tiny network of which no norm or bias is one, zero or the like."""
    special = {"bos_token_id": None, "pad_token_id": 0, "eos_token_id": 1}
    sizes = {} if family == "gpt2" else SIZES
    shape = {**sizes, **SHAPES[family], **special, "vocab_size": VOCABULARY}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        config = AutoConfig.for_model(family, **shape)
        network: Any = AutoModelForCausalLM.from_config(config)  # type: ignore[no-untyped-call]
        if network._can_set_experts_implementation():
            network.set_experts_implementation("eager")  # the fast ones know no float64
        for parameter in network.parameters():
            noise = torch.randn_like(parameter)
            parameter.data = 0.2 * noise if parameter.dim() > 1 else parameter.data + 0.1 * noise
    network = network.to(dtype).eval().requires_grad_(False)
    chat = ChatFormat(tiny_tokenizer(), "")
    return Model(network, chat, dissect(network), Path(), BatchSize(8))


def edits_of(model: Model, count: int, *, every: int = 1) -> list[Edit]:
    """Directions of its own for each writer, or for some."""
    draw = torch.Generator().manual_seed(7)
    return [
        Edit(writer, torch.linalg.qr(rows).Q.T, tuple(STRENGTHS[count]))
        for number, writer in enumerate(model.anatomy.writers)
        for rows in [torch.randn(D_MODEL, count, generator=draw)]
        if number % every == 0
    ]


def with_edited_weights(model: Model, edits: list[Edit], kind: NormPreservation) -> Model:
    """A copy whose matrices are edited one by one, those of experts too."""
    other = copy.deepcopy(model)
    writers = {writer.name: writer for writer in other.anatomy.writers}
    for edit in edits:
        writer = writers[edit.writer.name]
        experts = writer.weight if writer.weight.ndim == 3 else writer.weight[None]
        for matrix in experts:
            ablate_matrix(matrix, edit.directions, edit.strengths, kind, out=matrix)
        if writer.bias is not None:
            for bias in writer.bias.view(-1, D_MODEL):
                bias.copy_(ablate_bias(bias, edit.directions, edit.strengths))
    return other


def logits(model: Model) -> Tensor:
    """Of two rows of tokens."""
    tokens = torch.tensor([[5, 9, 2, 7, 30, 41], [8, 8, 60, 3, 2, 99]])
    with torch.inference_mode():
        found: Tensor = model.network(input_ids=tokens).logits
    return found


@pytest.mark.parametrize("family", SHAPES)
def test_logits_are_those_of_edited_weights(family: str) -> None:
    """In every kind, for one and two directions; and afterwards bit for bit the original's."""
    for kind in ALL if family in DENSE else ("none",):
        model = random_model(family)
        original = logits(model)
        for count in STRENGTHS:
            edits = edits_of(model, count)
            expected = logits(with_edited_weights(model, edits, kind))
            editor = OutputSideEditor(model, kind)

            editor.abliterate(edits)
            found = logits(model)
            editor.restore()

            assert (found - expected).abs().max() <= 1e-9 * expected.abs().max()
            assert (expected - original).abs().max() > 1e-2 * original.abs().max()
            assert logits(model).equal(original)


@pytest.mark.parametrize(
    ("family", "kind"),
    [*((family, kind) for family in ("llama", "gpt2") for kind in ALL), ("gpt_oss", "none")],
)
def test_answers_are_those_of_edited_weights(family: str, kind: NormPreservation) -> None:
    """Token by token, from a cache of keys and values, in single precision and padded batches."""
    model = random_model(family, torch.float32)
    edits = edits_of(model, 2)
    other = with_edited_weights(model, edits, kind)
    before = generate(model, PROMPTS, 8)

    OutputSideEditor(model, kind).abliterate(edits)

    assert generate(model, PROMPTS, 8) == generate(other, PROMPTS, 8) != before
    answers: list[list[int]] = [[] for _ in PROMPTS]
    for one, two in zip(
        forced_log_probabilities(model, PROMPTS, answers),
        forced_log_probabilities(other, PROMPTS, answers),
        strict=True,
    ):
        assert (one - two).abs().max() < 1e-4


def test_fast_experts_are_edited_too() -> None:
    """The products of all experts at once, as models are run by default."""
    model = random_model("qwen3_moe", torch.float32)
    network: Any = model.network
    edits = edits_of(model, 2)
    expected = logits(with_edited_weights(model, edits, "none"))
    for implementation in ("batched_mm", "grouped_mm"):
        network.set_experts_implementation(implementation)
        editor = OutputSideEditor(model, "none")
        editor.abliterate(edits)
        assert (logits(model) - expected).abs().max() < 1e-4 * expected.abs().max()
        editor.restore()


@pytest.mark.parametrize("kind", ALL)
def test_half_precision_stays_half_precision(kind: NormPreservation) -> None:
    model = random_model("llama", torch.bfloat16)
    edits = edits_of(model, 1)
    exact = copy.deepcopy(model)
    exact.network.double()
    before = logits(exact)
    expected = logits(with_edited_weights(exact, edits, kind))
    original = logits(model)

    editor = OutputSideEditor(model, kind)
    editor.abliterate(edits)

    found = logits(model)
    assert found.dtype == torch.bfloat16
    assert (found - expected).norm() < 2 * (original - before).norm()
    editor.restore()
    assert logits(model).equal(original)


@pytest.mark.parametrize("kind", ALL)
def test_only_the_last_edit_counts(kind: NormPreservation) -> None:
    model = random_model("qwen2")
    editor = OutputSideEditor(model, kind)
    some = edits_of(model, 1, every=2)

    editor.abliterate(edits_of(model, 2))
    editor.abliterate(some)

    expected = logits(with_edited_weights(random_model("qwen2"), some, kind))
    assert (logits(model) - expected).abs().max() <= 1e-9 * expected.abs().max()


@pytest.mark.parametrize("kind", ALL)
def test_a_strength_of_zero_changes_no_bit(kind: NormPreservation) -> None:
    model = random_model("gpt2", torch.float32)
    original = logits(model)
    weights = {name: tensor.clone() for name, tensor in model.network.state_dict().items()}
    editor = OutputSideEditor(model, kind)

    editor.abliterate([Edit(e.writer, e.directions, (0.0,)) for e in edits_of(model, 1)])
    assert logits(model).equal(original)
    editor.abliterate(edits_of(model, 1))
    assert not logits(model).equal(original)

    for name, tensor in model.network.state_dict().items():
        assert tensor.equal(weights[name])


@pytest.mark.parametrize("kind", ["column", "row", "frobenius"])
@pytest.mark.parametrize("family", PACKED)
def test_norms_of_packed_experts_need_edited_weights(family: str, kind: NormPreservation) -> None:
    with pytest.raises(ModelLoadError, match=r"layers\.0\.mlp\.experts.*engine=edited_weights"):
        OutputSideEditor(random_model(family), kind)


def test_experts_that_put_out_more_than_their_sum_are_refused() -> None:
    model = random_model("mixtral", torch.float32)
    original = logits(model)
    experts: Any = model.network.get_submodule("model.layers.1.mlp.experts")
    forward = experts.forward
    experts.forward = lambda states, *routing: forward(states, *routing) + states

    with pytest.raises(ModelLoadError, match=r"layers\.1\.mlp\.experts\.down_proj does not put"):
        OutputSideEditor(model, "none")

    experts.forward = forward
    assert logits(model).equal(original)
    assert not experts._forward_hooks


def test_experts_that_share_a_module_are_refused() -> None:
    model = random_model("mixtral")
    first = model.anatomy.writers[1]
    twin = copy.copy(first)
    object.__setattr__(twin, "name", f"{first.name}_too")
    object.__setattr__(twin, "parameter", f"{first.parameter}_too")
    object.__setattr__(model.anatomy, "writers", (first, twin))

    with pytest.raises(ModelLoadError, match=r"down_proj and .*down_proj_too share"):
        OutputSideEditor(model, "none")


def test_directions_of_another_width_change_nothing() -> None:
    model = random_model("llama")
    editor = OutputSideEditor(model, "none")
    good = edits_of(model, 1)
    editor.abliterate(good)
    before = logits(model)

    wrong = Edit(model.anatomy.writers[1], torch.ones(1, D_MODEL + 1), (1.0,))
    with pytest.raises(ModelLoadError, match=r"mlp\.down_proj writes 32 channels.* have 33"):
        editor.abliterate([wrong])

    assert logits(model).equal(before)


def test_outputs_without_a_row_are_left_alone() -> None:
    """Experts in modules of their own are at times given no token."""
    model = random_model("llama", torch.float32)
    OutputSideEditor(model, "row").abliterate(edits_of(model, 1))
    module: nn.Module = model.anatomy.writers[0].module

    assert module(torch.empty(0, D_MODEL)).shape == (0, D_MODEL)


@pytest.mark.parametrize(
    ("engine", "kind"),
    [("auto", WeightEditor), ("edited_weights", WeightEditor), ("output_side", OutputSideEditor)],
)
def test_the_setting_chooses_the_editor(engine: str, kind: type) -> None:
    editor = make_editor(random_model("llama"), engine, "column", "true")

    assert type(editor) is kind
