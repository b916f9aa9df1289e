"""Prompts rendered and tokenized as model input."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from functools import cached_property, lru_cache
from itertools import takewhile
from typing import Any

from transformers import PreTrainedTokenizerBase

from heretic.errors import ModelLoadError, PromptError
from heretic.model.answer_text import AnswerDecoder
from heretic.model.limits import LimitError, limited_memory, limited_time
from heretic.model.special_tokens import ADVICE, SpecialTokens
from heretic.model.template_date import prints_date, today, with_fixed_date
from heretic.model.template_traits import Messages, TemplateTraits, find_traits, reason_of
from heretic.model.thinking import is_only_opening, unclosed
from heretic.model.third_party import reported_as
from heretic.prompts.prompt import Prompt

# User messages with various endings; a tokenizer may merge an ending with the template after it.
PROBES = (
    Prompt("Tell me about the sea"),
    Prompt("Count from 1 to 57"),
    Prompt("Who are you?"),
    Prompt("Say this: "),
    Prompt("Name three of these:\n"),
    Prompt("A list\n\n"),
    Prompt("print(a[0])"),
    Prompt("Where is the caf\u00e9"),
    Prompt("\u4f60\u597d\u3002"),
    Prompt("Hello", system="Be brief."),
)
# Limits for rendering: processor time (a constant and a share per prompt) and memory. Templates
# normally take less than a millisecond.
SECONDS, SECONDS_PER_PROMPT, FURTHER_BYTES = 5.0, 0.02, 1024**3
MOST_CHARACTERS = 20_000_000
# Tokens have a few characters; for much longer texts, the beginning is encoded first.
CHARACTERS_PER_TOKEN = 16


@dataclass(frozen=True)
class TokenLimits:
    """Token limits of a model; None where unknown or unlimited.

    Attributes:
        vocabulary: number of rows of the embeddings.
        prompt: maximum prompt length in tokens, as the setting.
        context: number of learned or trained positions.
    """

    vocabulary: int | None = None
    prompt: int | None = None
    context: int | None = None

    @property
    def longest(self) -> int | None:
        """Maximum number of prompt tokens that may be passed through the model."""
        return min((each for each in (self.prompt, self.context) if each is not None), default=None)


@dataclass(frozen=True)
class ChatFormat:
    """Renders prompts with the tokenizer's chat template.

    Attributes:
        tokenizer: tokenizer with a chat template.
        response_prefix: common beginning of every answer; the next token is predicted after it.
        template_date: date printed by the template, if any; the clock is never read.
        limits: token limits of the model.
    """

    tokenizer: PreTrainedTokenizerBase
    response_prefix: str = ""
    limits: TokenLimits = TokenLimits()
    template_date: date = field(default_factory=today)

    @cached_property
    def prints_date(self) -> bool:
        """Return whether prompts depend on `template_date`."""
        return prints_date(self.tokenizer.get_chat_template())

    @cached_property
    def template_arguments(self) -> dict[str, Any]:
        """Additional arguments of the tokenizer's `apply_chat_template`."""
        return {**self._fixed_date, **self.traits.variables}

    @cached_property
    def _fixed_date(self) -> dict[str, Any]:
        if not self.prints_date:
            return {}
        template = with_fixed_date(self.tokenizer.get_chat_template(), self.template_date)
        return {"chat_template": template}

    @cached_property
    def traits(self) -> TemplateTraits:
        """Properties of the template.

        Raises:
            ModelLoadError: the template takes too much time or memory.
        """
        try:
            return find_traits(self._apply)
        except (LimitError, MemoryError) as error:
            raise _refused(error, "any prompt") from error

    @cached_property
    def n_post_instruction_tokens(self) -> int:
        """Number of tokens, at least 1, that end every prompt regardless of the user message.

        They are the end-of-instruction tokens (Arditi et al. 2024, section 2.3) and those of the
        response prefix: a property of the template alone, the same for all prompt sets.

        Raises:
            ModelLoadError: the template cannot render a prompt.
        """
        backwards = [row[::-1] for row in self.encode(PROBES)]
        columns = zip(*backwards, strict=False)  # up to the length of the shortest
        return max(1, sum(1 for _ in takewhile(lambda column: len(set(column)) == 1, columns)))

    @cached_property
    def special_tokens(self) -> SpecialTokens:
        """Tokens that must not occur in the text of a prompt."""
        return SpecialTokens.of(self.tokenizer, self.render(PROBES[-1]))

    def special_tokens_in(self, prompts: Sequence[Prompt]) -> list[str | None]:
        """Return the first special token in the text of each prompt or its system prompt."""
        systems = [prompt.system or "" for prompt in prompts]
        found = self.special_tokens.find([prompt.text for prompt in prompts])
        return [a or b for a, b in zip(found, self.special_tokens.find(systems), strict=True)]

    def render(self, prompt: Prompt) -> str:
        """Return the conversation up to the beginning of the model's answer.

        If the template has no system role, the system prompt is placed at the beginning of the
        user's turn; see `TemplateTraits.messages`.

        Raises:
            ModelLoadError: the template cannot render the prompt.
        """
        system = [] if prompt.system is None else [("system", prompt.system)]
        messages = self.traits.messages([*system, ("user", prompt.text)])
        try:
            return self._apply(messages, True, self.traits.variables) + self.response_prefix
        except Exception as error:  # a template may raise anything
            raise _refused(error, f"the prompt {shown_beginning(prompt)}") from error

    def _apply(self, messages: Messages, is_prompt: bool, variables: Mapping[str, Any]) -> str:
        with limited_time(SECONDS), limited_memory(FURTHER_BYTES):
            text = str(
                self.tokenizer.apply_chat_template(
                    messages,
                    tokenize=False,
                    add_generation_prompt=is_prompt,
                    **self._fixed_date,
                    **variables,
                )
            )
        if len(text) > MOST_CHARACTERS:
            raise LimitError(f"its output has {len(text)} characters")
        return text

    def encode(self, prompts: Sequence[Prompt]) -> list[list[int]]:
        """Return the token ids of each prompt; the template has already added the special tokens.

        Raises:
            ModelLoadError: the template cannot render a prompt, the tokenizer cannot encode it, or
                a token has no embedding.
            PromptError: a prompt exceeds the model's limit, or contains a special token.
        """
        rows = self.encode_beginnings(prompts)
        longest, vocabulary = self.limits.longest, self.limits.vocabulary
        for prompt, row in zip(prompts, rows, strict=True):
            shown = shown_beginning(prompt)
            if not row:
                raise ModelLoadError(
                    f"the chat template and the tokenizer give no tokens for the prompt {shown}; "
                    "use another template with chat_template, or another tokenizer"
                )
            if longest is not None and len(row) > longest:
                raise PromptError(
                    f"the prompt {shown} has more than {longest} tokens, the maximum of the model; "
                    "shorten it"
                )
            if vocabulary is not None and max(row) >= vocabulary:
                raise ModelLoadError(
                    f"the tokenizer gives token {max(row)}, but the model has {vocabulary} "
                    "embeddings; use the tokenizer of the model"
                )
        for prompt, token in zip(prompts, self.special_tokens_in(prompts), strict=True):
            if token is not None:
                raise PromptError(
                    f"the prompt {shown_beginning(prompt)} contains {token!r}, a special token of "
                    f"the model; {ADVICE}"
                )
        return rows

    def encode_beginnings(self, prompts: Sequence[Prompt]) -> list[list[int]]:
        """Return the token ids of each prompt; for overlong prompts, at least one above the limit.

        Raises:
            ModelLoadError: the template cannot render a prompt, or the tokenizer cannot encode it.
        """
        try:
            with limited_time(SECONDS + SECONDS_PER_PROMPT * len(prompts)):
                texts = [self.render(prompt) for prompt in prompts]
        except LimitError as error:
            raise _refused(error, f"{len(prompts)} prompts") from error
        longest = self.limits.longest
        if longest is None:
            return self._token_ids(texts)
        room = CHARACTERS_PER_TOKEN * longest
        heads = self._token_ids([text[:room] for text in texts])
        # Tokens at the cut may differ from those of the whole text.
        return [
            self._token_ids([text])[0] if len(text) > room and len(head) <= longest else head
            for text, head in zip(texts, heads, strict=True)
        ]

    def _token_ids(self, texts: list[str]) -> list[list[int]]:
        with reported_as(ModelLoadError, "the tokenizer cannot encode a prompt"):
            rows: Any = self.tokenizer(texts, add_special_tokens=False, verbose=False)["input_ids"]
        return [list(ids) for ids in rows]

    def require_room(self, rows: Sequence[Sequence[int]], generated: int) -> None:
        """Reject prompts that leave too little room in the context for `generated` tokens.

        Raises:
            PromptError: the message states the longest prompt's length.
        """
        context, longest = self.limits.context, max(map(len, rows), default=0)
        if context is not None and longest + generated > context:
            raise PromptError(
                f"a prompt of {longest} tokens and {generated} generated ones exceed the model's "
                f"context of {context}; shorten the prompts, or lower max_response_length"
            )

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of generated token ids without special tokens.

        Delimiters of thinking blocks are preserved, including one opened by the prompt, so that the
        text shows where thoughts end.
        """
        return self.opened_thoughts + self._decoder.decode(ids)

    @cached_property
    def _decoder(self) -> AnswerDecoder:
        return AnswerDecoder(self.tokenizer)

    @cached_property
    def opened_thoughts(self) -> str:
        """Thinking block opened by the template or the response prefix, or an empty text."""
        if not self.tokenizer.chat_template:
            return ""
        probe = PROBES[0]
        shown = self.render(probe).rpartition(probe.text)[2]
        opened = unclosed(shown.removesuffix(self.response_prefix))
        # A template that only mentions a delimiter opens no block.
        kept = opened if is_only_opening(opened) else ""
        return unclosed(kept + self.response_prefix)

    def decode_all(self, answers: Sequence[Sequence[int]]) -> list[str]:
        """Return the texts of several answers, identical to separate calls of `decode`."""
        return [self._text(tuple(answer)) for answer in answers]

    @cached_property
    def _text(self) -> Callable[[tuple[int, ...]], str]:
        """Return a cached equivalent of `decode`, since answers recur across trials."""
        return lru_cache(maxsize=8192)(self.decode)


def shown_beginning(prompt: Prompt) -> str:
    """Return the first characters of a prompt in quotes, for messages."""
    return repr(prompt.text[:40] + "…" * (len(prompt.text) > 40))


def _refused(error: Exception, what: str) -> ModelLoadError:
    return ModelLoadError(
        f"the chat template rejects {what} ({reason_of(error)}); provide another one with "
        "chat_template"
    )


def require_template(tokenizer: PreTrainedTokenizerBase, model: str) -> None:
    """Reject a tokenizer without a chat template.

    Raises:
        ModelLoadError: the tokenizer has no template.
    """
    if not tokenizer.chat_template:
        raise ModelLoadError(
            f"{model} has no chat template, so it is not an instruct model; use the instruct "
            "variant, or provide a template with chat_template=<file.jinja>"
        )
