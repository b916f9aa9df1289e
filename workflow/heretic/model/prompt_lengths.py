"""Detection of prompts that exceed a model's context, before any forward pass."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from heretic.errors import PromptError
from heretic.model.chat import CHARACTERS_PER_TOKEN, ChatFormat, shown_beginning
from heretic.model.limits import require_within_limits
from heretic.prompts.prompt import Prompt

SECONDS, PROMPTS_PER_SECOND = 30, 50


def require_lengths(
    chat: ChatFormat, sets: Mapping[str, Sequence[Prompt]], generated: int = 0
) -> None:
    """Reject prompts that are longer than the model's context or the setting.

    Args:
        chat: chat format of the model.
        sets: prompts by set name.
        generated: number of tokens generated after a prompt, which need room in the context too.

    Raises:
        PromptError: the message states the set, the row, its tokens and the remedy.
        ModelLoadError: the template or the tokenizer does not encode a prompt within a time limit.
    """
    limits = chat.limits
    room = None if limits.context is None else limits.context - generated
    if room is not None and room < 1:
        raise PromptError(
            f"the model has a context of {limits.context} tokens, but {generated} are generated; "
            "lower max_response_length"
        )
    bounded = replace(chat, limits=replace(limits, context=room))
    longest = bounded.limits.longest
    for name, prompts in sets.items():
        require_within_limits(
            lambda prompts=prompts: bounded.encode_beginnings(prompts),  # type: ignore[misc]
            PromptError,
            f"cannot encode {name}",
            SECONDS + len(prompts) // PROMPTS_PER_SECOND,
            "look for a prompt that is not text, or use another tokenizer",
        )
        rows = bounded.encode_beginnings(prompts)
        for number, (prompt, row) in enumerate(zip(prompts, rows, strict=True), start=1):
            if longest is not None and len(row) > longest:
                raise PromptError(
                    f"row {number} of {name} ({shown_beginning(prompt)}) has "
                    f"{'at least ' * _cut(prompt, longest)}{len(row)} tokens, more than the "
                    f"maximum of {longest}{_why(limits.context, room, longest, generated)}; "
                    "shorten it, or set max_characters for its data set"
                )


def _cut(prompt: Prompt, longest: int) -> bool:
    """Return whether only the beginning of a prompt was encoded."""
    return len(prompt.text) > (CHARACTERS_PER_TOKEN - 1) * longest


def _why(context: int | None, room: int | None, longest: int, generated: int) -> str:
    if longest != room:
        return " (max_prompt_length)"
    left = f", of which {generated} are generated" if generated else ""
    return f" (the model's context is {context} tokens{left})"
