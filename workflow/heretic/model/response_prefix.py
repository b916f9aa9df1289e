"""Common beginning of all responses, after which states and scores are measured.

A reasoning model begins each answer with a thinking block. The tokens after a prompt are then
uninformative about the answer, and a refusal may appear only hundreds of tokens later. Replacing
the block with an empty one makes the model answer directly.
"""

import re
from collections.abc import Sequence
from dataclasses import replace
from itertools import takewhile

from heretic.console import log
from heretic.model.decoding import generate
from heretic.model.loading import Model
from heretic.prompts.prompt import Prompt

PROMPTS_PER_SET = 24
TOKENS = 24

_TAG = re.compile(r"<(?P<name>\w*think\w*|thoughts?|reasoning)>")
# Thinking blocks that no tag closes: their opening text, and an empty block.
_OTHER_BLOCKS = {
    "[THINK]": "[THINK][/THINK]",
    "<|channel|>analysis<|message|>": (
        "<|channel|>analysis<|message|><|end|><|start|>assistant<|channel|>final<|message|>"
    ),
}


def find_response_prefix(
    model: Model, good_prompts: Sequence[Prompt], bad_prompts: Sequence[Prompt]
) -> str:
    """Return the common beginning of a few dozen responses to both sets; often empty.

    A thinking block opened by the template or by every answer is closed immediately. The rest is
    the common beginning of all answers, unless it takes up a whole answer.
    """
    prompts = [*good_prompts[:PROMPTS_PER_SET], *bad_prompts[:PROMPTS_PER_SET]]
    bare = replace(model, chat=replace(model.chat, response_prefix=""))
    prefix = rest_of_open_block(bare.chat.render(prompts[0]))
    common, used_up = _common_start(bare, prompts, prefix)
    block = empty_block(common)
    if block is not None:
        prefix += block
        common, used_up = _common_start(bare, prompts, prefix)
    if used_up:
        log.warning(
            "All %d responses are identical (%r), so this is not used as the prefix; set "
            "response_prefix to use it",
            len(prompts),
            common,
        )
        return prefix
    return prefix + common


def empty_block(start: str) -> str | None:
    """Return an empty thinking block if an answer with this beginning opens one."""
    text = start.lstrip()
    tag = _TAG.match(text)
    if tag is not None:
        return f"<{tag['name']}>\n\n</{tag['name']}>\n\n"
    return next((empty for opening, empty in _OTHER_BLOCKS.items() if text.startswith(opening)),
                None)  # fmt: skip


def rest_of_open_block(rendered: str) -> str:
    """Return the end of a thinking block opened by the chat template, or an empty text."""
    tags = list(_TAG.finditer(rendered))
    if not tags or rendered[tags[-1].end() :].strip():
        return ""
    opened = rendered[tags[-1].start() :]
    empty = empty_block(opened) or ""
    closing = f"</{tags[-1]['name']}>\n\n"
    return empty.removeprefix(opened) if empty.startswith(opened) else closing


def _common_start(model: Model, prompts: Sequence[Prompt], prefix: str) -> tuple[str, bool]:
    """Return the common continuation of all answers after `prefix`, and whether one ends there.

    Answers are compared by tokens, since a text cut inside a token would be tokenized differently.
    """
    asked = replace(model, chat=replace(model.chat, response_prefix=prefix))
    answers = generate(asked, prompts, TOKENS)
    columns = zip(*answers, strict=False)
    shared = [column[0] for column in takewhile(lambda tokens: len(set(tokens)) == 1, columns)]
    text = str(model.chat.tokenizer.decode(shared, skip_special_tokens=False))
    used_up = bool(shared) and len(shared) == min(map(len, answers))
    # A space belongs to the next token; a partial character to its other bytes.
    return text.rstrip(" \ufffd"), used_up
