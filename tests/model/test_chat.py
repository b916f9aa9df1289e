"""Prompts through the chat template."""

import json
from typing import Any

import pytest
from tiny_models import CHAT_TEMPLATE, NO_SYSTEM_ROLE, PROMPTS, tiny_tokenizer
from tokenizers import Tokenizer
from transformers import AddedToken, PreTrainedTokenizerFast

from heretic.errors import ModelLoadError
from heretic.model.chat import ChatFormat, require_template
from heretic.prompts.prompt import Prompt

DROPS_SYSTEM = (
    "{% for message in messages if message['role'] == 'user' %}"
    "{{ '<|user|>' + message['content'] + '<|end|>' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)
PLAIN = "{% for message in messages %}{{ message['content'] + '\n' }}{% endfor %}Answer:"
NOTHING_AFTER = "{% for message in messages %}{{ message['content'] }}{% endfor %}"
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


@pytest.mark.parametrize(
    ("template", "prefix", "ends"),
    [
        (CHAT_TEMPLATE, "", 2),
        (CHAT_TEMPLATE, "So", 4),
        (NO_SYSTEM_ROLE, "", 2),
        (DROPS_SYSTEM, "", 2),
        (TRIMS, "", 2),
        (PLAIN, "", len("\nAnswer:")),
        (PLAIN, " So", len("\nAnswer: So")),
        (NOTHING_AFTER, "", 1),
    ],
)
def test_end_tokens_are_those_that_no_user_can_change(
    template: str, prefix: str, ends: int
) -> None:
    chat = ChatFormat(tiny_tokenizer(template), prefix)

    assert chat.n_post_instruction_tokens == ends


def test_prompts_of_all_sets_share_their_end_tokens() -> None:
    chat = ChatFormat(tiny_tokenizer(), "So")
    prompts = [*PROMPTS, Prompt(""), Prompt("\n"), Prompt("So")]

    (end,) = {tuple(ids[-chat.n_post_instruction_tokens :]) for ids in chat.encode(prompts)}

    tokens = ["<|end|>", "<|assistant|>", "S", "o"]
    assert list(end) == chat.tokenizer.convert_tokens_to_ids(tokens)


def test_a_token_that_merges_with_the_users_text_is_none_of_the_end() -> None:
    """Here a question mark and the template's line break are one token."""
    chat = ChatFormat(merging_tokenizer("?", "\u010a"))

    assert chat.n_post_instruction_tokens == len("Answer:")


def merging_tokenizer(left: str, right: str) -> PreTrainedTokenizerFast:
    """The tiny tokenizer with one merge, which no word boundary prevents."""
    tokenizer = tiny_tokenizer(PLAIN)
    parts = json.loads(tokenizer.backend_tokenizer.to_str())
    parts["model"]["vocab"][left + right] = len(tokenizer)
    parts["model"]["merges"] = [[left, right]]
    parts["pre_tokenizer"]["use_regex"] = False
    merging = PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=Tokenizer.from_str(json.dumps(parts))
    )
    merging.chat_template = PLAIN
    return merging


def test_decodes_without_special_tokens() -> None:
    tokenizer = tiny_tokenizer()
    ids: Any = tokenizer.convert_tokens_to_ids(["<|assistant|>", "H", "i", "<|end|>"])

    assert ChatFormat(tokenizer).decode(ids) == "Hi"


def test_what_was_decoded_is_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    chat = ChatFormat(tiny_tokenizer())
    ids = chat.encode([Prompt("Hi"), Prompt("Ho")])
    once = chat.decode_all(ids)
    assert once == [chat.decode(row) for row in ids]
    monkeypatch.setattr(PreTrainedTokenizerFast, "decode", lambda *_, **__: "another text")
    assert chat.decode_all([*ids, ids[0][:1]]) == [*once, "another text"]


@pytest.mark.parametrize("template", [NO_SYSTEM_ROLE, DROPS_SYSTEM])
def test_without_a_system_role_the_system_prompt_opens_the_users_turn(template: str) -> None:
    """Otherwise the study would run on prompts that nobody asked for."""
    chat = ChatFormat(tiny_tokenizer(template))

    assert chat.traits.system == ("dropped" if template == DROPS_SYSTEM else "rejected")
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


@pytest.mark.parametrize(
    ("template", "prefix", "opened"),
    [
        (CHAT_TEMPLATE, "", ""),
        (CHAT_TEMPLATE, "<think>\n\n</think>\n\n", ""),
        (CHAT_TEMPLATE, "<think>\nOkay", "<think>\nOkay"),
        (CHAT_TEMPLATE.replace("<|assistant|>", "<|assistant|><think>\n"), "", "<think>\n"),
        (CHAT_TEMPLATE.replace("<|assistant|>", "<|assistant|><think>"), "</think>", ""),
    ],
)
def test_a_block_opened_by_the_prompt_is_part_of_the_text(
    template: str, prefix: str, opened: str
) -> None:
    """Otherwise thoughts cut off before their end would look like an answer."""
    chat = ChatFormat(tiny_tokenizer(template), prefix)
    ids = chat.tokenizer("Hm</think>Hi")["input_ids"]

    assert chat.decode(ids) == opened + "Hm</think>Hi"
    assert chat.decode_all([ids]) == [opened + "Hm</think>Hi"]


@pytest.mark.parametrize(
    ("special", "text"),
    [
        (["[THINK]", "[/THINK]"], "[THINK]Hm[/THINK]Hi"),
        (["<|START_THINKING|>", "<|END_THINKING|>"], "<|START_THINKING|>Hm<|END_THINKING|>Hi"),
        (["<|channel>", "<channel|>"], "<|channel>thought\nHm<channel|>Hi"),
        (
            ["<|channel|>", "<|message|>", "<|start|>"],
            "<|channel|>analysis<|message|>Hm<|channel|>final<|message|>Hi",
        ),
    ],
)
def test_special_tokens_around_thoughts_are_shown_and_no_others(
    special: list[str], text: str
) -> None:
    tokenizer = tiny_tokenizer()
    tokenizer.add_tokens([AddedToken(token, special=True) for token in special], True)
    chat = ChatFormat(tokenizer)

    assert chat.decode(tokenizer(f"<|user|>{text}<|end|>")["input_ids"]) == text
    assert chat.decode(tokenizer("<|user|>Hi<|end|>")["input_ids"]) == "Hi"
