"""Special tokens in the text of prompts.

A tokenizer reads the text of a special token as that token, wherever it occurs. In a prompt, it
would end the user's turn or begin another one. No option of tokenizers keeps all of them as plain
text (only those marked as special, and only some tokenizers), so such prompts are rejected.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

from transformers import PreTrainedTokenizerBase

from heretic.errors import ModelLoadError
from heretic.model.third_party import reported_as

ADVICE = "remove or rewrite it"


@dataclass(frozen=True)
class SpecialTokens:
    """Tokens of a tokenizer that are not plain text.

    Attributes:
        tokenizer: the tokenizer.
        texts: text of each token by id.
    """

    tokenizer: PreTrainedTokenizerBase
    texts: Mapping[int, str]

    @classmethod
    def of(cls, tokenizer: PreTrainedTokenizerBase, conversation: str) -> Self:
        """Return the special tokens, and the other added tokens that a template writes.

        Some tokenizers do not mark the tokens of roles as special. Tokens that are white space,
        words or single characters are plain text.

        Args:
            tokenizer: any tokenizer.
            conversation: a conversation rendered by the chat template.
        """
        any_tokenizer: Any = tokenizer
        added = added_tokens(tokenizer)
        if added is None:
            special = any_tokenizer.all_special_ids
            texts = dict(zip(special, any_tokenizer.convert_ids_to_tokens(special), strict=True))
            return cls(
                tokenizer, {index: text for index, text in texts.items() if _is_markup(text)}
            )
        written = set(_token_ids(tokenizer, [conversation])[0])
        return cls(
            tokenizer,
            {
                index: token.content
                for index, token in added.items()
                if (token.special or index in written) and _is_markup(token.content)
            },
        )

    def find(self, texts: Sequence[str]) -> list[str | None]:
        """Return the first special token of each text, or None."""
        if not self.texts or not texts:
            return [None for _ in texts]
        rows = _token_ids(self.tokenizer, texts)
        return [self._first(text, row) for text, row in zip(texts, rows, strict=True)]

    def _first(self, text: str, row: Sequence[int]) -> str | None:
        # Characters outside the vocabulary are encoded as the unknown token as well.
        unknown: Any = self.tokenizer.unk_token_id
        for index in row:
            token = self.texts.get(index)
            if token is not None and (index != unknown or token in text):
                return token
        return None


def added_tokens(tokenizer: PreTrainedTokenizerBase) -> Mapping[int, Any] | None:
    """Return a tokenizer's added tokens by id, or None for tokenizers of other libraries."""
    any_tokenizer: Any = tokenizer
    try:
        found: Mapping[int, Any] = any_tokenizer.added_tokens_decoder
    except (AttributeError, NotImplementedError):
        return None
    return found


def _is_markup(text: str) -> bool:
    """Return whether a token is more than a word, a character or white space.

    Some tokenizers use an ordinary token such as an exclamation mark for padding.
    """
    return len(text.strip()) > 1 and not text.strip().isalnum()


def _token_ids(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]) -> list[list[int]]:
    with reported_as(ModelLoadError, "the tokenizer cannot encode a prompt"):
        rows: Any = tokenizer(list(texts), add_special_tokens=False, verbose=False)["input_ids"]
    return [list(row) for row in rows]
