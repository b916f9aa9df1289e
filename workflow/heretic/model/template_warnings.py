"""Warnings about what a chat template does with the prompts of a run."""

from collections.abc import Sequence
from pathlib import Path

from heretic.artifacts import read_json
from heretic.console import log
from heretic.model.chat import ChatFormat, shown_beginning
from heretic.prompts.prompt import Prompt
from heretic.prompts.prompt_sets import DatasetBundle


def warn_of_template_of_run(chat: ChatFormat, bundle: Path) -> None:
    """Log the warnings of `warn_of_template` for all prompt sets of a run.

    Args:
        chat: chat format with the template.
        bundle: `bundle.json`, which names the sets; their prompts are in the same folder.

    Raises:
        ModelLoadError: the template cannot render a prompt.
    """
    sets = DatasetBundle.read(bundle.parent, sets=read_json(bundle)["counts"]).sets()
    warn_of_template(chat, [prompt for prompts in sets.values() for prompt in prompts])


def warn_of_template(chat: ChatFormat, prompts: Sequence[Prompt]) -> None:
    """Log a warning for each property of the template that changes what the model reads.

    Args:
        chat: chat format with the template.
        prompts: prompts to be rendered.

    Raises:
        ModelLoadError: the template cannot render a prompt.
    """
    traits = chat.traits
    if traits.lacks and not chat.response_prefix.strip().startswith(traits.lacks):
        log.warning(
            "The chat template ignores add_generation_prompt: prompts do not end with %r, which "
            "precedes answers in a conversation; provide another template with chat_template, or "
            "begin response_prefix with it",
            traits.lacks,
        )
    if chat.response_prefix and chat.opened_thoughts:
        log.warning(
            "response_prefix leaves a thinking block open (%r); only what follows the closed block "
            "is scored, so close it, or raise max_response_length",
            chat.opened_thoughts,
        )
    given = [prompt for prompt in prompts if prompt.system is not None]
    if not given:
        return
    if traits.system == "rejected":
        log.warning(
            "The chat template rejects system prompts (%s); %d are prepended to the user's turn "
            "instead; to avoid this, provide another template with chat_template",
            traits.system_error,
            len(given),
        )
    elif traits.system == "dropped":
        log.warning(
            "The chat template drops system prompts; %d are prepended to the user's turn instead; "
            "to avoid this, provide another template with chat_template",
            len(given),
        )
    elif traits.system_is_last:
        log.warning(
            "The chat template places the system prompt after the user's text; to avoid this, "
            "provide another template with chat_template"
        )
    _warn_of_lost(chat, given)


def _warn_of_lost(chat: ChatFormat, prompts: Sequence[Prompt]) -> None:
    """Log a warning if some system prompts are not in the rendered texts, apart from spaces."""
    lost = [prompt for prompt in prompts if _letters(prompt.system or "")
            not in _letters(chat.render(prompt))]  # fmt: skip
    if lost:
        log.warning(
            "The chat template changes or omits %d system prompts, such as that of the prompt %s; "
            "provide another template with chat_template",
            len(lost),
            shown_beginning(lost[0]),
        )


def _letters(text: str) -> str:
    return "".join(filter(str.isalnum, text.casefold()))
