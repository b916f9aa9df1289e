"""Prompts as the tokens that the model sees when it is about to answer."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from functools import cached_property, lru_cache
from itertools import takewhile
from typing import Any

from jinja2 import TemplateError
from transformers import PreTrainedTokenizerBase

from heretic.errors import ModelLoadError, one_line
from heretic.model.template_date import prints_date, today, with_fixed_date
from heretic.prompts.prompt import Prompt

# What users say ends in all kinds of ways; a tokenizer may merge an end with the template after it.
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


@dataclass(frozen=True)
class ChatFormat:
    """Renders prompts through the tokenizer's chat template.

    Attributes:
        tokenizer: tokenizer with a chat template.
        response_prefix: text with which every answer begins; the next token is predicted after
            it.
        template_date: day that the template prints, if it prints one; the clock is never read.
    """

    tokenizer: PreTrainedTokenizerBase
    response_prefix: str = ""
    template_date: date = field(default_factory=today)

    @cached_property
    def prints_date(self) -> bool:
        """Whether prompts depend on `template_date`."""
        return prints_date(self.tokenizer.get_chat_template())

    @cached_property
    def template_arguments(self) -> dict[str, Any]:
        """Further arguments of the tokenizer's `apply_chat_template`, which fix the date."""
        if not self.prints_date:
            return {}
        template = with_fixed_date(self.tokenizer.get_chat_template(), self.template_date)
        return {"chat_template": template}

    @cached_property
    def has_system_role(self) -> bool:
        """Whether the template shows a system prompt, and neither refuses nor drops it."""
        return self._shows("what the system says", role="system", parts=self.takes_parts)

    @cached_property
    def takes_parts(self) -> bool:
        """Whether the template shows only what comes as a list of parts.

        Templates of multimodal models, whose turns are texts and images, may drop a bare text
        without a word.
        """
        says = "what the user says"
        return not self._shows(says, role="user", parts=False) and self._shows(
            says, role="user", parts=True
        )

    @cached_property
    def n_end_tokens(self) -> int:
        """Number of tokens, at least 1, with which every prompt ends whatever the user says.

        They are the end-of-instruction tokens (Arditi et al. 2024, section 2.3) and those of the
        response prefix: a property of the template alone, the same for all prompt sets.

        Raises:
            ModelLoadError: the template cannot render a prompt.
        """
        backwards = [row[::-1] for row in self.encode(PROBES)]
        columns = zip(*backwards, strict=False)  # as many as the shortest has
        return max(1, sum(1 for _ in takewhile(lambda column: len(set(column)) == 1, columns)))

    def render(self, prompt: Prompt) -> str:
        """The conversation up to the point where the model answers.

        Where the template has no system role, the system prompt opens the user's turn, as the
        makers of such models advise.

        Raises:
            ModelLoadError: the template cannot render the prompt.
        """
        turns = {"user": prompt.text}
        if prompt.system is not None and self.has_system_role:
            turns = {"system": prompt.system, **turns}
        elif prompt.system is not None:
            turns = {"user": f"{prompt.system}\n\n{prompt.text}"}
        try:
            return self._apply(turns, parts=self.takes_parts) + self.response_prefix
        except TemplateError as error:
            raise ModelLoadError(
                f"the chat template refuses a conversation ({one_line(error)}); give another one "
                "with chat_template"
            ) from error

    def _shows(self, marker: str, *, role: str, parts: bool) -> bool:
        turns = {role: marker, "user": marker if role == "user" else "what the user says"}
        try:
            return marker in self._apply(turns, parts=parts)
        except (TemplateError, TypeError):  # the latter where a text is added to a list
            return False

    def _apply(self, turns: Mapping[str, str], *, parts: bool) -> str:
        messages: Any = [
            {"role": role, "content": [{"type": "text", "text": text}] if parts else text}
            for role, text in turns.items()
        ]
        return str(
            self.tokenizer.apply_chat_template(
                messages, tokenize=False, add_generation_prompt=True, **self.template_arguments
            )
        )

    def encode(self, prompts: Sequence[Prompt]) -> list[list[int]]:
        """Token ids of each prompt; the template has already added the special tokens."""
        texts = [self.render(prompt) for prompt in prompts]
        return [list(ids) for ids in self.tokenizer(texts, add_special_tokens=False)["input_ids"]]

    def decode(self, ids: Sequence[int]) -> str:
        """Text of generated ids without special tokens."""
        return str(self.tokenizer.decode(list(ids), skip_special_tokens=True))

    def decode_all(self, answers: Sequence[Sequence[int]]) -> list[str]:
        """Texts of several answers, as `decode` gives them one by one."""
        return [self._text(tuple(answer)) for answer in answers]

    @cached_property
    def _text(self) -> Callable[[tuple[int, ...]], str]:
        """As `decode`; remembers, since trials give the same answers again and again."""
        return lru_cache(maxsize=8192)(self.decode)


def require_template(tokenizer: PreTrainedTokenizerBase, model: str) -> None:
    """Refuse a tokenizer without a chat template.

    Raises:
        ModelLoadError: there is none.
    """
    if not tokenizer.chat_template:
        raise ModelLoadError(
            f"{model} has no chat template, so it is no instruct model; choose its instruct "
            "variant, or give a template with chat_template=<file.jinja>"
        )
