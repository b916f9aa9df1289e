"""Held-out prompts, and the protocol by which models are measured on them."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from heretic.prompts.prompt import Prompt
from heretic.scorer_registry import Side
from heretic.scoring.base import AnswerScorer, ScoredPrompts, Scorer
from heretic.scoring.scorer_set import ScorerSet, make_holdout_scorers, make_scorer_set

BAD_SET, GOOD_SET = "bad_holdout_prompts", "good_holdout_prompts"
SIDE_OF_SET: Mapping[str, Side] = {BAD_SET: "bad", GOOD_SET: "good"}


@dataclass(frozen=True)
class HoldoutSets:
    """Two held-out prompt sets, and plain texts for the scores that need them."""

    good: list[Prompt]
    bad: list[Prompt]
    texts: list[Prompt] = field(default_factory=list)

    @property
    def all(self) -> list[Prompt]:
        """Bad prompts followed by good ones."""
        return self.bad + self.good

    @property
    def scored(self) -> ScoredPrompts:
        """The same prompts as scorers take them."""
        return ScoredPrompts(self.good, self.bad, self.texts)

    def indices(self, side: Side) -> range:
        """Return the indices of the prompts of a side among all prompts."""
        n_bad, n_all = len(self.bad), len(self.bad) + len(self.good)
        return {"bad": range(n_bad), "good": range(n_bad, n_all), "both": range(n_all)}[side]


@dataclass(frozen=True)
class HoldoutProtocol:
    """Comparison protocol; fields match the settings of the same names, plus the scorers.

    Attributes:
        scorer_set: scorers of trials, of which those requested in the settings are measured too.
    """

    max_response_length: int
    kl_tokens: int
    bootstrap_samples: int
    seed: int
    scorer_set: ScorerSet = field(default_factory=make_scorer_set, compare=False)

    @classmethod
    def from_settings(cls, settings: Mapping[str, Any]) -> "HoldoutProtocol":
        """Create the protocol and its scorers from the settings, which may include others.

        Raises:
            SettingsError: a scorer cannot be created.
        """
        names = cls.__dataclass_fields__.keys() - {"scorer_set"}
        scorer_set = make_scorer_set(settings["refusal_markers"], settings["scorers"])
        return cls(**{name: settings[name] for name in names}, scorer_set=scorer_set)

    @cached_property
    def columns(self) -> tuple[Scorer, ...]:
        """Scorers of every held-out table, in the order of its columns."""
        names = self.__dataclass_fields__.keys() - {"scorer_set"}
        settings = {name: getattr(self, name) for name in names}
        markers = {"refusal_markers": self.scorer_set.markers}
        return tuple(make_holdout_scorers({**settings, **markers}))

    @property
    def further(self) -> tuple[Scorer, ...]:
        """Scorers requested in the settings, those of answers last."""
        requested = self.scorer_set.further
        return tuple(sorted(requested, key=lambda scorer: isinstance(scorer, AnswerScorer)))
