"""Scorers of a study or a held-out table."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from heretic.errors import SettingsError
from heretic.metrics import ScoreRange
from heretic.scorer_registry import BUILT_IN, Side, holdout_scorers, trial_scorers
from heretic.scoring.base import (
    AnswerScorer,
    Direction,
    FirstTokenScorer,
    ModelScorer,
    Score,
    ScoredPrompts,
    Scorer,
)
from heretic.scoring.creation import make_built_in, make_scorer
from heretic.scoring.refusal_markers import CORE, RefusalMarkers

# Columns of trials.csv and keys of the held-out table.
RESERVED = (
    *("trial", "state", "pareto", "seconds", "total", "scores", "quantization", "full_precision"),
    *("direction_scope", "direction_index", "edited", "embed_weight"),
)
RESERVED_BEGINNINGS = ("seconds_", "attn_", "mlp_")


@dataclass(frozen=True)
class ScorerSet:
    """Scorers of trials, or of models in general.

    Attributes:
        markers: refusal markers.
        standard: built-in scorers of every set, in the order of the registry.
        further: scorers requested in the settings.
    """

    markers: RefusalMarkers
    standard: tuple[Scorer, ...]
    further: tuple[Scorer, ...] = ()

    @property
    def all(self) -> tuple[Scorer, ...]:
        """All scorers."""
        return self.standard + self.further

    @cached_property
    def answers(self) -> tuple[AnswerScorer, ...]:
        """Scorers of answers."""
        return tuple(scorer for scorer in self.all if isinstance(scorer, AnswerScorer))

    @cached_property
    def first_tokens(self) -> tuple[FirstTokenScorer, ...]:
        """Scorers of the first response token."""
        return tuple(scorer for scorer in self.all if isinstance(scorer, FirstTokenScorer))

    @cached_property
    def passes(self) -> tuple[ModelScorer, ...]:
        """Scorers with their own passes."""
        return tuple(scorer for scorer in self.all if isinstance(scorer, ModelScorer))

    def settled(self, answer: str) -> bool:
        """Return whether no scorer's verdict depends on the rest of an answer."""
        return all(tells is not None and tells(answer) for tells in self._tells)

    @cached_property
    def _tells(self) -> set[Any]:
        """Return the distinct functions that decide this, as they are called very often."""
        return {scorer.settled_by for scorer in self.answers}

    def names(self, prompts: ScoredPrompts) -> list[str]:
        """Return the names of all scores of trials, in the order of their columns."""
        of_good = [scorer for scorer in self.first_tokens if scorer.side == "good"]
        others = [scorer for scorer in self.first_tokens if scorer.side != "good"]
        ordered = [*of_good, *self.applicable(prompts), *others, *self.passes]
        return [scorer.name for scorer in ordered]

    def applicable(self, prompts: ScoredPrompts) -> list[AnswerScorer]:
        """Return the scorers of answers that are applicable to the prompts."""
        return [scorer for scorer in self.answers if scorer.applies(prompts.of(scorer.side))]

    def judge(
        self, prompts: ScoredPrompts, good_answers: Sequence[str], bad_answers: Sequence[str]
    ) -> dict[str, Score]:
        """Return the scores of the answers to all prompts of both sides, by name."""
        answers: dict[Side, Sequence[str]] = {
            "good": good_answers,
            "bad": bad_answers,
            "both": [*bad_answers, *good_answers],
        }
        return {
            scorer.name: scorer.score(prompts.of(scorer.side), answers[scorer.side])
            for scorer in self.applicable(prompts)
        }

    def direction(self, name: str) -> Direction:
        """Return the direction in which a score improves.

        Raises:
            SettingsError: the score does not exist.
        """
        return self._named(name).direction

    def span(self, name: str, original: float, max_kl: float, prompts: ScoredPrompts) -> ScoreRange:
        """Return the best and the worst value of a score.

        Args:
            name: name of the score.
            original: value of the original model.
            max_kl: divergence in nats that counts as the worst.
            prompts: prompts that are scored.
        """
        scorer = self._named(name)
        return scorer.span(original, len(prompts.of(scorer.side)), max_kl)

    @property
    def needs_texts(self) -> tuple[str, ...]:
        """Names of the scores that need plain texts."""
        return tuple(scorer.name for scorer in self.passes if scorer.needs_texts)

    def _named(self, name: str) -> Scorer:
        scorers = {scorer.name: scorer for scorer in self.all}
        if name not in scorers:
            raise SettingsError(
                f"there is no score {name!r}; available: {', '.join(scorers)}, plus those defined "
                "in `scorers`"
            )
        return scorers[name]


def make_scorer_set(
    refusal_markers: Sequence[str] = (CORE,), scorers: Sequence[Mapping[str, Any]] = ()
) -> ScorerSet:
    """Create the scorers of every study, and additional ones.

    Args:
        refusal_markers: names of sets, or phrases.
        scorers: mappings with the keys `scorer` (a built-in name, or `path/to/file.py:Class`),
            `name` (may be None), and `settings`, the arguments of the class.

    Raises:
        SettingsError: a scorer does not exist, its settings are invalid, or two share a name.
        ModelLoadError: a judge's model does not exist.
    """
    markers = RefusalMarkers(refusal_markers)
    known = {"refusal_markers": markers}
    standard = [make_built_in(name, known, {}) for name in trial_scorers()]
    further = [make_scorer(**instance) for instance in scorers]
    for scorer in further:
        if scorer.name in RESERVED or scorer.name.startswith(RESERVED_BEGINNINGS):
            raise SettingsError(
                f"a score cannot be named {scorer.name}, which is the name of a column of the "
                "tables; set another `name` in its settings"
            )
    names = [scorer.name for scorer in (*standard, *further)]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise SettingsError(
            f"two scorers are named {twice[0]}; set another `name` for one of them in its settings"
        )
    return ScorerSet(markers, tuple(standard), tuple(further))


def make_holdout_scorers(settings: Mapping[str, Any]) -> list[Scorer]:
    """Create the scorers of every held-out table, in the order of its columns.

    Args:
        settings: values of the settings that are arguments of scorers, by name.
    """
    columns = {name: BUILT_IN[name].column for name in holdout_scorers()}
    return [
        make_built_in(name, settings, column.arguments)
        for name, column in columns.items()
        if column is not None
    ]
