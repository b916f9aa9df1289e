"""Conversion of rows to prompts: plain texts, chats and multiple-choice questions."""

import json
import re
from collections.abc import Iterator
from string import ascii_uppercase
from typing import Any

from heretic.errors import PromptError
from heretic.prompts.columns import Row
from heretic.prompts.prompt import Prompt
from heretic.prompts.visible import is_blank, stripped
from heretic.settings.prompt_sources import PromptSource

# Keys of role and text in the two common layouts of chats.
TURN_KEYS = (("role", "content"), ("from", "value"))
USER_ROLES = ("user", "human")
SYSTEM_ROLES = ("system", "developer")
# Beginning of a chat that Python wrote instead of JSON.
_PYTHON_CHAT = re.compile(r"\s*\[\s*\{\s*'(?:role|content|from|value)'\s*:")


def prompt_of(row: Row, source: PromptSource, where: str, system: str | None) -> Prompt | None:
    """Return the prompt of a row, with the prefix, suffix and system prompt of its source.

    Args:
        row: row with at least the columns of the source.
        source: definition of the columns.
        where: name of the row in messages.
        system: the row's own system prompt, which follows that of the source.

    Returns:
        The prompt; None if the row contains no text, or a chat without a user's turn.

    Raises:
        PromptError: a cell is neither text nor a chat, or choices, answers or a category are not
            text. Chats, choices and several answers may be JSON text, as in CSV files.
    """
    said, chat_system = _said(row.get(source.column), where, source.column)
    if said is None or is_blank(said):
        return None
    text = shortened(stripped(said), source.max_characters)
    choices = _choices(row, source, where)
    lettered = (f"\n{ascii_uppercase[n]}. {choice}" for n, choice in enumerate(choices))
    text = "".join([text, *lettered])
    own = system if system is not None else chat_system
    return Prompt(
        text=f"{source.prefix}{text}{source.suffix}",
        system=source.system_prompt if source.system_prompt is not None else own,
        answers=_answers(row, choices, source, where),
        category=_category(row, source, where),
    )


def shortened(text: str, length: int) -> str:
    """Return `text` with at most `length` characters, cut at white space if possible."""
    if not length or len(text) <= length:
        return text
    cut = text[: length + 1]
    if cut[-1].isspace():
        return cut.rstrip()
    words = cut.rsplit(None, 1)
    return words[0] if len(words) > 1 else cut[:length]


def _said(cell: object, where: str, column: str) -> tuple[str | None, str | None]:
    """Return the texts of the user and the system in a cell with a text or a chat."""
    if isinstance(cell, str):
        cell = _chat_from_text(cell, where, column)
    if not isinstance(cell, list | dict):
        return _text(cell, where, column), None
    turns = list(_turns(cell, where, column))
    users = [text for role, text in turns if role in USER_ROLES]
    systems = [text for role, text in turns if role in SYSTEM_ROLES]
    return (users[-1] if users else None), (systems[0] if systems else None)


def _chat_from_text(cell: str, where: str, column: str) -> object:
    """Return the turns of a chat stored as JSON text, or the text itself.

    Raises:
        PromptError: the chat is written in Python's notation.
    """
    if _PYTHON_CHAT.match(cell):
        raise PromptError(
            f"{where} has a chat in Python notation in column {column!r}; write it as JSON "
            "(json.dumps), or use a .jsonl or Parquet file"
        )
    turns = _list_from_text(cell)
    for role, content in TURN_KEYS:
        if turns and all(
            isinstance(turn, dict) and isinstance(turn.get(role), str) and content in turn
            for turn in turns
        ):
            return turns
    return cell


def _list_from_text(cell: object) -> list[Any]:
    """Return a list stored as JSON text; an empty one for any other cell."""
    if not isinstance(cell, str) or not cell.lstrip().startswith("["):
        return []
    try:
        found = json.loads(cell)
    except (ValueError, RecursionError):
        return []
    return found if isinstance(found, list) else []


def _texts_from_text(cell: object) -> object:
    """Return a list of texts stored as JSON text, or the cell itself."""
    texts = _list_from_text(cell)
    return texts if texts and all(isinstance(text, str) for text in texts) else cell


def _turns(cell: list[Any] | dict[str, Any], where: str, column: str) -> Iterator[tuple[str, str]]:
    """Return role and text of each turn with text."""
    if isinstance(cell, dict) and all(isinstance(part, list) for part in cell.values()):
        # `datasets` stores a list of structs as a struct of lists.
        if len({len(part) for part in cell.values()}) > 1:
            raise PromptError(
                f"{where} has a chat in column {column!r} whose parts differ in length; fix or "
                "remove the row"
            )
        cell = [dict(zip(cell, turn, strict=True)) for turn in zip(*cell.values(), strict=True)]
    for role, content in TURN_KEYS:
        if isinstance(cell, list) and all(isinstance(t, dict) and role in t for t in cell):
            for turn in cell:
                text = _content(turn.get(content), where, column)
                if text is not None:
                    yield str(turn[role]).lower(), text
            return
    raise PromptError(
        f"{where} has {type(cell).__name__} in column {column!r} where a text or a chat is needed; "
        "use a column of strings, or of turns with role and content"
    )


def _content(cell: object, where: str, column: str) -> str | None:
    """Return a turn's text, which may be split into parts mixed with images."""
    if not isinstance(cell, list):
        return _text(cell, where, column)
    parts = [part.get("text") for part in cell if isinstance(part, dict)]
    texts = [_text(part, where, column) for part in parts]
    return "\n".join(text for text in texts if text) or None


def _choices(row: Row, source: PromptSource, where: str) -> list[str]:
    if source.choices_column is None:
        return []
    cell = _texts_from_text(row.get(source.choices_column))
    if not isinstance(cell, list | tuple) or not 1 < len(cell) <= len(ascii_uppercase):
        raise PromptError(
            f"{where} has no list of 2 to {len(ascii_uppercase)} choices in column "
            f"{source.choices_column!r}; set another choices_column, or remove it"
        )
    return [(_text(choice, where, source.choices_column) or "").strip() for choice in cell]


def _answers(row: Row, choices: list[str], source: PromptSource, where: str) -> tuple[str, ...]:
    if source.answer_column is None:
        return ()
    cell = _texts_from_text(row.get(source.answer_column))
    cells = cell if isinstance(cell, list | tuple) else [cell]
    if choices and isinstance(cell, int) and 0 <= cell < len(choices):
        # The letter alone would match almost any answer.
        cells = [choices[cell]]
    texts = [_text(item, where, source.answer_column) for item in cells]
    return tuple(text.strip() for text in texts if text and text.strip())


def _category(row: Row, source: PromptSource, where: str) -> str | None:
    if source.category_column is None:
        return None
    cell = row.get(source.category_column)
    if isinstance(cell, int):  # a class index
        cell = str(cell)
    return (_text(cell, where, source.category_column) or "").strip() or None


def _text(cell: object, where: str, column: str) -> str | None:
    if cell is None:
        return None
    if not isinstance(cell, str):
        raise PromptError(
            f"{where} has {type(cell).__name__} in column {column!r} where text is needed; use a "
            "column of strings"
        )
    if "\0" in cell:
        raise PromptError(
            f"{where} has a NUL byte in column {column!r}, which is not text; fix or remove the row"
        )
    try:
        cell.encode()
    except UnicodeEncodeError as error:
        raise PromptError(
            f"{where} has half of a surrogate pair in column {column!r}, which no tokenizer can "
            "read; fix or remove the row"
        ) from error
    return cell
