"""Two models compared on the same prompts: table rows, paired tests, categories and all answers."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from heretic.evaluation.holdout import SIDE_OF_SET, HoldoutProtocol, HoldoutSets
from heretic.evaluation.intervals import rate
from heretic.evaluation.measurement import Columns, Measurement
from heretic.evaluation.rows import summarize
from heretic.evaluation.statistics import paired_tests
from heretic.scoring.base import AnswerScorer

SAMPLES_PER_SET = 8
SAMPLE_KEYS = (
    *("set", "prompt", "system", "original", "edited"),
    *("refused_before", "refused_after"),
)


@dataclass(frozen=True)
class SideBySide:
    """Result of a comparison.

    Attributes:
        table: contents of `evaluation.json` without provenance; includes the controls of a run.
        answers: lines of `answers.jsonl`.
    """

    table: dict[str, Any]
    answers: list[dict[str, Any]]


def side_by_side(
    original: Measurement,
    edited: Measurement,
    sets: HoldoutSets,
    protocol: HoldoutProtocol,
) -> SideBySide:
    """Compare two measurements of the same prompts.

    Raises:
        HereticError: a divergence is not finite.
    """
    records = _answer_records(original, edited, sets, protocol)
    table = {
        "original": summarize(original, protocol),
        "edited": summarize(edited, protocol),
        "paired": paired_tests(_flags(original.columns), _flags(edited.columns)),
        "by_category": _by_category(original, edited, sets, protocol),
        "samples": _samples(records, SAMPLES_PER_SET),
    }
    return SideBySide(table, records)


def _flags(columns: Columns) -> dict[str, list[bool]]:
    """Return the verdicts of each column that counts prompts."""
    return {
        name: [detail > 0 for detail in column.score.details]
        for name, column in columns.items()
        if column.complete and column.score.counts
    }


def _by_category(
    original: Measurement, edited: Measurement, sets: HoldoutSets, protocol: HoldoutProtocol
) -> dict[str, dict[str, dict[str, dict[str, Any]]]]:
    """Return the counts per category of each set for both models; omit sets without categories.

    Prompts without a category are left out. Categories are sorted by name.
    """
    found = {}
    for name, side in SIDE_OF_SET.items():
        places = defaultdict(list)
        for index in sets.indices(side):
            places[sets.all[index].category].append(index)
        places.pop(None, None)
        names = [s.name for s in protocol.columns if isinstance(s, AnswerScorer) and s.side == side]
        if places:
            found[name] = {
                str(category): {
                    "original": _counts(original.columns, names, places[category]),
                    "edited": _counts(edited.columns, names, places[category]),
                }
                for category in sorted(places, key=str)
            }
    return found


def _counts(columns: Columns, names: Sequence[str], indices: Sequence[int]) -> dict[str, Any]:
    """Return the rates of some prompts in the columns that count each of them."""
    found = {name: columns[name].details(indices) for name in names if columns[name].score.counts}
    return {
        name: rate([detail > 0 for detail in details])
        for name, details in found.items()
        if details is not None
    }


def _answer_records(
    original: Measurement,
    edited: Measurement,
    sets: HoldoutSets,
    protocol: HoldoutProtocol,
) -> list[dict[str, Any]]:
    """Return every prompt with both answers, their verdicts, and what else is known of it.

    Values are None if unknown, such as divergences for bad prompts.
    """
    return [
        {
            "set": name,
            "prompt": prompt.text,
            "system": prompt.system,
            "category": prompt.category,
            "answers": list(prompt.answers),
            "original": original.answers[index],
            "edited": edited.answers[index],
            **_details(original, edited, index, protocol),
        }
        for name, side in SIDE_OF_SET.items()
        for index in sets.indices(side)
        for prompt in [sets.all[index]]
    ]


def _details(
    original: Measurement, edited: Measurement, index: int, protocol: HoldoutProtocol
) -> dict[str, Any]:
    """Return the verdicts before and after the edit, and the edited model's other details."""
    found: dict[str, Any] = {}
    for scorer in protocol.columns:
        measured = {scorer.name: edited}
        if isinstance(scorer, AnswerScorer):
            label = scorer.verdict or scorer.name
            measured = {f"{label}_before": original, f"{label}_after": edited}
        for key, measurement in measured.items():
            detail = _detail(measurement.columns, scorer.name, index)
            # Columns of either side may have the same verdict.
            found[key] = found.get(key) if detail is None else detail
    return found


def _detail(columns: Columns, name: str, index: int) -> bool | float | None:
    column = columns.get(name)
    details = None if column is None else column.details([index])
    if column is None or details is None:
        return None
    return details[0] > 0 if column.score.counts else details[0]


def _samples(records: Sequence[Mapping[str, Any]], per_set: int) -> list[dict[str, Any]]:
    """Return answers side by side for the first prompts of each set, selected from all records."""
    return [
        {key: record[key] for key in SAMPLE_KEYS}
        for name in SIDE_OF_SET
        for record in [record for record in records if record["set"] == name][:per_set]
    ]
