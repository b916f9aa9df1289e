"""Divergence of the edited model's predictions from the original's."""

from collections.abc import Sequence

import torch
from torch import Tensor


def kl_divergence(original: Tensor, edited: Tensor) -> Tensor:
    """Compute KL(original || edited) in nats over the last dimension.

    Args:
        original, edited: log-probabilities [..., vocabulary].

    Returns:
        [...] float32, never negative. Tokens with probability zero under the original do not
        contribute, so suppressed tokens (log-probability -inf) do not result in NaN.
    """
    terms = torch.where(original.isneginf(), 0.0, original.exp() * (original - edited))
    return terms.sum(dim=-1).clamp(min=0)


def first_token_kl(original: Sequence[Tensor], edited: Sequence[Tensor]) -> list[float]:
    """Compute the KL divergence of the first response token of each prompt."""
    return [float(kl_divergence(o[0], e[0])) for o, e in zip(original, edited, strict=True)]


def teacher_forced_kl(original: Sequence[Tensor], edited: Sequence[Tensor]) -> list[float]:
    """Compute the mean KL over the tokens of the original's own response, per prompt."""
    return [float(kl_divergence(o, e).mean()) for o, e in zip(original, edited, strict=True)]
