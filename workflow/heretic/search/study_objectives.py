"""Objectives of a study, selected from the scores of its scorer set."""

from collections.abc import Sequence

from heretic.engine.base import TrialScores
from heretic.errors import SettingsError, StudyError
from heretic.scoring.base import ScoredPrompts
from heretic.scoring.scorer_set import ScorerSet
from heretic.search.objectives import Objective, OptimizationDirection


def directions_of(scorer_set: ScorerSet, names: Sequence[str]) -> dict[str, OptimizationDirection]:
    """Return the direction of each objective by name.

    Raises:
        SettingsError: a score does not exist or is only reported.
    """
    found: dict[str, OptimizationDirection] = {}
    for name in names:
        direction = scorer_set.direction(name)
        if direction == "none":
            raise SettingsError(
                f"{name} is report-only and cannot be an objective; remove it from `objectives`"
            )
        found[name] = direction
    return found


def make_objectives(
    scorer_set: ScorerSet,
    names: Sequence[str],
    prompts: ScoredPrompts,
    original: TrialScores,
    max_kl: float,
) -> list[Objective]:
    """Create the objectives of a study.

    Args:
        scorer_set: scorers of the trials.
        names: names of the scores to optimize.
        prompts: prompts that are scored.
        original: scores of the original model.
        max_kl: divergence in nats that counts as the worst.

    Raises:
        SettingsError: see `directions_of`.
        StudyError: the original model lacks a score because the prompts do not allow it.
    """
    found = []
    for name, direction in directions_of(scorer_set, names).items():
        value = original.get(name)
        if value is None:
            raise StudyError(
                f"the objective {name} cannot be measured on these prompts: right answers need an "
                "answer_column, and refusal_log_odds needs first tokens that distinguish "
                "refusals; set other objectives"
            )
        span = scorer_set.span(name, value, max_kl, prompts)
        found.append(Objective(name, direction, span.best, span.worst))
    return found
