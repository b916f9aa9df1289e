"""Texts of generated tokens, with the delimiters of thinking blocks but no other special tokens."""

from collections.abc import Sequence
from functools import cached_property

from transformers import PreTrainedTokenizerBase

from heretic.model.special_tokens import added_tokens
from heretic.model.thinking import delimiter_tokens


class AnswerDecoder:
    """Decode answers so that the text shows where thoughts end.

    In many families the delimiters of thinking blocks are special tokens. Other special tokens are
    left out.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        """Store the tokenizer, whose special tokens are read when first needed."""
        self._tokenizer = tokenizer

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of token ids."""
        delimiters, others = self._special
        shown = list(ids)
        if delimiters.isdisjoint(shown):
            return str(self._tokenizer.decode(shown, skip_special_tokens=True))
        shown = [token for token in shown if token not in others]
        return str(self._tokenizer.decode(shown, skip_special_tokens=False))

    @cached_property
    def _special(self) -> tuple[frozenset[int], frozenset[int]]:
        """Special tokens that are delimiters or parts of one, and the others."""
        tokenizer = self._tokenizer
        tokens = dict(zip(tokenizer.all_special_ids, tokenizer.all_special_tokens, strict=True))
        added = added_tokens(tokenizer) or {}
        tokens |= {token: str(known) for token, known in added.items() if known.special}
        wanted = delimiter_tokens(tokens.values())
        delimiters = frozenset(token for token, text in tokens.items() if text in wanted)
        return delimiters, frozenset(tokens) - delimiters
