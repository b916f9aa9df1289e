"""Loading of a model's tokenizer and chat template, before and without its weights."""

from datetime import date
from functools import partial
from pathlib import Path
from typing import Any

from transformers import AutoConfig, AutoTokenizer, PreTrainedTokenizerBase

from heretic.errors import ModelLoadError
from heretic.model.chat import PROBES, ChatFormat, TokenLimits, require_template
from heretic.model.inspection import check_chat
from heretic.model.limits import require_within_limits
from heretic.model.template import default_template, processor_template, require_text
from heretic.model.third_party import quiet_transformers, reported_as

# Limits of processor time: for any tokenizer, and per megabyte of its files.
SECONDS, SECONDS_PER_MEGABYTE = 10, 2
CONVERTED_SECONDS = 120
CONVERTED = "tokenizer.json"
ADVICE = "copy the tokenizer's files from its base model"
CONTEXT_FIELDS = ("max_position_embeddings", "n_positions", "max_seq_len")


def load_chat(
    model: str,
    folder: Path,
    template: str | None,
    response_prefix: str,
    day: date,
    *,
    trust_remote_code: bool,
    max_prompt_length: int | None = None,
) -> ChatFormat:
    """Load a tokenizer and its chat template, and verify that they encode prompts.

    Args:
        model: name for messages.
        folder: folder of the checkpoint.
        template: replacement for the checkpoint's template.
        response_prefix: common beginning of all answers.
        day: date printed by the template, if any.
        trust_remote_code: as the setting.
        max_prompt_length: as the setting.

    Raises:
        ModelLoadError: the tokenizer or the template is missing, or they do not encode a short
            prompt within a few seconds.
    """
    check_chat(model, folder, template)
    build = partial(
        _chat, model, folder, template, response_prefix, day, trust_remote_code, max_prompt_length
    )
    if not trust_remote_code:  # custom code may start threads or use an accelerator
        what = f"the tokenizer of {model} does not encode a short prompt"
        require_within_limits(
            lambda: build().encode(PROBES), ModelLoadError, what, _seconds(folder), ADVICE
        )
    chat = build()
    chat.encode(PROBES[:1])  # an unusable template is reported before the weights are loaded
    return chat


def _chat(
    model: str,
    folder: Path,
    template: str | None,
    response_prefix: str,
    day: date,
    trust_remote_code: bool,
    max_prompt_length: int | None,
) -> ChatFormat:
    with reported_as(ModelLoadError, f"cannot load {model}"), quiet_transformers():
        config: Any = AutoConfig.from_pretrained(folder, trust_remote_code=trust_remote_code)
        text = config.get_text_config(decoder=True)
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(
            folder, padding_side="left", trust_remote_code=trust_remote_code
        )
    limits = TokenLimits(_positive(text, "vocab_size"), max_prompt_length, _context(text))
    if template is not None:
        tokenizer.chat_template = template
    elif not tokenizer.chat_template:
        tokenizer.chat_template = processor_template(folder)
    require_template(tokenizer, model)
    templates = require_text(tokenizer.chat_template, model)
    tokenizer.chat_template = default_template(templates, model)
    _set_padding(tokenizer, limits.vocabulary)
    return ChatFormat(tokenizer, response_prefix, limits, day)


def _set_padding(tokenizer: Any, vocabulary: int | None) -> None:
    """Set a padding token; as padding is always masked, any token with an embedding suffices."""
    with reported_as(ModelLoadError, "the tokenizer has no token to pad with", ADVICE):
        known, end = tokenizer.pad_token_id, tokenizer.eos_token_id
        if known is not None and (vocabulary is None or 0 <= known < vocabulary):
            return
        inside = end is not None and (vocabulary is None or 0 <= end < vocabulary)
        tokenizer.pad_token = tokenizer.eos_token if inside else tokenizer.convert_ids_to_tokens(0)


def _context(config: Any) -> int | None:
    found = (_positive(config, name) for name in CONTEXT_FIELDS)
    return next((size for size in found if size is not None), None)


def _positive(config: Any, name: str) -> int | None:
    value = getattr(config, name, None)
    return value if isinstance(value, int) and value > 0 else None


def _seconds(folder: Path) -> int:
    files = [*folder.glob("token*"), *folder.glob("vocab*"), *folder.glob("*.model")]
    size = sum(path.stat().st_size for path in files if path.is_file())
    converted = 0 if (folder / CONVERTED).is_file() else CONVERTED_SECONDS
    return SECONDS + converted + SECONDS_PER_MEGABYTE * size // 1_000_000
