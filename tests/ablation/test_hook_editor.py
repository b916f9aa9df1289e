"""Editing what writers put out gives what editing their weights gives, and leaves no trace."""

import copy
from typing import Any, cast

import pytest
import torch
from random_models import (
    ALL,
    DENSE,
    PACKED,
    SHAPES,
    STRENGTHS,
    edits_of,
    logits,
    random_model,
    with_edited_weights,
)
from tiny_models import D_MODEL, PROMPTS
from torch import nn

from heretic.ablation.editors import make_editor
from heretic.ablation.hook_editor import HookEditor
from heretic.ablation.plan import Edit
from heretic.ablation.projection import NormPreservation
from heretic.ablation.weight_editor import WeightEditor
from heretic.errors import ModelLoadError
from heretic.model.decoding import forced_log_probabilities, generate


@pytest.mark.parametrize("family", SHAPES)
def test_logits_are_those_of_edited_weights(family: str) -> None:
    """In every kind, for one and two directions; and afterwards bit for bit the original's."""
    for kind in ALL if family in DENSE else ("none",):
        model = random_model(family)
        original = logits(model)
        for count in STRENGTHS:
            edits = edits_of(model, count)
            expected = logits(with_edited_weights(model, edits, kind))
            editor = HookEditor(model, kind)

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

    HookEditor(model, kind).abliterate(edits)

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
        editor = HookEditor(model, "none")
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

    editor = HookEditor(model, kind)
    editor.abliterate(edits)

    found = logits(model)
    assert found.dtype == torch.bfloat16
    assert (found - expected).norm() < 2 * (original - before).norm()
    editor.restore()
    assert logits(model).equal(original)


@pytest.mark.parametrize("kind", ALL)
def test_only_the_last_edit_counts(kind: NormPreservation) -> None:
    model = random_model("qwen2")
    editor = HookEditor(model, kind)
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
    editor = HookEditor(model, kind)

    editor.abliterate([Edit(e.writer, e.directions, (0.0,)) for e in edits_of(model, 1)])
    assert logits(model).equal(original)
    editor.abliterate(edits_of(model, 1))
    assert not logits(model).equal(original)

    for name, tensor in model.network.state_dict().items():
        assert tensor.equal(weights[name])


@pytest.mark.parametrize("kind", ["column", "row", "frobenius"])
@pytest.mark.parametrize("family", PACKED)
def test_norms_of_packed_experts_need_edited_weights(family: str, kind: NormPreservation) -> None:
    with pytest.raises(ModelLoadError, match=r"layers\.0\.mlp\.experts.*edit_mode=weights"):
        HookEditor(random_model(family), kind)


def test_experts_that_put_out_more_than_their_sum_are_refused() -> None:
    model = random_model("mixtral", torch.float32)
    original = logits(model)
    experts: Any = model.network.get_submodule("model.layers.1.mlp.experts")
    forward = experts.forward
    experts.forward = lambda states, *routing: forward(states, *routing) + states

    with pytest.raises(ModelLoadError, match=r"layers\.1\.mlp\.experts\.down_proj does not output"):
        HookEditor(model, "none")

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
        HookEditor(model, "none")


def test_directions_of_another_width_change_nothing() -> None:
    model = random_model("llama")
    editor = HookEditor(model, "none")
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
    HookEditor(model, "row").abliterate(edits_of(model, 1))
    module: nn.Module = model.anatomy.writers[0].module

    assert module(torch.empty(0, D_MODEL)).shape == (0, D_MODEL)


@pytest.mark.parametrize(
    ("engine", "kind"),
    [("auto", WeightEditor), ("weights", WeightEditor), ("hooks", HookEditor)],
)
def test_the_setting_chooses_the_editor(engine: str, kind: type) -> None:
    editor = make_editor(random_model("llama"), engine, "column", "true")

    assert type(editor) is kind


def test_what_was_compiled_before_is_edited_too() -> None:
    model = random_model("llama", torch.float32)
    model.compile = True
    plain, compiled = model.network, torch.compile(model.network, backend="eager")
    model.network = cast(Any, compiled)
    original = logits(model)
    model.network = plain
    HookEditor(model, "none").abliterate(edits_of(model, 1))
    edited = logits(model)
    model.network = cast(Any, compiled)
    torch.testing.assert_close(logits(model), edited, rtol=1e-3, atol=1e-3)
    assert (edited - original).abs().max() > 1e-2
