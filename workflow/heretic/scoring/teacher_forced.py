"""Scores of the predictions along the original's own responses."""

from abc import abstractmethod
from collections.abc import Sequence
from typing import ClassVar

from torch import Tensor

from heretic.errors import SettingsError
from heretic.metrics import ScoreRange
from heretic.model.decoding import forced_log_probabilities, generate
from heretic.model.loading import Model
from heretic.scorer_registry import Side
from heretic.scoring.base import Measure, ModelScorer, ScoredPrompts, require_side
from heretic.scoring.kl_divergence import kl_divergence


class TeacherForcedScorer(ModelScorer):
    """Base class of scorers of the predictions along the original's own responses.

    In trials, such a scorer runs its own passes; the held-out evaluation generates the original's
    responses anyway, and runs one pass for all of its columns.

    Attributes:
        tokens: number of response tokens.
    """

    needs_same_tokens: ClassVar[bool] = True

    def __init__(self, tokens: int, name: str, side: Side) -> None:
        """Create a scorer of the first `tokens` of the responses to the prompts of a side.

        Raises:
            SettingsError: `tokens` is less than 1, or the side does not exist.
        """
        if not isinstance(tokens, int) or tokens < 1:
            raise SettingsError(
                f"scorer {name}: tokens must be a whole number of at least 1, not {tokens!r}"
            )
        self.name, self.tokens, self.side = name, tokens, require_side(side, name)

    @abstractmethod
    def compare(self, original: Sequence[Tensor], model: Sequence[Tensor]) -> list[float]:
        """Return the value of each prompt.

        Args:
            original: log-probabilities of the original before each token of its response,
                [tokens, vocabulary] per prompt, float32; one row for an empty response.
            model: the same of the compared model.
        """

    def prepare(self, model: Model, prompts: ScoredPrompts) -> Measure:
        """Generate the original's responses and store its predictions along them."""
        asked = prompts.of(self.side)
        responses = generate(model, asked, self.tokens)
        original = forced_log_probabilities(model, asked, responses)
        return lambda edited: self.compare(
            original, forced_log_probabilities(edited, asked, responses)
        )


class TeacherForcedKl(TeacherForcedScorer):
    """Mean KL(original || model) in nats over the first tokens of the original's own responses."""

    def __init__(self, tokens: int, name: str = "kl_teacher_forced", side: Side = "good") -> None:
        """Create a scorer of the first `tokens` of responses; see the base class."""
        super().__init__(tokens, name, side)

    def compare(self, original: Sequence[Tensor], model: Sequence[Tensor]) -> list[float]:
        """Return the mean divergence over the tokens of each response."""
        pairs = zip(original, model, strict=True)
        return [float(kl_divergence(before, after).mean()) for before, after in pairs]

    def span(self, original: float, n_prompts: int, max_kl: float) -> ScoreRange:
        """Return the span from no divergence to the limit of the first token's."""
        return ScoreRange(0.0, max_kl)
