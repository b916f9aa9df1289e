"""The residual stream where the answer begins."""

import logging
import math
import weakref
from functools import cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_models import D_MODEL, LAYERS, PROMPTS, tiny_model, tiny_network, tiny_tokenizer
from torch import Tensor

from heretic import residuals as module
from heretic.model.batching import BatchSize
from heretic.model.chat import ChatFormat
from heretic.model.decoding import Side
from heretic.model.loading import Model
from heretic.model.stream_writers.anatomy import Anatomy
from heretic.residuals import get_residual_means, get_residuals_batched, winsorize

FAMILIES = ["llama", "qwen2", "gpt2", "granite"]
# Families that pad and see each other in ways of their own: absolute positions, sliding windows,
# a state instead of attention.
PADDED = ["llama", "gpt2", "gemma2", "mamba"]
SIDES: list[Side] = ["left", "right"]
ALL: Literal["all"] = "all"
END = 4  # <|end|> <|assistant|> and a response prefix of two letters


def one_at_a_time(model: Model, count: int = 1) -> Tensor:
    """Transformers' own hidden states without any padding, the last one before the final norm.

    Of the last `count` tokens: [n_prompts, count, n_layers + 1, d_model].
    """
    decoder = model.network.get_decoder()  # type: ignore[no-untyped-call]
    norm = decoder.ln_f if hasattr(decoder, "ln_f") else decoder.norm
    before_norm: list[Tensor] = []
    handle = norm.register_forward_pre_hook(lambda _, args: before_norm.append(args[0]))
    rows = []
    for ids in model.chat.encode(PROMPTS):
        with torch.inference_mode():
            output = model.network(input_ids=torch.tensor([ids]), output_hidden_states=True)
        states = [*output.hidden_states[:-1], before_norm.pop()]
        rows.append(torch.stack([state[0, -count:] for state in states], dim=1))
    handle.remove()
    return torch.stack(rows)


@cache
def unpadded(family: str) -> tuple[Model, Tensor]:
    """A tiny model and its states at all positions, read one prompt at a time.

    Made without `find_stream_writers`, which refuses some families that can be read but not edited.
    """
    network: Any = tiny_network(family)
    decoder = network.base_model
    layers = decoder.h if hasattr(decoder, "h") else decoder.layers
    anatomy = Anatomy(tuple(layers), (), D_MODEL, (1.0,) * len(layers))
    model = Model(network, ChatFormat(tiny_tokenizer(), "So"), anatomy, Path(), BatchSize(1))
    return model, get_residuals_batched(model, PROMPTS, positions="all")


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("batch_size", [1, 2, 8])
def test_equals_transformers_hidden_states_at_the_last_token(family: str, batch_size: int) -> None:
    model = tiny_model(family, batch_size=batch_size)

    residuals = get_residuals_batched(model, PROMPTS)

    assert residuals.shape == (len(PROMPTS), LAYERS + 1, D_MODEL)
    torch.testing.assert_close(residuals, one_at_a_time(model)[:, 0], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("side", SIDES)
def test_equals_transformers_hidden_states_between_instruction_and_answer(
    family: str, side: Side
) -> None:
    model = tiny_model(family, response_prefix="So")

    residuals = get_residuals_batched(model, PROMPTS, positions="all", padding_side=side)

    assert residuals.shape == (len(PROMPTS), END, LAYERS + 1, D_MODEL)
    torch.testing.assert_close(residuals, one_at_a_time(model, END), rtol=1e-4, atol=1e-4)
    last = get_residuals_batched(model, PROMPTS, padding_side=side)
    assert residuals[:, -1].equal(last)


def test_all_positions_are_the_templates_tokens() -> None:
    model = tiny_model("llama", response_prefix="So")
    ends = ["<|end|>", "<|assistant|>", "S", "o"]
    embed = model.network.get_input_embeddings()
    expected = embed(torch.tensor(model.chat.tokenizer.convert_tokens_to_ids(ends)))

    residuals = get_residuals_batched(model, PROMPTS, positions="all")

    assert residuals[:, :, 0].equal(expected.expand(len(PROMPTS), -1, -1))


@settings(deadline=None, max_examples=12)
@given(
    family=st.sampled_from(PADDED),
    side=st.sampled_from(SIDES),
    batch_size=st.integers(1, len(PROMPTS)),
    order=st.permutations(range(len(PROMPTS))),
)
def test_neither_batch_size_nor_padding_nor_order_matters(
    family: str, side: Side, batch_size: int, order: list[int]
) -> None:
    model, expected = unpadded(family)
    model.batch_size.current = batch_size

    found = get_residuals_batched(
        model, [PROMPTS[i] for i in order], "", positions="all", padding_side=side
    )

    torch.testing.assert_close(found, expected[order], rtol=1e-4, atol=1e-4)


def test_index_zero_is_the_embedding_of_the_last_token() -> None:
    model = tiny_model("llama")
    last = [ids[-1] for ids in model.chat.encode(PROMPTS)]

    residuals = get_residuals_batched(model, PROMPTS)

    assert residuals[:, 0].equal(model.network.get_input_embeddings()(torch.tensor(last)))


def test_the_last_state_is_not_normed() -> None:
    """Transformers norms its last hidden state, which is no state of the stream."""
    model = tiny_model("llama")
    ids = torch.tensor(model.chat.encode(PROMPTS[:1]))
    with torch.inference_mode():
        normed = model.network(input_ids=ids, output_hidden_states=True).hidden_states[-1][:, -1]

    last = get_residuals_batched(model, PROMPTS[:1])[:, -1]

    torch.testing.assert_close(model.network.get_submodule("model.norm")(last), normed)
    assert not torch.allclose(last, normed, atol=0.1)


def test_follows_the_order_of_the_prompts() -> None:
    model = tiny_model("llama", batch_size=2)
    order = [3, 0, 4, 2, 1]

    shuffled = get_residuals_batched(model, [PROMPTS[index] for index in order])

    expected = get_residuals_batched(model, PROMPTS)[order]
    torch.testing.assert_close(shuffled, expected, rtol=1e-4, atol=1e-4)


def test_reads_where_the_answer_begins_after_the_response_prefix() -> None:
    model = tiny_model("llama", response_prefix="So")
    last = model.chat.tokenizer.convert_tokens_to_ids("o")

    residuals = get_residuals_batched(model, PROMPTS[:2])

    embedding = model.network.get_input_embeddings()(torch.tensor(last))
    assert residuals[0, 0].equal(embedding)
    assert residuals[1, 0].equal(embedding)


def test_half_precision_models_give_float32() -> None:
    model = tiny_model("llama", dtype=torch.bfloat16)

    residuals = get_residuals_batched(model, PROMPTS)

    assert residuals.dtype == torch.float32
    expected = get_residuals_batched(tiny_model("llama"), PROMPTS)
    assert (residuals - expected).norm() < 0.05 * expected.norm()


@pytest.mark.parametrize("positions", ["last", "all"])
@pytest.mark.parametrize("quantile", [1.0, 0.9])
@pytest.mark.parametrize("batch_size", [2, 8])
def test_means_are_those_of_the_states(
    positions: Literal["last", "all"], quantile: float, batch_size: int
) -> None:
    model = tiny_model("llama", batch_size=batch_size)
    states = get_residuals_batched(model, PROMPTS, positions=positions, winsorize_quantile=quantile)

    means = get_residual_means(model, PROMPTS, positions=positions, winsorize_quantile=quantile)

    assert means.dtype == torch.float64
    torch.testing.assert_close(means, states.double().mean(0), rtol=1e-12, atol=1e-12)


def test_means_hold_one_batch_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    model, read = tiny_model("llama", batch_size=1), module._states_of_batch
    batches: list[weakref.ref[Tensor]] = []
    alive: list[int] = []

    def watched(*args: Any) -> Tensor:
        alive.append(sum(batch() is not None for batch in batches))
        states = read(*args)
        batches.append(weakref.ref(states))
        return states

    monkeypatch.setattr(module, "_states_of_batch", watched)
    get_residual_means(model, PROMPTS)

    assert len(batches) == len(PROMPTS)
    assert max(alive) <= 1


def test_a_mean_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one"):
        get_residual_means(tiny_model("llama"), [])


@settings(deadline=None, max_examples=25)
@given(
    quantile=st.floats(0.5, 1, exclude_min=True, exclude_max=True),
    width=st.integers(1, 40),
    seed=st.integers(0, 2**20),
)
def test_winsorizing_clips_each_state_at_its_own_quantile(
    quantile: float, width: int, seed: int
) -> None:
    states = np.random.default_rng(seed).standard_cauchy((3, 2, width))
    limit = np.sort(np.abs(states), axis=-1)[..., math.ceil(quantile * width) - 1, None]

    found = winsorize(torch.from_numpy(states), quantile)

    np.testing.assert_array_equal(found.numpy(), np.clip(states, -limit, limit))


def test_a_quantile_of_one_changes_nothing() -> None:
    states = torch.randn(2, 5)

    assert winsorize(states, 1.0) is states


def test_winsorizing_hides_no_overflow() -> None:
    states = torch.tensor([[1.0, -2.0, 3.0, math.inf], [1.0, -2.0, 3.0, math.nan]])

    found = winsorize(states, 0.75)

    assert not found[:, -1].isfinite().any()
    assert found[:, :-1].equal(states[:, :-1])


def test_states_are_winsorized_where_they_are_read() -> None:
    model = tiny_model("llama")
    states = get_residuals_batched(model, PROMPTS, positions="all")

    found = get_residuals_batched(model, PROMPTS, positions="all", winsorize_quantile=0.8)

    assert found.equal(winsorize(states, 0.8))
    assert not found.equal(states)


@pytest.mark.parametrize("positions", ["last", "all"])
@pytest.mark.parametrize("read", [get_residuals_batched, get_residual_means])
def test_memory_that_runs_out_midway_costs_no_prompt(
    read: Any, positions: Literal["last", "all"]
) -> None:
    model = tiny_model("llama", batch_size=8)
    expected = read(model, PROMPTS, positions=positions)
    tried: list[int] = []

    def full(_: object, args: tuple[Tensor, ...]) -> None:
        tried.append(len(args[0]))
        if len(args[0]) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")

    layer = model.get_layers()[1]
    handle = layer.register_forward_pre_hook(full)
    found = read(model, PROMPTS, positions=positions)
    first, tried[:] = tried[:], []
    again = read(model, PROMPTS, positions=positions)
    handle.remove()

    assert first == [5, 2, 2, 1]
    assert tried == [2, 2, 1]  # remembered
    assert model.batch_size.current == 2
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    assert again.equal(found)
    assert not layer._forward_pre_hooks
    assert not layer._forward_hooks


@pytest.mark.parametrize("read", [get_residuals_batched, get_residual_means])
def test_one_line_says_what_it_took(
    read: Any, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging.getLogger("heretic"), "propagate", True)
    model = tiny_model("llama", batch_size=2)
    tokens = sum(map(len, model.chat.encode(PROMPTS)))

    with caplog.at_level(logging.INFO, "heretic"):
        read(model, PROMPTS, "Residuals of a set")

    (line,) = [text for text in caplog.messages if "tokens" in text]
    assert line.startswith(f"Residuals of a set: 5 prompts, {tokens} tokens in ")
    assert " tokens/s), peak memory " in line
    assert line.endswith(" GB of the process")
