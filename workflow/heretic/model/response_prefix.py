"""Common beginning of all responses, after which states and scores are measured.

A reasoning model begins each answer with a thinking block. The tokens after a prompt are then
uninformative about the answer, and a refusal may appear only hundreds of tokens later. Replacing
the block with an empty one makes the model answer directly.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import takewhile
from typing import Final

from heretic.console import log
from heretic.model.decoding import generate
from heretic.model.loading import Model
from heretic.model.thinking import OPENING, delimiters_of, opens_block
from heretic.prompts.prompt import Prompt

PROMPTS_PER_SET = 24
# Number of tokens compared, doubled up to a maximum while all responses agree.
TOKENS, MOST_TOKENS = 24, 384

# Beginnings that suggest thoughts in an unknown form: a bracketed name, or a heading.
_NAMES: Final = (
    r"<\|?[^\W\d][^<>\n]{0,40}>",
    r"\[[A-Z_ ]{3,40}\]",
    "\u25c1[^\u25b7\n]{1,40}\u25b7",
)
_LOOKS_OPENED: Final = re.compile(rf"\s*(?P<name>{'|'.join(_NAMES)})")
_LOOKS_TITLED: Final = re.compile(
    r"\W{0,4}(here(?: is|'s) my )?(thoughts?|thinking|reasoning)( process)?\s?([:*\n]|$)",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class _Start:
    """Common beginning of all responses.

    Attributes:
        text: the beginning.
        unusable: why it cannot be the prefix; empty if it can.
        n_thinking: number of responses that open a thinking block.
    """

    text: str
    unusable: str
    n_thinking: int


def find_response_prefix(
    model: Model, good_prompts: Sequence[Prompt], bad_prompts: Sequence[Prompt]
) -> str:
    """Return the common beginning of a few dozen responses to both sets; often empty.

    A thinking block opened by the template or by every answer is closed immediately. The rest is
    the common beginning of all answers, unless it takes up a whole answer.
    """
    prompts = [*good_prompts[:PROMPTS_PER_SET], *bad_prompts[:PROMPTS_PER_SET]]
    bare = replace(model, chat=replace(model.chat, response_prefix=""))
    rendered = bare.chat.render(prompts[0])
    prefix = rest_of_open_block(rendered)
    start = _common_start(bare, prompts, prefix)
    block = empty_block(start.text)
    if block is not None:
        prefix += block
        start = _common_start(bare, prompts, prefix)
    if start.n_thinking:
        log.warning(
            "%d of %d responses open a thinking block after the prefix %r; only what follows a "
            "closed block is scored, so raise max_response_length, or set response_prefix",
            start.n_thinking,
            len(prompts),
            prefix,
        )
    elif looks_like_thoughts(start.text, rendered):
        log.warning(
            "All responses begin with %r, which looks like a thinking block of an unknown form; if "
            "it is one, set response_prefix to an empty block, from its opening delimiter to its "
            "closing one",
            start.text,
        )
    if start.unusable:
        log.warning(
            "All %d responses are %s (%r), so this is not used as the prefix; set "
            "response_prefix to use it",
            len(prompts),
            start.unusable,
            start.text,
        )
    # Thoughts that follow an empty block must not become part of the prefix.
    is_usable = not start.unusable and empty_block(start.text) is None
    return prefix + start.text if is_usable else prefix


def empty_block(start: str) -> str | None:
    """Return an empty thinking block if an answer with this beginning opens one."""
    block = opens_block(start)
    return None if block is None else block.empty


def rest_of_open_block(rendered: str) -> str:
    """Return the end of a thinking block opened by the chat template, or an empty text."""
    openings = [found for found in OPENING.finditer(rendered) if delimiters_of(found[0])]
    if not openings or rendered[openings[-1].end() :].strip():
        return ""
    opened, block = rendered[openings[-1].start() :], delimiters_of(openings[-1][0])
    assert block is not None
    if block.empty.startswith(opened):
        return block.empty.removeprefix(opened)
    # The template's white space differs from that of the empty block.
    return block.empty.removeprefix(block.opening).lstrip()


def looks_like_thoughts(start: str, rendered: str) -> bool:
    """Return whether responses with this beginning may open a thinking block of an unknown form.

    Args:
        start: common beginning of all responses.
        rendered: a prompt; the brackets of its roles do not enclose thoughts.
    """
    found = _LOOKS_OPENED.match(start)
    if found is None:
        return _LOOKS_TITLED.match(start) is not None
    name = re.sub(r"^(\W+)", r"\1/", found["name"])
    return found["name"] not in rendered and name not in start


def _common_start(model: Model, prompts: Sequence[Prompt], prefix: str) -> _Start:
    """Return the common continuation of all answers after `prefix`.

    Answers are compared by tokens, since a text cut inside a token would be tokenized differently.
    """
    asked = replace(model, chat=replace(model.chat, response_prefix=prefix))
    n_tokens = TOKENS
    while True:
        answers = generate(asked, prompts, n_tokens)
        columns = zip(*answers, strict=False)
        shared = [column[0] for column in takewhile(lambda tokens: len(set(tokens)) == 1, columns)]
        text, *starts = (_text(model, tokens) for tokens in (shared, *answers))
        if len(shared) < n_tokens or empty_block(text) is not None:
            break
        most = _most_tokens(asked, prompts)
        if n_tokens >= most:
            break
        n_tokens = min(2 * n_tokens, most)
    unusable = ""
    if shared and len(shared) == min(map(len, answers)):
        is_cut = len(shared) == n_tokens
        unusable = f"alike for at least {n_tokens} tokens" if is_cut else "identical"
    # A space belongs to the next token; a partial character to its other bytes.
    n_thinking = sum(empty_block(start) is not None for start in starts)
    return _Start(text.rstrip(" \ufffd"), unusable, n_thinking)


def _text(model: Model, tokens: Sequence[int]) -> str:
    return str(model.chat.tokenizer.decode(list(tokens), skip_special_tokens=False))


def _most_tokens(model: Model, prompts: Sequence[Prompt]) -> int:
    """Return how many tokens may be compared, given the model's context."""
    context = model.chat.limits.context
    if context is None:
        return MOST_TOKENS
    return min(MOST_TOKENS, context - max(map(len, model.chat.encode(prompts))))
