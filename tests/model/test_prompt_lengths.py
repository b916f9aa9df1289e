"""Prompts that are longer than a model takes are refused with their set, row and length."""

import time
from dataclasses import replace

import pytest
from tiny_models import tiny_tokenizer

from heretic.errors import ModelLoadError, PromptError
from heretic.model.chat import ChatFormat, TokenLimits
from heretic.model.prompt_lengths import require_lengths
from heretic.prompts.prompt import Prompt

FRAME = len(["<|user|>", "<|end|>", "<|assistant|>"])


def chat(**limits: int) -> ChatFormat:
    return ChatFormat(tiny_tokenizer(), "", TokenLimits(**limits))


def prompt(tokens: int) -> Prompt:
    return Prompt("a" * (tokens - FRAME))


def test_the_longest_that_fits_passes() -> None:
    fits = [prompt(50), prompt(10)]
    require_lengths(chat(context=50), {"good_prompts": fits})
    require_lengths(chat(prompt=50), {"good_prompts": fits})
    require_lengths(chat(context=58), {"good_prompts": fits}, generated=8)
    require_lengths(chat(), {"good_prompts": [prompt(5000)]})


def test_a_longer_one_is_named_by_set_and_row() -> None:
    sets = {"good_prompts": [prompt(9)], "bad_prompts": [prompt(9), prompt(51)]}
    message = r"row 2 of bad_prompts \('a+…'\) has 51 tokens, more than the maximum of 50"
    with pytest.raises(PromptError, match=message + r" \(the model's context is 50 tokens\)"):
        require_lengths(chat(context=50), sets)
    with pytest.raises(PromptError, match=message + r" \(max_prompt_length\)"):
        require_lengths(chat(prompt=50, context=90), sets)
    with pytest.raises(PromptError, match=r"context is 58 tokens, of which 8 are generated"):
        require_lengths(chat(context=58), sets, generated=8)
    with pytest.raises(PromptError, match="lower max_response_length"):
        require_lengths(chat(context=50), sets, generated=50)


def test_a_megabyte_is_refused_by_its_beginning() -> None:
    started = time.process_time()
    with pytest.raises(PromptError, match=r"row 1 of good_prompts .* has at least \d+ tokens"):
        require_lengths(chat(context=512), {"good_prompts": [Prompt("word " * 200_000)]})
    with pytest.raises(PromptError, match="has more than 512 tokens"):
        chat(context=512).encode([Prompt("a" * 10**6)])
    assert time.process_time() - started < 5


def test_tokens_without_an_embedding_are_refused() -> None:
    with pytest.raises(ModelLoadError, match=r"the tokenizer gives token .* has 40 embeddings"):
        chat(vocabulary=40).encode([Prompt("abc")])


def test_a_prompt_without_tokens_is_refused() -> None:
    nothing = replace(chat(), tokenizer=tiny_tokenizer("{{ '' }}"))
    with pytest.raises(ModelLoadError, match="give no tokens for the prompt 'Hi'"):
        nothing.encode([Prompt("Hi")])


@pytest.mark.parametrize(
    ("template", "reason"),
    [
        ("{{ 1/0 }}", "division by zero"),
        ("{{ 'a' + 1 }}", "can only concatenate"),
        ("{{ 'a' * 10**11 }}", "too much memory"),
        ("{% if '?' in messages[-1]['content'] %}{{ 1/0 }}{% endif %}x", "division by zero"),
        ("{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
         "it takes more than"),
    ],
)  # fmt: skip
def test_whatever_a_template_does_is_one_line(
    template: str, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("heretic.model.chat.SECONDS", 0.3)
    monkeypatch.setattr("heretic.model.chat.MOST_CHARACTERS", 10_000_000)
    with pytest.raises(
        ModelLoadError, match=rf"rejects (any prompt|the prompt 'Hi\?') \(.*{reason}.*\); provide"
    ) as e:
        replace(chat(), tokenizer=tiny_tokenizer(template)).encode([Prompt("Hi?", system="Be.")])
    assert "\n" not in str(e.value)


def test_a_long_output_of_a_template_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("heretic.model.chat.MOST_CHARACTERS", 1000)
    with pytest.raises(ModelLoadError, match="its output has 2000 characters"):
        replace(chat(), tokenizer=tiny_tokenizer("{{ 'a' * 2000 }}")).encode([Prompt("Hi")])
