"""Delimiters of the thinking blocks of reasoning models.

A block opens with a delimiter whose name says so, in one of four styles of brackets, or with one of
a few fixed texts. Names are matched regardless of case and of a vendor's prefix or suffix, as in
`<seed:think>` or `<|START_THINKING|>`; the closing delimiter follows from the opening one.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

_NAME: Final = r"[\w:.-]*(?:think|thought|reason|reflect|scratchpad|monologue)[\w:.-]*"
_STYLES: Final = (("<|", "|>"), ("<", ">"), ("\u25c1", "\u25b7"), ("[", "]"))
# Square brackets also enclose headings and placeholders, so their names are capitals only.
_CAPITALS: Final = r"(?-i:[A-Z_]*(?:THINK|THOUGHT)[A-Z_]*)"
_BEGIN: Final = re.compile(r"(?<![a-z])(begin|start)(?![a-z])", re.IGNORECASE)
_END: Final = re.compile(r"(?<![a-z])(end|stop)(?![a-z])", re.IGNORECASE)


@dataclass(frozen=True)
class Delimiters:
    """Delimiters of one kind of thinking block.

    Attributes:
        opening: text that opens a block.
        closing: text that closes it.
        empty: a block without thoughts, as the beginning of an answer.
    """

    opening: str
    closing: str
    empty: str


@dataclass(frozen=True)
class Block:
    """Place of a thinking block in a text; `end` is None if nothing closes it."""

    start: int
    end: int | None


# Blocks whose delimiters do not follow from a name.
FIXED: Final = (
    Delimiters(  # gpt-oss
        "<|channel|>analysis<|message|>",
        "<|channel|>final<|message|>",
        "<|channel|>analysis<|message|><|end|><|start|>assistant<|channel|>final<|message|>",
    ),
    Delimiters("<|channel>thought", "<channel|>", "<|channel>thought\n<channel|>"),  # Gemma 4
    Delimiters("<unused94>thought", "<unused95>", "<unused94>thought\n<unused95>"),  # MedGemma
    Delimiters(  # Apertus
        "<|inner_prefix|>", "<|inner_suffix|>", "<|inner_prefix|><|inner_suffix|>"
    ),
)
_FIXED: Final = {each.opening: each for each in FIXED}
# Special tokens inside the fixed delimiters.
_PIECES: Final = re.compile(r"<[^<>]*>")

_NAMED: Final = "|".join(
    rf"{re.escape(left)}{_CAPITALS if left == '[' else _NAME}{re.escape(right)}"
    for left, right in _STYLES
)
# An opening delimiter; names of closing ones are excluded by `delimiters_of`.
OPENING: Final = re.compile(rf"(?-i:{'|'.join(map(re.escape, _FIXED))})|{_NAMED}", re.IGNORECASE)


def delimiters_of(opening: str) -> Delimiters | None:
    """Return the delimiters of the block opened by a match of `OPENING`.

    Returns:
        None if the text closes a block, as does `<|end_of_thought|>`.
    """
    if opening in _FIXED:
        return _FIXED[opening]
    left, right = next(style for style in _STYLES if opening.startswith(style[0]))
    name = opening.removeprefix(left).removesuffix(right)
    if _END.search(name):
        return None
    other, count = _BEGIN.subn(lambda found: _in_case_of(found[0], "end"), name)
    closing = f"{left}{other if count else '/' + name}{right}"
    is_tag = left == "<"
    return Delimiters(
        opening, closing, f"{opening}\n\n{closing}\n\n" if is_tag else opening + closing
    )


def find_opening(text: str, pattern: re.Pattern[str] = OPENING) -> re.Match[str] | None:
    """Return the first match of a pattern whose group `opening`, or whole, opens a block."""
    for found in pattern.finditer(text):
        if delimiters_of(found[found.lastgroup or 0]) is not None:
            return found
    return None


def find_block(text: str, pattern: re.Pattern[str] = OPENING) -> Block | None:
    """Return the place of the first block, opened as in `find_opening`."""
    found = find_opening(text, pattern)
    if found is None:
        return None
    known = delimiters_of(found[found.lastgroup or 0])
    assert known is not None
    end = text.find(known.closing, found.end())
    return Block(found.start(), None if end < 0 else end + len(known.closing))


def opens_block(text: str) -> Delimiters | None:
    """Return the delimiters of the block with which a text begins after white space, if any."""
    found = OPENING.match(text.lstrip())
    return None if found is None else delimiters_of(found[0])


def is_only_opening(text: str) -> bool:
    """Return whether a text is an opening delimiter, followed by nothing but white space."""
    found = OPENING.match(text)
    return found is not None and not text[found.end() :].strip()


def unclosed(text: str) -> str:
    """Return the end of a text from the delimiter of a block that it leaves open, or ''."""
    while (block := find_block(text)) is not None:
        if block.end is None:
            return text[block.start :]
        text = text[block.end :]
    return ""


def delimiter_tokens(tokens: Iterable[str]) -> set[str]:
    """Return those of a tokenizer's tokens that are delimiters or parts of one."""
    given = set(tokens)
    wanted = {token for token in given if OPENING.fullmatch(token) or _closes(token)}
    for block in FIXED:
        pieces = {*_PIECES.findall(block.opening), *_PIECES.findall(block.closing)}
        wanted |= pieces if pieces <= given else set()
    return wanted


def _closes(token: str) -> bool:
    """Return whether a token is a closing delimiter with a slash."""
    return "/" in token and OPENING.fullmatch(token.replace("/", "", 1)) is not None


def _in_case_of(model: str, word: str) -> str:
    return word.upper() if model.isupper() else word.title() if model.istitle() else word
