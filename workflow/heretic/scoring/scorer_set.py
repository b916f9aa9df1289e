"""Scores of a study or a report, and the creation of scorers from settings."""

import importlib.util
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from inspect import isclass
from pathlib import Path
from typing import Any, get_args

from heretic.errors import HereticError, SettingsError, one_line
from heretic.metrics import KL, LOG_ODDS, ScoreRange
from heretic.scoring.answers import (
    Degenerate,
    Phrases,
    Refusals,
    Right,
    Unanswered,
    Words,
)
from heretic.scoring.base import (
    AnswerScorer,
    Direction,
    ModelScorer,
    Score,
    ScoredPrompts,
    Scorer,
    Side,
)
from heretic.scoring.judge import Judge
from heretic.scoring.model_scorers import Perplexity, TeacherForcedKl
from heretic.scoring.refusal_markers import CORE, RefusalMarkers

# Columns of trials.csv and keys of the held-out table.
RESERVED = (
    *("trial", "state", "pareto", "seconds", "total", "scores"),
    *("direction_scope", "direction_index", "edited", "embed_weight"),
)
RESERVED_BEGINNINGS = ("seconds_", "attn_", "mlp_")
BUILT_IN: dict[str, type[Scorer]] = {
    "kl_teacher_forced": TeacherForcedKl,
    "perplexity": Perplexity,
    "judge": Judge,
    "phrases": Phrases,
    "words": Words,
}


@dataclass(frozen=True)
class ScorerSet:
    """Scorers of answers and of forward passes.

    Attributes:
        markers: refusal markers.
        always: scorers of answers in every set, in the order of their scores.
        further: scorers of answers named in the settings.
        passes: scorers with their own passes, named in the settings.
    """

    markers: RefusalMarkers
    always: tuple[AnswerScorer, ...]
    further: tuple[AnswerScorer, ...] = ()
    passes: tuple[ModelScorer, ...] = ()

    @property
    def answers(self) -> tuple[AnswerScorer, ...]:
        """All scorers of answers."""
        return self.always + self.further

    def settled(self, answer: str) -> bool:
        """Return whether no scorer's verdict depends on the rest of an answer."""
        return all(tells is not None and tells(answer) for tells in self._tells)

    @cached_property
    def _tells(self) -> set[Any]:
        """Return the distinct functions that decide this, as they are called very often."""
        return {scorer.settled_by for scorer in self.answers}

    def names(self, prompts: ScoredPrompts) -> list[str]:
        """Names of all scores, including those of the first token."""
        answered = [scorer.name for scorer in self.of_these(prompts)]
        return [KL, *answered, LOG_ODDS, *(scorer.name for scorer in self.passes)]

    def of_these(self, prompts: ScoredPrompts) -> list[AnswerScorer]:
        """Return the scorers of answers that are applicable to the prompts."""
        return [s for s in self.answers if s.applies(_of_side(s.side, prompts))]

    def judge(
        self, prompts: ScoredPrompts, good_answers: Sequence[str], bad_answers: Sequence[str]
    ) -> dict[str, Score]:
        """Return the scores of the answers to all prompts of both sides, by name."""
        answers: Mapping[Side, Sequence[str]] = {"good": good_answers, "bad": bad_answers}
        return {
            scorer.name: scorer.score(_of_side(scorer.side, prompts), answers[scorer.side])
            for scorer in self.of_these(prompts)
        }

    def direction(self, name: str) -> Direction:
        """Return the direction in which a score improves.

        Raises:
            SettingsError: the score does not exist.
        """
        if name in (KL, LOG_ODDS):
            return "minimize"
        return self._named(name).direction

    def span(self, name: str, original: float, max_kl: float, prompts: ScoredPrompts) -> ScoreRange:
        """Return the best and the worst value of a score.

        Args:
            name: name of the score.
            original: value of the original model.
            max_kl: divergence in nats that counts as the worst.
            prompts: prompts that are scored.
        """
        if name == KL:
            return ScoreRange(0.0, max_kl)
        if name == LOG_ODDS:
            # As sure of compliance as the original is of refusal, at least 2 nats better.
            return ScoreRange(original - 2.0 * max(abs(original), 1.0), original)
        scorer = self._named(name)
        if isinstance(scorer, TeacherForcedKl):
            return ScoreRange(0.0, max_kl)
        side = scorer.side if isinstance(scorer, AnswerScorer) else "good"
        return scorer.span(original, len(_of_side(side, prompts)))

    @property
    def needs_texts(self) -> tuple[str, ...]:
        """Names of the scores that need plain texts."""
        return tuple(scorer.name for scorer in self.passes if scorer.needs_texts)

    def _named(self, name: str) -> Scorer:
        scorers: dict[str, Scorer] = {s.name: s for s in (*self.answers, *self.passes)}
        if name not in scorers:
            known = ", ".join([KL, *scorers, LOG_ODDS])
            raise SettingsError(
                f"there is no score {name!r}; available: {known}, plus those defined in `scorers`"
            )
        return scorers[name]


def _of_side(side: Side, prompts: ScoredPrompts) -> Sequence[Any]:
    return prompts.bad if side == "bad" else prompts.good


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
    always: list[AnswerScorer] = [
        Refusals(markers, "refusals"),
        Degenerate(markers, "degenerate"),
        Unanswered(markers, "unanswered"),
        Refusals(markers, "false_refusals", "good"),
        Right(markers, "recovered", "bad"),
        Right(markers, "kept", "good"),
    ]
    further = [make_scorer(**instance) for instance in scorers]
    for scorer in further:
        if scorer.name in RESERVED or scorer.name.startswith(RESERVED_BEGINNINGS):
            raise SettingsError(
                f"a score cannot be named {scorer.name}, which is the name of a column of the "
                "tables; set another `name` in its settings"
            )
    names = [KL, LOG_ODDS, *(scorer.name for scorer in (*always, *further))]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise SettingsError(
            f"two scorers are named {twice[0]}; set another `name` for one of them in its settings"
        )
    return ScorerSet(
        markers,
        tuple(always),
        tuple(s for s in further if isinstance(s, AnswerScorer)),
        tuple(s for s in further if isinstance(s, ModelScorer)),
    )


def make_scorer(scorer: str, name: str | None, settings: Mapping[str, Any]) -> Scorer:
    """Create an instance of a scorer.

    Raises:
        SettingsError: the scorer does not exist, or its settings are invalid.
        ModelLoadError: a judge's model does not exist.
    """
    given = dict(settings) if name is None else {**settings, "name": name}
    try:
        made = _class_of(scorer)(**given)
        known = [made.direction in get_args(Direction)]
        known += [made.side in get_args(Side)] if isinstance(made, AnswerScorer) else []
        own_name = getattr(made, "name", None)
    except HereticError:
        raise
    # User code may raise anything, and SystemExit would end the run silently.
    except (Exception, SystemExit) as error:
        raise SettingsError(
            f"scorer {one_line(scorer)}: {_what(error, with_kind=False)}; see its settings"
        ) from error
    if not all(known):
        raise SettingsError(
            f"scorer {scorer}: direction must be minimize, maximize or none, and side must be bad "
            "or good; fix the class"
        )
    if not isinstance(own_name, str) or not own_name.isidentifier():
        raise SettingsError(f"scorer {scorer} needs a `name` of letters, digits and underscores")
    return made


def _class_of(scorer: str) -> type[Scorer]:
    if scorer in BUILT_IN:
        return BUILT_IN[scorer]
    file, _, name = scorer.rpartition(":")
    path = Path(file)
    # Unlike Path.is_file(), os.path.isfile() returns False for names that are too long.
    if path.suffix != ".py" or not os.path.isfile(path):  # noqa: PTH113
        raise SettingsError(
            f"there is no scorer {one_line(repr(scorer))}; use one of {', '.join(BUILT_IN)}, or a "
            "class in an existing file, such as path/to/file.py:Class"
        )
    found = getattr(_module(path), name, None)
    if not isclass(found) or not issubclass(found, AnswerScorer | ModelScorer):
        raise SettingsError(
            f"{path} has no class {name!r} that extends AnswerScorer or ModelScorer of "
            "heretic.scoring"
        )
    return found


def _module(path: Path) -> Any:
    """Import the user's module; report any error as a one-line message."""
    name = f"heretic_scorer_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path.resolve())
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # required by dataclasses
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        raise SettingsError(
            f"{path} cannot be imported ({_what(error, with_kind=True)}); fix the file"
        ) from error
    return module


def _what(error: BaseException, *, with_kind: bool) -> str:
    """Return an error of the user's code as a one-line message."""
    if isinstance(error, SystemExit):
        return f"it exits with status {one_line(repr(error.code))}"
    return f"{type(error).__name__}: {one_line(error)}" if with_kind else one_line(error)
