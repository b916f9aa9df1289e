"""How all answers begin, on models whose weights make them begin so."""

import logging
from collections.abc import Sequence
from dataclasses import replace

import pytest
from beginning_models import ASSISTANT, model_that_begins
from tiny_models import CHAT_TEMPLATE, PROMPTS, tiny_model

from heretic.model import response_prefix
from heretic.model.loading import Model
from heretic.model.response_prefix import (
    empty_block,
    find_response_prefix,
    looks_like_thoughts,
    rest_of_open_block,
)
from heretic.prompts.prompt import Prompt

EMPTY = "<think>\n\n</think>\n\n"


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


@pytest.fixture
def warnings(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> pytest.LogCaptureFixture:
    """Warnings of the library."""
    monkeypatch.setattr(logging.getLogger("heretic"), "propagate", True)
    caplog.set_level(logging.WARNING, "heretic")
    return caplog


def test_answers_that_are_all_the_same_are_no_prefix(warnings: pytest.LogCaptureFixture) -> None:
    assert find_response_prefix(model_that_begins(""), PROMPTS[:1], PROMPTS[:1]) == ""
    assert "set response_prefix" in warnings.text


def test_empty_answers_have_no_prefix() -> None:
    model = model_that_begins("<|end|>")
    assert find_response_prefix(model, PROMPTS[:3], PROMPTS[3:]) == ""


@pytest.mark.parametrize(
    ("opening", "closing"),
    [
        ("<think>", "</think>"),
        ("<Thinking>", "</Thinking>"),
        ("<thought>", "</thought>"),
        ("<reasoning>", "</reasoning>"),
        ("<reflection>", "</reflection>"),
        ("<scratchpad>", "</scratchpad>"),
        ("<seed:think>", "</seed:think>"),
        ("<seed_think>", "</seed_think>"),
        ("<think_start>", "<think_end>"),
        ("<|think|>", "<|/think|>"),
        ("<|START_THINKING|>", "<|END_THINKING|>"),
        ("<|begin_of_thought|>", "<|end_of_thought|>"),
        ("\u25c1think\u25b7", "\u25c1/think\u25b7"),
        ("[THINK]", "[/THINK]"),
        ("<|inner_prefix|>", "<|inner_suffix|>"),
        ("<|channel>thought", "<channel|>"),
        ("<unused94>thought", "<unused95>"),
        ("<|channel|>analysis<|message|>", "<|channel|>final<|message|>"),
    ],
)
def test_an_empty_block_ends_with_the_closing_delimiter(opening: str, closing: str) -> None:
    block = empty_block(f"\n{opening}\nOkay, ")
    assert block is not None
    assert block.startswith(opening)
    assert block.rstrip().endswith(closing)
    assert rest_of_open_block(f"<|user|>Hi{ASSISTANT}{opening}\n").rstrip().endswith(closing)
    assert rest_of_open_block(ASSISTANT + opening) == block.removeprefix(opening)


@pytest.mark.parametrize("start", ["I think", "<b>think", "", "</think>", "<|end_of_thought|>",
                                   "[Thinking]", "<|assistant|>"])  # fmt: skip
def test_other_beginnings_open_no_block(start: str) -> None:
    assert empty_block(start) is None


@pytest.mark.parametrize(
    ("start", "suspicious"),
    [
        ("<plan>\nFirst", True),
        ("<|deliberate|>", True),
        ("[PLANNING]", True),
        ("Here is my thought process:", True),
        ("**Reasoning:**", True),
        ("<b>Answer</b>", False),
        ("<|assistant|>", False),
        ("Thinking of you", False),
        ("Sure, ", False),
    ],
)
def test_an_unknown_block_is_suspected(start: str, suspicious: bool) -> None:
    assert looks_like_thoughts(start, "<|user|>Hi<|end|><|assistant|>") == suspicious


def test_a_closed_block_in_a_prompt_is_left_alone() -> None:
    assert rest_of_open_block("<think>x</think>Hi") == ""
    assert rest_of_open_block("What does <think> mean?<|assistant|>") == ""


def test_an_unknown_block_is_named_in_a_warning(warnings: pytest.LogCaptureFixture) -> None:
    assert find_response_prefix(model_that_begins("<plan>"), PROMPTS[:3], PROMPTS[3:]) == "<plan>"
    assert "'<plan>', which looks like a thinking block" in warnings.text


ANSWERS = [Prompt(f"Answer {letter}") for letter in "ABCD"]


def answering(
    monkeypatch: pytest.MonkeyPatch, *starts: str, after_block: str | None = None
) -> Model:
    """A model whose answer to the n-th prompt is the n-th text and the prompt.

    Args:
        monkeypatch: replaces the generation.
        starts: beginnings of the answers, repeated for further prompts.
        after_block: beginning of every answer once there is a prefix.
    """

    def generate(model: Model, prompts: Sequence[Prompt], count: int) -> list[list[int]]:
        begin = starts if not model.chat.response_prefix or after_block is None else (after_block,)
        texts = [begin[n % len(begin)] + p.text[-1] + " rest" * 99 for n, p in enumerate(prompts)]
        return [model.chat.tokenizer(text)["input_ids"][:count] for text in texts]

    monkeypatch.setattr(response_prefix, "generate", generate)
    return tiny_model()


@pytest.mark.parametrize("length", [23, 24, 25, 48, 60])
def test_a_long_prefix_is_found_whole(monkeypatch: pytest.MonkeyPatch, length: int) -> None:
    start = ("abcdefghij" * 6)[:length]
    model = answering(monkeypatch, start)
    assert find_response_prefix(model, ANSWERS[:2], ANSWERS[2:]) == start


def test_a_prefix_longer_than_the_comparison_is_named_in_a_warning(
    monkeypatch: pytest.MonkeyPatch, warnings: pytest.LogCaptureFixture
) -> None:
    model = answering(monkeypatch, "abcdefghij" * 60)
    monkeypatch.setattr(response_prefix, "MOST_TOKENS", 50)
    assert find_response_prefix(model, ANSWERS[:2], ANSWERS[2:]) == ""
    assert "All 4 responses are alike for at least 50 tokens" in warnings.text


def test_the_comparison_ends_at_the_models_context(
    monkeypatch: pytest.MonkeyPatch, warnings: pytest.LogCaptureFixture
) -> None:
    model = answering(monkeypatch, "abcdefghij" * 60)
    model.chat = replace(model.chat, limits=replace(model.chat.limits, context=41))
    room = 41 - len(model.chat.encode(ANSWERS)[0])
    assert find_response_prefix(model, ANSWERS[:2], ANSWERS[2:]) == ""
    assert f"alike for at least {room} tokens" in warnings.text


def test_responses_that_still_think_are_counted_in_a_warning(
    monkeypatch: pytest.MonkeyPatch, warnings: pytest.LogCaptureFixture
) -> None:
    model = answering(monkeypatch, "<think>Hm, ", "So ")
    assert find_response_prefix(model, ANSWERS[:2], ANSWERS[2:]) == ""
    assert "2 of 4 responses open a thinking block" in warnings.text


def test_thoughts_after_an_empty_block_are_no_prefix(
    monkeypatch: pytest.MonkeyPatch, warnings: pytest.LogCaptureFixture
) -> None:
    model = answering(monkeypatch, "<think>Hm, ", after_block="<think>Well, ")
    assert find_response_prefix(model, ANSWERS[:2], ANSWERS[2:]) == EMPTY
    assert "4 of 4 responses open a thinking block" in warnings.text
