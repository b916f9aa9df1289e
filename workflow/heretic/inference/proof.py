"""Whether a network computes with shared, skipped and rearranged keys what it computes plainly.

Architectures may keep states that are no keys, tell positions by columns, or pass something from
layer to layer beside the stream. Rather than list them, a few prompts are answered both ways before
a study begins.
"""

from collections.abc import Sequence
from itertools import chain
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

from heretic.inference.prefill import prefill
from heretic.inference.rows import Rows, join
from heretic.inference.study_prompts import StudyPrompts
from heretic.model.decoding import forward, pad_left
from heretic.model.layers import text_config
from heretic.model.loading import Model

SAMPLES, STEPS = 4, 2
# Unequal logits may be so many roundings of the largest one apart, or so many times what batches
# of plain passes differ by.
ROUNDINGS = {torch.float32: 256, torch.float64: 256}
HALF_ROUNDINGS, TIMES_NOISE = 4, 4
# What an architecture that is not built as most are may answer to unusual arguments.
REFUSALS = (RuntimeError, ValueError, TypeError, LookupError, AttributeError, NotImplementedError)


def why_no_rows(model: Model) -> str | None:
    """Why rows of the network's cache cannot be rearranged, or None."""
    try:
        layers = DynamicCache(config=text_config(model.network)).layers
    except REFUSALS as error:
        return f"transformers makes no cache for it ({type(error).__name__})"
    others = [layer for layer in layers if type(layer) not in (DynamicLayer, DynamicSlidingWindowLayer)]
    if others:
        return f"its cache holds more than keys and values ({type(others[0]).__name__})"
    return None


def smallest_window(model: Model) -> int | None:
    """Tokens that the layer with the shortest view attends to; None if all see everything."""
    layers: Sequence[Any] = DynamicCache(config=text_config(model.network)).layers
    windows = [layer.sliding_window for layer in layers if layer.is_sliding]
    return min(windows, default=None)


def disagreement(model: Model, prompts: StudyPrompts, ids: Sequence[Sequence[int]]) -> str | None:
    """Why passes over `prompts` are not what plain passes are, or None.

    Args:
        model: in its original state.
        prompts: a few, as a study has many.
        ids: their tokens, good ones first.
    """
    kept = sorted({layer for batch in prompts.good for layer in batch.recording.inputs})
    try:
        for first in dict.fromkeys([0, *kept[:1], *kept[-1:]]):
            owners, answers, logits = _answered(model, prompts, first)
            whole = [[*ids[owner], *answer[:-1]] for owner, answer in zip(owners, answers, strict=True)]
            plain = torch.cat([_plain(model, [row]) for row in whole])
            noise = float((_plain(model, whole) - plain).abs().max())
            reason = logits_agree(model, logits, plain, noise)
            if reason is not None:
                return f"in passes from layer {first} on {reason}"
    except REFUSALS as error:
        return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
    return None


def _answered(
    model: Model, prompts: StudyPrompts, first: int
) -> tuple[list[int], list[list[int]], Tensor]:
    """Prompts, two-step answers and logits [n, steps + 1, vocabulary] of rearranged rows."""
    prefix = prompts.prefix_key_values(first)
    parts, logits = [], []
    for batch in chain(prompts.good, prompts.bad):
        prefilled = prompts.prefill(batch, first, prefix)
        rows = Rows.of(prefilled, batch.prompts, 0)
        rows.read()
        parts.append(rows)
        logits.append(prefilled.logits.float())
    order = list(range(sum(map(len, parts))))[::-1]
    rows = join(parts).select(order)
    seen = [torch.cat(logits)[order]]
    seen += [rows.step(model).float() for _ in range(STEPS)]
    rows.read()
    return [owner.prompt for owner in rows.owners], rows.answers, torch.stack(seen, dim=1)


def _plain(model: Model, rows: Sequence[Sequence[int]]) -> Tensor:
    """Logits [n, steps + 1, vocabulary] at the ends of some rows, without a cache."""
    inputs, mask = pad_left(rows, model)
    logits: Tensor = forward(model, inputs, mask, logits_to_keep=STEPS + 1).logits
    return logits[:, -STEPS - 1 :].float()


def logits_agree(
    model: Model, logits: Tensor, expected: Tensor, noise: float = 0.0
) -> str | None:
    """By how much logits are off if that is more than rounding explains, or None.

    Args:
        model: of which the logits are.
        logits: in question.
        expected: of the same shape.
        noise: by which plain passes differ among themselves.
    """
    precision = model.loaded_dtype
    rounding = ROUNDINGS.get(precision, HALF_ROUNDINGS) * torch.finfo(precision).eps
    real = expected.isfinite()  # some models rule tokens out
    allowed = max(rounding * float(expected[real].abs().max()), TIMES_NOISE * noise)
    found = float((logits - expected)[real].abs().max())
    if found <= allowed:
        return None
    return f"logits are {found:.2g} off, where rounding explains {allowed:.2g}"
