"""Prompts through the chat template."""

from typing import Any

import pytest
from tiny_models import CHAT_TEMPLATE, NO_SYSTEM_ROLE, PROMPTS, tiny_tokenizer

from heretic.errors import ModelLoadError
from heretic.model.chat import ChatFormat, require_template
from heretic.prompts.prompt import Prompt

DROPS_SYSTEM = (
    "{% for message in messages if message['role'] == 'user' %}"
    "{{ '<|user|>' + message['content'] + '<|end|>' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)
TRIMS = CHAT_TEMPLATE.replace("message['content']", "message['content'] | trim")


def test_ends_where_the_answer_begins() -> None:
    chat = ChatFormat(tiny_tokenizer())

    assert chat.render(Prompt("Hi")) == "<|user|>Hi<|end|><|assistant|>"


def test_the_system_prompt_comes_first() -> None:
    chat = ChatFormat(tiny_tokenizer())

    rendered = chat.render(Prompt("Hi", system="Be brief."))

    assert rendered == "<|system|>Be brief.<|end|><|user|>Hi<|end|><|assistant|>"


def test_the_response_prefix_is_last() -> None:
    chat = ChatFormat(tiny_tokenizer(), response_prefix="<think></think>")

    assert chat.render(Prompt("Hi")).endswith("<|assistant|><think></think>")


def test_encodes_the_special_tokens_as_one_token_each_and_adds_none() -> None:
    tokenizer = tiny_tokenizer()
    chat = ChatFormat(tokenizer, response_prefix="So")

    (ids,) = chat.encode([Prompt("Hi")])

    tokens = ["<|user|>", "H", "i", "<|end|>", "<|assistant|>", "S", "o"]
    assert ids == tokenizer.convert_tokens_to_ids(tokens)


def test_encodes_each_prompt_without_padding() -> None:
    chat = ChatFormat(tiny_tokenizer())

    assert chat.encode(PROMPTS) == [chat.encode([prompt])[0] for prompt in PROMPTS]


def test_decodes_without_special_tokens() -> None:
    tokenizer = tiny_tokenizer()
    ids: Any = tokenizer.convert_tokens_to_ids(["<|assistant|>", "H", "i", "<|end|>"])

    assert ChatFormat(tokenizer).decode(ids) == "Hi"


@pytest.mark.parametrize("template", [NO_SYSTEM_ROLE, DROPS_SYSTEM])
def test_without_a_system_role_the_system_prompt_opens_the_users_turn(template: str) -> None:
    """Otherwise the study would run on prompts that nobody asked for."""
    chat = ChatFormat(tiny_tokenizer(template))

    assert not chat.has_system_role
    rendered = chat.render(Prompt("Hi", system="Be brief."))
    assert rendered == "<|user|>Be brief.\n\nHi<|end|><|assistant|>"
    assert chat.render(Prompt("Hi")) == "<|user|>Hi<|end|><|assistant|>"


def test_a_template_that_refuses_every_conversation_is_one_line() -> None:
    chat = ChatFormat(tiny_tokenizer("{{ raise_exception('Not\\ntoday') }}"))

    for prompt in (Prompt("Hi"), Prompt("Hi", system="Be brief.")):
        with pytest.raises(ModelLoadError, match=r"Not today.*chat_template") as failure:
            chat.render(prompt)
        assert "\n" not in str(failure.value)


def test_a_template_may_trim_the_system_prompt() -> None:
    chat = ChatFormat(tiny_tokenizer(TRIMS))

    assert chat.render(Prompt("Hi", system=" Be brief.\n")).startswith("<|system|>Be brief.<|end|>")


@pytest.mark.parametrize("template", [None, ""])
def test_a_tokenizer_without_template_is_refused(template: str | None) -> None:
    with pytest.raises(
        ModelLoadError, match=r"my/model has no chat template.*instruct variant.*chat_template="
    ):
        require_template(tiny_tokenizer(template), "my/model")


def test_a_tokenizer_with_template_is_accepted() -> None:
    require_template(tiny_tokenizer(), "my/model")
