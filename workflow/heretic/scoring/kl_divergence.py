"""Divergence of the edited model's predictions from the original's."""

from typing import ClassVar

import torch
from torch import Tensor

from heretic.metrics import KL, ScoreRange
from heretic.scorer_registry import Side
from heretic.scoring.base import FirstTokenMeasure, FirstTokens, FirstTokenScorer, LikeliestTokens


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


class FirstTokenKl(FirstTokenScorer):
    """Mean KL(original || model) in nats of the first response token."""

    compares: ClassVar[bool] = True

    def __init__(self, name: str = KL, side: Side = "good") -> None:
        self.name, self.side = name, side

    def prepare(self, likeliest: LikeliestTokens) -> FirstTokenMeasure:
        """Return the divergence from the original's predictions."""
        return _divergence

    def span(self, original: float, n_prompts: int, max_kl: float) -> ScoreRange:
        """Return the span from no divergence to the limit."""
        return ScoreRange(0.0, max_kl)


def _divergence(tokens: FirstTokens) -> Tensor:
    assert tokens.original is not None  # given to scorers with `compares`
    return kl_divergence(tokens.original, tokens.log_probabilities)
