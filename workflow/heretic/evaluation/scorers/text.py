"""Text folding for comparisons that ignore typography."""

import unicodedata
from functools import lru_cache
from typing import Final

_PLAIN: Final = {
    **dict.fromkeys(map(ord, "\u2019\u2018\u201b\u02bc\u2032\u00b4`"), "'"),
    **dict.fromkeys(map(ord, "*_"), ""),
}


# Trials often repeat answers, and several scorers read each of them.
@lru_cache(maxsize=8192)
def fold(text: str) -> str:
    """Return compatibility-normalized, case-folded text with plain apostrophes and single spaces.

    Asterisks and underscores are removed, so that "I **cannot**" matches "I cannot".
    """
    # Apostrophes first, as normalization decomposes an acute accent.
    plain = unicodedata.normalize("NFKC", text.translate(_PLAIN))
    return " ".join(plain.casefold().split())
