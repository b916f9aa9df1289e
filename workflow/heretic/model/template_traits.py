"""Properties of a chat template, determined by rendering short conversations.

Templates differ in which contents they accept, a text or a list of parts, and in what they do with
a system prompt: many reject it, and some drop it without an error.
"""

import re
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from jinja2 import TemplateSyntaxError

from heretic.errors import one_line
from heretic.model.limits import LimitError

USER, SYSTEM, ASSISTANT = (
    "what the user says",
    "what the system says",
    "what the assistant says",
)
# Variables that transformers sets to None, and which some templates iterate over.
COLLECTIONS: Final[Mapping[str, Any]] = {"tools": [], "documents": []}
# Name under which jinja compiles a template.
COMPILED: Final = "<template>"

Messages = list[dict[str, Any]]
# Renders messages, with or without the beginning of an answer, and with further variables.
Render = Callable[[Messages, bool, Mapping[str, Any]], str]
SystemPrompts = Literal["shown", "rejected", "dropped"]


@dataclass(frozen=True)
class TemplateTraits:
    """Properties of a chat template.

    Attributes:
        user_parts: whether contents of user and assistant must be lists of parts.
        system_parts: whether the content of the system prompt must be a list of parts.
        system: what happens to a system prompt.
        system_error: reason why system prompts are rejected, or an empty text.
        system_is_last: whether the system prompt is shown after the user's text.
        variables: further variables without which the template fails.
        lacks: role header of an answer that the generation prompt should contain, but does not.
    """

    user_parts: bool = False
    system_parts: bool = False
    system: SystemPrompts = "shown"
    system_error: str = ""
    system_is_last: bool = False
    variables: Mapping[str, Any] = field(default_factory=dict)
    lacks: str = ""

    def messages(self, turns: Sequence[tuple[str, str]]) -> Messages:
        """Return turns, given as roles and texts, in the form that the template expects.

        A system prompt at the beginning that the template does not support is prepended to the
        next turn, as recommended by the makers of such models.
        """
        if len(turns) > 1 and turns[0][0] == "system" and self.system != "shown":
            (_, system), (role, text), *others = turns
            turns = [(role, f"{system}\n\n{text}"), *others]
        return _messages(turns, user_parts=self.user_parts, system_parts=self.system_parts)


def find_traits(render: Render) -> TemplateTraits:
    """Determine the properties of a template by rendering conversations with it.

    A template that renders no conversation has the properties of most templates.

    Raises:
        LimitError: the template takes too long.
        MemoryError: the template takes too much memory.
    """
    asked = [("user", USER)]
    for variables in ({}, COLLECTIONS):
        for parts in (False, True):
            text, _ = _try(render, _messages(asked, user_parts=parts), True, variables)
            if _shows(text, USER):
                return _traits_of(render, parts, variables)
    return TemplateTraits(system="dropped")


def _traits_of(render: Render, user_parts: bool, variables: Mapping[str, Any]) -> TemplateTraits:
    conversation = [("system", SYSTEM), ("user", USER)]
    reasons = []
    lacks = _lacking_header(render, user_parts, variables)
    for parts in (user_parts, not user_parts):
        messages = _messages(conversation, user_parts=user_parts, system_parts=parts)
        text, error = _try(render, messages, True, variables)
        if _shows(text, SYSTEM) and USER in text:
            is_last = text.index(SYSTEM) > text.index(USER)
            return TemplateTraits(user_parts, parts, "shown", "", is_last, variables, lacks)
        reasons.append(error)
    system: SystemPrompts = "rejected" if reasons[0] else "dropped"
    return TemplateTraits(user_parts, user_parts, system, reasons[0], False, variables, lacks)


def _lacking_header(render: Render, parts: bool, variables: Mapping[str, Any]) -> str:
    """Return what precedes an answer in a conversation, unless prompts end with it."""
    asked = [("user", USER)]
    prompt, _ = _try(render, _messages(asked, user_parts=parts), True, variables)
    bare, _ = _try(render, _messages(asked, user_parts=parts), False, variables)
    answered = _messages([*asked, ("assistant", ASSISTANT)], user_parts=parts)
    whole, _ = _try(render, answered, False, variables)
    end = whole.rpartition(ASSISTANT)[0].rpartition(USER)[2].strip()
    shown = prompt.rpartition(USER)[2].strip()
    if prompt != bare or not end or shown.startswith(end):
        return ""
    return end.removeprefix(shown).strip()


def _shows(text: str, said: str) -> bool:
    """Return whether a rendered text has a content, and not a list of parts printed as such."""
    return said in text and not re.search(r"""['"]type['"]: *['"]text""", text)


def _try(
    render: Render, messages: Messages, is_prompt: bool, variables: Mapping[str, Any]
) -> tuple[str, str]:
    """Return the rendered text, or an empty text and the reason of the failure."""
    try:
        return render(messages, is_prompt, variables), ""
    except (LimitError, MemoryError):
        raise
    except Exception as error:  # the type is up to the template
        return "", reason_of(error)


def reason_of(error: Exception) -> str:
    """Return one line on an error in a template: its message, its type if needed, and the line."""
    if isinstance(error, MemoryError):
        return "it uses too much memory"
    is_python = type(error).__module__ == "builtins"
    kind = f"{type(error).__name__}: " if is_python else ""
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__)
             if frame.filename == COMPILED]  # fmt: skip
    if isinstance(error, TemplateSyntaxError):
        lines = [error.lineno]
    place = f", line {lines[-1]} of the template" if lines else ""
    return f"{kind}{one_line(error)}{place}"


def _messages(
    turns: Sequence[tuple[str, str]], *, user_parts: bool, system_parts: bool = False
) -> Messages:
    return [
        {
            "role": role,
            "content": [{"type": "text", "text": text}]
            if (system_parts if role == "system" else user_parts)
            else text,
        }
        for role, text in turns
    ]
