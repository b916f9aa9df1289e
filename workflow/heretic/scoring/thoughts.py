"""Separation of a reasoning model's thoughts from its answer.

Only what follows a thinking block is an answer. A block opens at the beginning of a line; one that
the chat template opens is part of the decoded text (see `ChatFormat.decode`).
"""

import re
from functools import lru_cache
from typing import Final

from heretic.model.thinking import FIXED, OPENING, find_block

_LINE_WITH_OPENING: Final = re.compile(
    rf"^[^\S\n]*(?P<opening>{OPENING.pattern})", re.IGNORECASE | re.MULTILINE
)
# First characters of delimiters; the last one stands for bytes of an incomplete character.
_FIRST: Final = "<[\u25c1\ufffd"
_MAY_OPEN: Final = re.compile(rf"[{re.escape(_FIRST)}][\w:.|\ufffd-]*")


def without_thoughts(answer: str) -> str:
    """Return an answer without its thinking blocks, of which the last one may be unclosed."""
    return _split(answer)[0]


def ends_in_thoughts(answer: str) -> bool:
    """Return whether an answer ends inside a thinking block, so that nothing was answered."""
    return _split(answer)[1]


def certain_answer(beginning: str) -> str:
    """Return the text with which an answer starts, given the beginning of a response.

    Thoughts are removed, and so is a last line that may become the delimiter of a block. Whatever
    follows, `without_thoughts` of the response starts with the returned text.
    """
    text, unfinished = _split(beginning)
    if unfinished:
        return text
    head, line_break, line = text.rpartition("\n")
    started = line.lstrip()
    may_open = _MAY_OPEN.fullmatch(started) is not None or any(
        block.opening.startswith(started) for block in FIXED
    )
    return head + line_break if may_open else text


# Trials often repeat answers, and several scorers read each of them.
@lru_cache(maxsize=8192)
def _split(answer: str) -> tuple[str, bool]:
    """Return the answer without thoughts, and whether its last block is unclosed."""
    if not any(character in answer for character in _FIRST):
        return answer, False
    kept, rest = [], answer
    while (block := find_block(rest, _LINE_WITH_OPENING)) is not None:
        kept.append(rest[: block.start])
        if block.end is None:
            return "".join(kept), True
        rest = rest[block.end :]
    return "".join([*kept, rest]), False
