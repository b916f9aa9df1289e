"""Checks of a run's prompts with the model's tokenizer, before any forward pass."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from heretic.artifacts import read_json
from heretic.errors import PromptError
from heretic.model.chat import ChatFormat, shown_beginning
from heretic.model.prompt_lengths import require_lengths
from heretic.model.special_tokens import ADVICE
from heretic.prompts.origins import origin_of
from heretic.prompts.prompt import Prompt
from heretic.prompts.prompt_sets import DatasetBundle


def require_usable_prompts(
    chat: ChatFormat, bundle: Path, generated: int
) -> dict[str, tuple[Prompt, ...]]:
    """Return a run's prompt sets, none of which is too long or contains special tokens.

    Args:
        chat: chat format of the model.
        bundle: `bundle.json`, which names the sets; their prompts are in the same folder.
        generated: number of tokens generated after a prompt, which need room in the context too.

    Raises:
        PromptError: as `require_lengths` and `require_plain_text`.
        ModelLoadError: as `require_lengths`.
    """
    sets = DatasetBundle.read(bundle.parent, sets=read_json(bundle)["counts"]).sets()
    require_lengths(chat, sets, generated)
    require_plain_text(chat, sets, bundle.parent)
    return sets


def require_plain_text(
    chat: ChatFormat, sets: Mapping[str, Sequence[Prompt]], folder: Path | None = None
) -> None:
    """Reject prompts and system prompts whose text contains a special token of the model.

    Args:
        chat: chat format of the model.
        sets: prompts by set name.
        folder: folder of the run's prompt sets, from which the row of the file is determined.

    Raises:
        PromptError: the message states the set, the row, the token and the remedy.
    """
    for name, prompts in sets.items():
        for number, (prompt, token) in enumerate(
            zip(prompts, chat.special_tokens_in(prompts), strict=True), start=1
        ):
            if token is None:
                continue
            origin = origin_of(prompt, folder / f"{name}.jsonl") if folder else None
            raise PromptError(
                f"row {number} of {name} ({f'{origin}; ' if origin else ''}"
                f"{shown_beginning(prompt)}) contains {token!r}, a special token of the model; "
                f"{ADVICE}"
            )


def sample_of(sets: Mapping[str, Sequence[Prompt]]) -> list[Prompt]:
    """Return the longest and the shortest prompt of each set, with and without a system prompt.

    A data type that gives finite logits for them is expected to work for all. The sample depends
    on the prompts alone.
    """
    found: dict[tuple[str, str | None], Prompt] = {}
    for prompts in sets.values():
        for group in (
            [prompt for prompt in prompts if prompt.system is None],
            [prompt for prompt in prompts if prompt.system is not None],
        ):
            ordered = sorted(group, key=lambda prompt: len(prompt.text + (prompt.system or "")))
            for prompt in [*ordered[-1:], *ordered[:1]]:
                found.setdefault((prompt.text, prompt.system), prompt)
    return list(found.values())
