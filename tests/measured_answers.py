"""Measurements of models that are not there: their answers and divergences are given."""

from collections.abc import Mapping, Sequence

from heretic.evaluation.holdout import HoldoutProtocol, HoldoutSets
from heretic.evaluation.measurement import ColumnScore, Measurement, judged
from heretic.scoring import AnswerScorer, Score


def measured(
    sets: HoldoutSets,
    answers: Sequence[str],
    divergences: Mapping[str, Sequence[float]],
    protocol: HoldoutProtocol,
) -> Measurement:
    """Judge answers to all prompts; divergences are those of good prompts, by name."""
    columns = {
        scorer.name: judged(scorer, sets, answers)
        for scorer in protocol.columns
        if isinstance(scorer, AnswerScorer)
    }
    for name, values in divergences.items():
        score = Score.of(name, "minimize", values, counts=False)
        columns[name] = ColumnScore(score, tuple(sets.indices("good")))
    return Measurement([], list(answers), columns, {})
