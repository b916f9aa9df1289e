"""How all answers begin, on models whose weights make them begin so."""

import logging
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from tiny_models import CHAT_TEMPLATE, PROMPTS, tiny_network, tiny_tokenizer

from heretic.model.batching import BatchSize
from heretic.model.chat import ChatFormat
from heretic.model.loading import Model
from heretic.model.response_prefix import empty_block, find_response_prefix, rest_of_open_block
from heretic.model.stream_writers.anatomy import find_stream_writers
from heretic.prompts.prompt import Prompt

ASSISTANT = "<|assistant|>"
EMPTY = "<think>\n\n</think>\n\n"


def model_that_begins(start: str, template: str = CHAT_TEMPLATE) -> Model:
    """A network that says `start`, of different characters, and then what its prompt makes it say.

    One direction of the stream marks each token. The head follows the marks of the chain from
    `<|assistant|>` through `start`, and reads anything else from what attention has mixed in.
    """
    tokenizer = tiny_tokenizer(template)
    size = len(tokenizer)
    network = tiny_network("llama", hidden_size=size + 63)
    embeddings = network.get_parameter("model.embed_tokens.weight").data
    head = network.get_parameter("lm_head.weight").data
    embeddings[:, size:] *= 0.01
    embeddings[:, :size] = 30 * torch.eye(size)
    head[:, :size] = 0
    (*chain,) = tokenizer(ASSISTANT + start, add_special_tokens=False)["input_ids"]
    for now, then in pairwise(chain):
        head[then, now] = 1000
    anatomy = find_stream_writers(network)
    for writer in anatomy.writers:  # the marks stay as the embeddings made them
        writer.weight[:size] = 0
    return Model(network, ChatFormat(tokenizer), anatomy, Path(), BatchSize(8))


@pytest.mark.parametrize(
    ("start", "found"),
    [("", ""), ("So, ", "So,"), ("Yes", "Yes"), ("<think>", EMPTY), ("<think>Wa", EMPTY),
     ("<thoug", "<thoug"), ("ü", "ü")],
)  # fmt: skip
def test_what_all_answers_begin_with(start: str, found: str) -> None:
    assert find_response_prefix(model_that_begins(start), PROMPTS[:3], PROMPTS[3:]) == found


def test_a_prefix_that_is_set_already_is_not_in_the_way() -> None:
    model = model_that_begins("So,")
    model.chat = replace(model.chat, response_prefix="Hm")
    assert find_response_prefix(model, PROMPTS[:3], PROMPTS[3:]) == "So,"
    assert model.chat.response_prefix == "Hm"


@pytest.mark.parametrize(
    ("opening", "prefix"), [("<think>\n", "\n</think>\n\n"), ("<think> ", "</think>\n\n")]
)
def test_a_block_that_the_template_opens_is_closed(opening: str, prefix: str) -> None:
    template = CHAT_TEMPLATE.replace("{{ '<|assistant|>' }}", f"{{{{ {ASSISTANT + opening!r} }}}}")
    model = model_that_begins("", template)
    assert model.chat.render(Prompt("Hi")).endswith(opening)
    assert find_response_prefix(model, PROMPTS[:3], PROMPTS[3:]) == prefix


def test_answers_that_are_all_the_same_are_no_prefix(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging.getLogger("heretic"), "propagate", True)
    with caplog.at_level(logging.WARNING, "heretic"):
        assert find_response_prefix(model_that_begins(""), PROMPTS[:1], PROMPTS[:1]) == ""
    assert "set response_prefix" in caplog.text


def test_empty_answers_have_no_prefix() -> None:
    model = model_that_begins("<|end|>")
    assert find_response_prefix(model, PROMPTS[:3], PROMPTS[3:]) == ""


@pytest.mark.parametrize(
    ("start", "block"),
    [
        ("<think>\nOkay, ", EMPTY),
        ("\n<think>", EMPTY),
        ("<thought>", "<thought>\n\n</thought>\n\n"),
        ("<seed_think>", "<seed_think>\n\n</seed_think>\n\n"),
        ("[THINK]Hm", "[THINK][/THINK]"),
        ("<|channel|>analysis<|message|>We", "<|channel|>final<|message|>"),
        ("I think", None),
        ("<b>think", None),
        ("", None),
    ],
)
def test_blocks_of_thoughts(start: str, block: str | None) -> None:
    found = empty_block(start)
    assert found == block or (found is not None and block and found.endswith(block))


def test_a_closed_block_in_a_prompt_is_left_alone() -> None:
    assert rest_of_open_block("<think>x</think>Hi") == ""
    assert rest_of_open_block("What does <think> mean?<|assistant|>") == ""
