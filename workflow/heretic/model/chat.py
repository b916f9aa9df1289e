"""Prompts as the tokens that the model sees when it is about to answer."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from jinja2 import TemplateError
from transformers import PreTrainedTokenizerBase

from heretic.errors import ModelLoadError, one_line
from heretic.prompts.prompt import Prompt


@dataclass(frozen=True)
class ChatFormat:
    """Renders prompts through the tokenizer's chat template.

    Attributes:
        tokenizer: tokenizer with a chat template.
        response_prefix: text with which every answer begins; the next token is predicted after
            it.
    """

    tokenizer: PreTrainedTokenizerBase
    response_prefix: str = ""

    @cached_property
    def has_system_role(self) -> bool:
        """Whether the template shows a system prompt, and neither refuses nor drops it."""
        marker = "what the system says"
        try:
            return marker in self._apply({"system": marker, "user": "what the user says"})
        except TemplateError:
            return False

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
            return self._apply(turns) + self.response_prefix
        except TemplateError as error:
            raise ModelLoadError(
                f"the chat template refuses a conversation ({one_line(error)}); give another one "
                "with chat_template"
            ) from error

    def _apply(self, turns: Mapping[str, str]) -> str:
        messages = [{"role": role, "content": content} for role, content in turns.items()]
        return str(
            self.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        )

    def encode(self, prompts: Sequence[Prompt]) -> list[list[int]]:
        """Token ids of each prompt; the template has already added the special tokens."""
        texts = [self.render(prompt) for prompt in prompts]
        return [list(ids) for ids in self.tokenizer(texts, add_special_tokens=False)["input_ids"]]

    def decode(self, ids: Sequence[int]) -> str:
        """Text of generated ids without special tokens."""
        return str(self.tokenizer.decode(list(ids), skip_special_tokens=True))


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
