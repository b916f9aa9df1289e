"""Log-odds of a refusal from the first response token (Arditi et al. 2024, section 2.4).

They are log p - log (1 - p), where p is the probability that the answer begins with one of some
tokens. They need no pass besides the one that begins an answer, and distinguish a weak edit from
none while both still refuse everything.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from heretic.metrics import LOG_ODDS, ScoreRange
from heretic.scorer_registry import Side
from heretic.scoring.base import FirstTokenMeasure, FirstTokenScorer, LikeliestTokens, Score

SMALLEST_SHARE = 0.05  # of answers to bad prompts
TIMES_AS_FREQUENT = 2


@dataclass(frozen=True)
class RefusalTokens:
    """Tokens with which the original begins answers to bad rather than good prompts.

    The paper lists them for each model family; here they are determined automatically, for any
    model and any behavior, as the most likely first tokens that are far more frequent after bad
    prompts than after good ones. Tokens that begin only a few answers, or answers to both kinds of
    prompts, are excluded, so that beginnings of compliance do not count.
    """

    ids: tuple[int, ...]

    @classmethod
    def of(cls, good: Sequence[int], bad: Sequence[int]) -> "RefusalTokens":
        """Select them from the original's first tokens; none if these do not separate prompts."""
        among_good, among_bad = Counter(good), Counter(bad)
        return cls(
            tuple(
                sorted(
                    token
                    for token, count in among_bad.items()
                    if count >= SMALLEST_SHARE * len(bad)
                    and count * len(good) >= TIMES_AS_FREQUENT * among_good[token] * len(bad)
                )
            )
        )

    def log_odds(self, logits: Tensor) -> Tensor:
        """Compute log-odds, [n] float32 in nats, from logits [n, vocabulary] of first tokens."""
        logits = logits.float()
        chosen = torch.zeros(logits.shape[-1], dtype=torch.bool, device=logits.device)
        chosen[list(self.ids)] = True
        inside = logits.masked_fill(~chosen, -torch.inf).logsumexp(dim=-1)
        return inside - logits.masked_fill(chosen, -torch.inf).logsumexp(dim=-1)


class RefusalLogOdds(FirstTokenScorer):
    """Mean log-odds in nats that an answer begins like a refusal."""

    def __init__(self, name: str = LOG_ODDS, side: Side = "bad") -> None:
        self.name, self.side = name, side

    def prepare(self, likeliest: LikeliestTokens) -> FirstTokenMeasure | None:
        """Select the tokens; None if first tokens do not distinguish refusals."""
        tokens = RefusalTokens.of(likeliest("good"), likeliest("bad"))
        return (lambda first: tokens.log_odds(first.logits)) if tokens.ids else None

    def score(self, values: Tensor) -> Score:
        """Return the mean, computed in float32 like the values."""
        return replace(super().score(values), value=float(values.mean()))

    def span(self, original: float, n_prompts: int, max_kl: float) -> ScoreRange:
        """Return the span from the negative of the original's value, at least 2 nats better."""
        return ScoreRange(original - 2.0 * max(abs(original), 1.0), original)
