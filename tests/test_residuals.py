"""The residual stream where the answer begins."""

import pytest
import torch
from tiny_models import D_MODEL, LAYERS, PROMPTS, tiny_model
from torch import Tensor

from heretic.model.loading import Model
from heretic.residuals import get_residuals_batched

FAMILIES = ["llama", "qwen2", "gpt2", "granite"]


def one_at_a_time(model: Model) -> Tensor:
    """Transformers' own hidden states without any padding, the last one before the final norm."""
    decoder = model.network.get_decoder()  # type: ignore[no-untyped-call]
    norm = decoder.ln_f if hasattr(decoder, "ln_f") else decoder.norm
    before_norm: list[Tensor] = []
    handle = norm.register_forward_pre_hook(lambda _, args: before_norm.append(args[0]))
    rows = []
    for ids in model.chat.encode(PROMPTS):
        with torch.inference_mode():
            output = model.network(input_ids=torch.tensor([ids]), output_hidden_states=True)
        states = [*output.hidden_states[:-1], before_norm.pop()]
        rows.append(torch.stack([state[0, -1] for state in states]))
    handle.remove()
    return torch.stack(rows)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("batch_size", [1, 2, 8])
def test_equals_transformers_hidden_states_at_the_last_token(family: str, batch_size: int) -> None:
    model = tiny_model(family, batch_size=batch_size)

    residuals = get_residuals_batched(model, PROMPTS)

    assert residuals.shape == (len(PROMPTS), LAYERS + 1, D_MODEL)
    torch.testing.assert_close(residuals, one_at_a_time(model), rtol=1e-4, atol=1e-4)


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


def test_memory_that_runs_out_midway_costs_no_prompt() -> None:
    model = tiny_model("llama", batch_size=8)
    expected = get_residuals_batched(model, PROMPTS)

    def full(_: object, args: tuple[Tensor, ...]) -> None:
        if len(args[0]) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")

    layer = model.get_layers()[1]
    handle = layer.register_forward_pre_hook(full)
    found = get_residuals_batched(model, PROMPTS)
    handle.remove()

    assert model.batch_size.current <= 2
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    assert not layer._forward_pre_hooks
    assert not layer._forward_hooks
