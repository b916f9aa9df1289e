"""Prompts as the tokens that the model sees when it is about to answer."""

from collections.abc import Sequence
from dataclasses import dataclass

from jinja2 import TemplateError
from transformers import PreTrainedTokenizerBase

from heretic.errors import ModelLoadError
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

    def render(self, prompt: Prompt) -> str:
        """The conversation up to the point where the model answers.

        Raises:
            ModelLoadError: the template cannot render the prompt, for example because it has no
                system role.
        """
        messages = [{"role": "user", "content": prompt.text}]
        if prompt.system is not None:
            messages.insert(0, {"role": "system", "content": prompt.system})
        try:
            text = self.tokenizer.apply_chat_template(
                messages, tokenize=False, add_generation_prompt=True
            )
        except TemplateError as error:
            raise ModelLoadError(
                f"the chat template refuses a conversation ({error}); if it has no system role, "
                "leave out system_prompt in the prompt sets"
            ) from error
        if prompt.system is not None and prompt.system.strip() not in str(text):
            raise ModelLoadError(
                "the chat template drops the system prompt without a word; leave out "
                "system_prompt in the prompt sets"
            )
        return str(text) + self.response_prefix

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
            "variant or add chat_template.jinja to a local copy"
        )
