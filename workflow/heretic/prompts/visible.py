"""Blank text, including characters that have no width."""

import unicodedata

# Characters without a glyph that Unicode classifies neither as space nor as format: the
# combining grapheme joiner, fillers of Hangul, and an empty pattern of braille.
_EMPTY = frozenset("\u034f\u115f\u1160\u2800\u3164\uffa0")
_VARIATION_SELECTORS = frozenset(map(chr, (*range(0x180B, 0x180E), *range(0xFE00, 0xFE10))))
# At the edge of a text, these have no effect on its neighbors: byte order mark, zero-width space
# and word joiner.
_WITHOUT_WIDTH = "\ufeff\u200b\u2060"


def is_blank(text: str) -> bool:
    """Return whether a text has no visible character."""
    return all(map(_is_invisible, text))


def stripped(text: str) -> str:
    """Return a text without white space and characters without width at both ends."""
    while (shorter := text.strip().strip(_WITHOUT_WIDTH)) != text:
        text = shorter
    return text


def _is_invisible(character: str) -> bool:
    if character.isspace() or character in _EMPTY or character in _VARIATION_SELECTORS:
        return True
    return unicodedata.category(character) == "Cf"
