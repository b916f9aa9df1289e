"""Greedy answers and next-token distributions do not depend on how prompts are batched."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from tiny_models import PROMPTS, tiny_model
from torch import Tensor
from torch._dynamo.utils import counters
from transformers import GenerationConfig

from heretic.model.decoding import (
    decode,
    forced_log_probabilities,
    generate,
    text_log_probabilities,
)
from heretic.model.loading import Model

FAMILIES = ["llama", "gpt2", "qwen2"]
NEW_TOKENS = 12


def next_token_logits(model: Model, ids: list[int]) -> Tensor:
    with torch.inference_mode():
        logits: Tensor = model.network(input_ids=torch.tensor([ids])).logits[0, -1]
    return logits


def naive_greedy(model: Model, ids: list[int], ends: set[int]) -> list[int]:
    """The likeliest next token, one whole forward pass each, until an end token."""
    answer: list[int] = []
    while len(answer) < NEW_TOKENS:
        token = int(next_token_logits(model, ids + answer).argmax())
        if token in ends:
            break
        answer.append(token)
    return answer


def naive_answers(model: Model, *more_ends: int) -> list[list[int]]:
    ends = {int(model.chat.tokenizer.eos_token_id), *more_ends}
    return [naive_greedy(model, ids, ends) for ids in model.chat.encode(PROMPTS)]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("batch_size", [1, 3, 8])
def test_generates_what_each_prompt_would_get_alone(family: str, batch_size: int) -> None:
    model = tiny_model(family, batch_size=batch_size)

    answers = generate(model, PROMPTS, NEW_TOKENS)

    assert answers == naive_answers(model)
    assert len({tuple(answer) for answer in answers}) > 1


@pytest.mark.parametrize("as_list", [False, True])
def test_answers_end_before_any_of_the_models_end_tokens(as_list: bool) -> None:
    model = tiny_model("llama")
    whole = naive_answers(model)
    end = whole[0][4]
    config: Any = model.network.generation_config
    config.eos_token_id = [end, 3] if as_list else end

    answers = generate(model, PROMPTS, NEW_TOKENS)

    assert answers == naive_answers(model, end, *([3] if as_list else []))
    assert answers[0] == whole[0][: whole[0].index(end)]
    assert len(answers[0]) < len(whole[0])


def test_an_answer_may_be_empty() -> None:
    model = tiny_model("llama")
    first = naive_answers(model)[2][0]
    config: Any = model.network.generation_config
    config.eos_token_id = first

    answers = generate(model, PROMPTS, NEW_TOKENS)

    assert answers[2] == []
    assert decode(model, answers)[2] == ""
    assert any(answers)


def test_is_greedy_whatever_the_checkpoint_recommends() -> None:
    model = tiny_model("llama")
    expected = naive_answers(model)
    recommended = GenerationConfig(  # type: ignore[no-untyped-call]
        do_sample=True,
        temperature=5.0,
        repetition_penalty=3.0,
        no_repeat_ngram_size=1,
        max_length=2,
        eos_token_id=model.chat.tokenizer.eos_token_id,
    )
    model.network.generation_config = recommended

    answers = generate(model, PROMPTS, NEW_TOKENS)

    assert answers == expected
    assert model.network.generation_config is recommended


def test_decodes_to_text() -> None:
    model = tiny_model("llama")
    tokens: Any = model.chat.tokenizer.convert_tokens_to_ids(["H", "i"])

    assert decode(model, [tokens, []]) == ["Hi", ""]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("batch_size", [1, 3, 8])
def test_forced_distributions_equal_one_forward_pass_each(family: str, batch_size: int) -> None:
    model = tiny_model(family, batch_size=batch_size)
    answers = [[7, 8, 9], [], [10], [11, 12, 13, 14, 15], [16, 17]]

    found = forced_log_probabilities(model, PROMPTS, answers)

    for ids, answer, rows in zip(model.chat.encode(PROMPTS), answers, found, strict=True):
        naive = [
            next_token_logits(model, ids + answer[:taken]).log_softmax(-1)
            for taken in range(max(len(answer), 1))
        ]
        torch.testing.assert_close(rows, torch.stack(naive), rtol=1e-4, atol=1e-4)


def test_an_empty_answer_still_has_the_first_tokens_distribution() -> None:
    model = tiny_model("llama")

    (empty,) = forced_log_probabilities(model, PROMPTS[:1], [[]])
    (given,) = forced_log_probabilities(model, PROMPTS[:1], [[7, 8]])

    assert empty.shape[0] == 1
    torch.testing.assert_close(empty[0], given[0], rtol=1e-4, atol=1e-4)
    assert float(empty.exp().sum()) == pytest.approx(1, abs=1e-4)


def test_forcing_the_models_own_answer_makes_every_token_the_likeliest() -> None:
    model = tiny_model("llama")
    answers = generate(model, PROMPTS, NEW_TOKENS)

    found = forced_log_probabilities(model, PROMPTS, answers)

    for answer, rows in zip(answers, found, strict=True):
        assert rows.argmax(-1)[: len(answer)].tolist() == answer


def test_half_precision_models_give_float32() -> None:
    model = tiny_model("llama", dtype=torch.bfloat16)

    (rows,) = forced_log_probabilities(model, PROMPTS[:1], [[7]])

    assert rows.dtype == torch.float32
    assert float(rows.exp().sum()) == pytest.approx(1, abs=1e-4)


def test_prompts_without_answers_are_a_mistake() -> None:
    model = tiny_model("llama")

    with pytest.raises(ValueError, match="zip"):
        forced_log_probabilities(model, PROMPTS, [[1]])


@pytest.mark.slow
def test_a_compiled_decoding_step_gives_the_same_tokens_and_sees_edits() -> None:
    model = replace(tiny_model("llama"), compile=True)
    torch._dynamo.reset()
    counters.clear()
    before = generate(model, PROMPTS, NEW_TOKENS)
    assert before == naive_answers(model)
    compiled = counters["stats"]["unique_graphs"]
    assert compiled > 0
    # An edit in place, as a trial makes it, is seen without compiling again.
    model.anatomy.writers[0].weight.mul_(-1)
    after = generate(model, PROMPTS, NEW_TOKENS)
    assert after == naive_answers(model)
    assert after != before
    assert counters["stats"]["unique_graphs"] == compiled


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_plain_texts_are_read_as_one_by_one(family: str) -> None:
    model = tiny_model(family, batch_size=2)
    texts = ["Grey stones lie there.", "A", "Rain.", "It rains on grey stones. " * 40]
    places = model.network.config.get_text_config().max_position_embeddings
    found = text_log_probabilities(model, texts)
    # A single token tells nothing, and what has no place is cut off.
    assert len(found) == 3
    assert len(found[2]) == min(places, len(texts[3])) - 1
    for row, text in zip(found, (texts[0], *texts[2:]), strict=True):
        ids = torch.tensor([model.chat.tokenizer(text)["input_ids"][:places]])
        with torch.no_grad():
            alone = model.network(ids).logits[0, :-1].log_softmax(-1)
        wanted = alone.gather(-1, ids[0, 1:, None])[:, 0]
        torch.testing.assert_close(row, wanted, rtol=1e-4, atol=1e-4)
