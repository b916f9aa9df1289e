"""Perplexity of plain texts."""

import math
from collections.abc import Sequence
from dataclasses import replace

from heretic.errors import PromptError
from heretic.metrics import ScoreRange
from heretic.model.decoding import text_log_probabilities, text_tokens
from heretic.model.loading import Model
from heretic.scoring.base import Measure, ModelScorer, Score, ScoredPrompts

# Per token; the exponential of larger values overflows.
MOST_NATS = 700.0


class Perplexity(ModelScorer):
    """Exponential of the negative log-likelihood per token of a text, averaged over the texts."""

    needs_texts = True

    def __init__(self, name: str = "perplexity") -> None:
        self.name = name

    def prepare(self, model: Model, prompts: ScoredPrompts) -> Measure:
        """Store the texts; the original's result is a separate score."""
        texts: Sequence[str] = [prompt.text for prompt in prompts.texts]
        if not text_tokens(model, texts):
            raise PromptError(
                f"the score {self.name} needs plain texts of at least two tokens; set others in "
                "unhelpfulness_prompts"
            )
        return lambda edited: [-float(row.mean()) for row in text_log_probabilities(edited, texts)]

    def score(self, measure: Measure, model: Model) -> Score:
        """Return the perplexity; details are nats per token of each text."""
        nats = Score.of(self.name, self.direction, measure(model), counts=False)
        return replace(nats, value=math.exp(nats.value) if nats.value < MOST_NATS else math.inf)

    def span(self, original: float, n_prompts: int, max_kl: float) -> ScoreRange:
        """Return a span from the original's value to one nat per token above it."""
        return ScoreRange(original, math.e * original)
