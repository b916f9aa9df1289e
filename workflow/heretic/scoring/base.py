"""Base classes of scores and scorers, including plug-ins."""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar, Literal, cast, get_args

from torch import Tensor
from torch.nn.functional import log_softmax

from heretic.errors import SettingsError
from heretic.metrics import ScoreRange
from heretic.model.loading import Model
from heretic.prompts.prompt import Prompt
from heretic.scorer_registry import Side

# A score with direction `none` is reported but cannot be an objective.
Direction = Literal["minimize", "maximize", "none"]
SIDES = "bad, good or both"


@dataclass(frozen=True)
class Score:
    """Score of one state of the model.

    Attributes:
        name: name under which it is stored, and which may be an objective.
        value: a count if `details` are verdicts, otherwise their mean.
        direction: direction in which the score improves.
        details: value of each prompt or text, in order.
        counts: whether `value` is the number of details that are 1.
    """

    name: str
    value: float
    direction: Direction
    details: tuple[float, ...]
    counts: bool

    @classmethod
    def of(
        cls, name: str, direction: Direction, details: Sequence[float], *, counts: bool
    ) -> "Score":
        """Create a score from its details.

        Raises:
            SettingsError: the details are counted, but not all are 0 or 1.
        """
        if counts and not all(detail in (0, 1) for detail in details):
            raise SettingsError(
                f"scorer {name} counts answers, so its judge must return yes or no, 1 or 0; set "
                "`counts = False` to use the mean of its values"
            )
        total = sum(details)
        value = int(total) if counts else total / max(1, len(details))
        return cls(name, value, direction, tuple(map(float, details)), counts)

    @property
    def display(self) -> str:
        """Return the value in human-readable form."""
        return f"{self.value}/{len(self.details)}" if self.counts else f"{self.value:.4g}"


@dataclass(frozen=True)
class ScoredPrompts:
    """Prompts on which a study or a report computes scores.

    Attributes:
        good, bad: prompts of either side.
        texts: plain texts, if the run has any.
    """

    good: Sequence[Prompt]
    bad: Sequence[Prompt]
    texts: Sequence[Prompt] = ()

    def of(self, side: Side) -> Sequence[Prompt]:
        """Return the prompts of a side; of both, the bad prompts first."""
        return {"good": self.good, "bad": self.bad, "both": [*self.bad, *self.good]}[side]


class Scorer(ABC):
    """Common interface of all scorers; instances may set their own `name`.

    Attributes:
        name: name of the score.
        direction: direction in which the score improves.
        side: prompts that are scored.
        needs_same_tokens: whether models can be compared only if they have the same tokens.
    """

    name: str
    direction: Direction = "minimize"
    side: Side = "bad"
    needs_same_tokens: ClassVar[bool] = False

    def span(self, original: float, n_prompts: int, max_kl: float) -> ScoreRange:
        """Return the best and the worst value, for trial selection.

        Args:
            original: value of the original model.
            n_prompts: number of prompts, equal to the number of details.
            max_kl: divergence in nats that counts as the worst.

        The original's value is the worst. The best is twice that value for a score to be maximized;
        for one to be minimized it is 0, or twice that value if it is negative.
        """
        scale = abs(original) or 1.0
        if self.direction == "maximize":
            return ScoreRange(original + scale, original)
        return ScoreRange(0.0 if original > 0 else original - scale, original)


class AnswerScorer(Scorer):
    """Judge each answer to the prompts of one side by its text.

    Attributes:
        counts: whether verdicts are yes (1) or no (0); the score is then the number of yes
            verdicts, otherwise the mean verdict.
        settled_by: returns whether the beginning of an answer already determines its verdict, so
            that the rest need not be generated; None if it never does.
        verdict: name of the per-prompt verdict in `answers.jsonl`, for columns of every held-out
            table.
    """

    counts: bool = True
    verdict: str | None = None
    settled_by: Callable[[str], bool] | None = None

    @abstractmethod
    def judge(self, prompt: Prompt, answer: str) -> float:
        """Judge one answer; it may be truncated if `settled_by` returned True."""

    def judge_all(self, prompts: Sequence[Prompt], answers: Sequence[str]) -> list[float]:
        """Judge several answers; override if batches are faster."""
        pairs = zip(prompts, answers, strict=True)
        return [float(self.judge(prompt, answer)) for prompt, answer in pairs]

    def applies(self, prompts: Sequence[Prompt]) -> bool:
        """Return whether these prompts have the data required by the scorer."""
        return True

    def score(self, prompts: Sequence[Prompt], answers: Sequence[str]) -> Score:
        """Return the score of some answers."""
        details = self.judge_all(prompts, answers)
        return Score.of(self.name, self.direction, details, counts=self.counts)

    def span(self, original: float, n_prompts: int, max_kl: float) -> ScoreRange:
        """Return the span of a count: from no prompt to all of them."""
        if not self.counts:
            return super().span(original, n_prompts, max_kl)
        ends = (0.0, float(n_prompts))
        return ScoreRange(*ends) if self.direction != "maximize" else ScoreRange(*reversed(ends))


@dataclass(frozen=True)
class FirstTokens:
    """Predictions of the first response token of some prompts.

    Attributes:
        logits: [n, vocabulary], up to a constant per prompt.
        original: log-probabilities of the original model [n, vocabulary], float32; None unless a
            scorer of these prompts has `compares`.
        normalized: whether `logits` are log-probabilities.
    """

    logits: Tensor
    original: Tensor | None = None
    normalized: bool = False

    @cached_property
    def log_probabilities(self) -> Tensor:
        """Log-probabilities [n, vocabulary], float32."""
        return self.logits if self.normalized else log_softmax(self.logits.float(), dim=-1)


# Values of some prompts [n], from the predictions of a model's current state.
FirstTokenMeasure = Callable[[FirstTokens], Tensor]
LikeliestTokens = Callable[[Side], Sequence[int]]


class FirstTokenScorer(Scorer):
    """Base class of scorers of the first response token, which need no passes of their own.

    Attributes:
        compares: whether the measure reads `FirstTokens.original`.
    """

    needs_same_tokens: ClassVar[bool] = True
    compares: ClassVar[bool] = False

    @abstractmethod
    def prepare(self, likeliest: LikeliestTokens) -> FirstTokenMeasure | None:
        """Return the measure of later states; None if these prompts do not allow one.

        Args:
            likeliest: returns the original's most likely first response token of each prompt of a
                side, `good` or `bad`.
        """

    def score(self, values: Tensor) -> Score:
        """Return the score of all prompts from their values [n]."""
        return Score.of(self.name, self.direction, values.tolist(), counts=False)


# Values of a model's current state, one per prompt or text.
Measure = Callable[[Model], Sequence[float]]


class ModelScorer(Scorer):
    """Base class of scorers that measure a model by their own forward passes.

    Attributes:
        needs_texts: whether it reads `ScoredPrompts.texts`.
    """

    side: Side = "good"
    needs_texts: ClassVar[bool] = False

    @abstractmethod
    def prepare(self, model: Model, prompts: ScoredPrompts) -> Measure:
        """Record the reference for later states.

        Args:
            model: model in its original state. The measure is called with the same model in another
                state, or with another model.
            prompts: prompts to measure on.
        """

    def score(self, measure: Measure, model: Model) -> Score:
        """Return the score of a model's current state."""
        return Score.of(self.name, self.direction, measure(model), counts=False)


def finite_or_none(value: float | None) -> float | None:
    """Return a value supported by JSON and Optuna."""
    return value if value is not None and math.isfinite(value) else None


def require_side(side: str, name: str) -> Side:
    """Return the side named by a scorer's setting.

    Raises:
        SettingsError: it is not a side.
    """
    if side not in get_args(Side):
        raise SettingsError(f"scorer {name}: side must be {SIDES}, not {side!r}")
    return cast(Side, side)
