"""Scores computed by forward passes: divergence on the original's answers, and perplexity."""

import math
from collections.abc import Sequence
from dataclasses import replace

from heretic.errors import PromptError, SettingsError
from heretic.metrics import ScoreRange
from heretic.model.decoding import (
    forced_log_probabilities,
    generate,
    text_log_probabilities,
    text_tokens,
)
from heretic.model.loading import Model
from heretic.scoring.base import Measure, ModelScorer, Score, ScoredPrompts
from heretic.scoring.kl_divergence import teacher_forced_kl

# Per token; the exponential of larger values overflows.
MOST_NATS = 700.0


class TeacherForcedKl(ModelScorer):
    """KL(original || model) in nats over the first tokens of the original's own answers."""

    needs_same_tokens = True

    def __init__(self, tokens: int, name: str = "kl_teacher_forced") -> None:
        """Create a scorer of the first `tokens` of answers to good prompts.

        Raises:
            SettingsError: `tokens` is less than 1.
        """
        if not isinstance(tokens, int) or tokens < 1:
            raise SettingsError(
                f"scorer {name}: tokens must be a whole number of at least 1, not {tokens!r}"
            )
        self.name, self.tokens = name, tokens

    def prepare(self, model: Model, prompts: ScoredPrompts) -> Measure:
        """Generate the original's answers and store its distributions over them."""
        good = prompts.good
        answers = generate(model, good, self.tokens)
        original = forced_log_probabilities(model, good, answers)

        def measure(edited: Model) -> list[float]:
            return teacher_forced_kl(original, forced_log_probabilities(edited, good, answers))

        return measure


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

    def span(self, original: float, n_prompts: int) -> ScoreRange:
        """Return a span from the original's value to one nat per token above it."""
        return ScoreRange(original, math.e * original)
