"""Two models on the same prompts: table rows, paired tests, categories and all answers."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from heretic.evaluation.holdout import (
    BAD_SET,
    GOOD_SET,
    HoldoutProtocol,
    HoldoutSets,
    Measurement,
    summarize,
)
from heretic.evaluation.statistics import paired_tests
from heretic.evaluation.verdicts import AnswerLabels, rate

SETS = (BAD_SET, GOOD_SET)
SAMPLES_PER_SET = 8
SAMPLE_KEYS = (
    *("set", "prompt", "system", "original", "edited"),
    *("refused_before", "refused_after"),
)
# Counts per category of each set: refusals, and correct answers if known.
BY_CATEGORY = {BAD_SET: ("refusals", "recovered"), GOOD_SET: ("false_refusals", "kept")}


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
    before, after = (
        AnswerLabels.of(sets.all, found.answers, protocol.scorer_set.markers)
        for found in (original, edited)
    )
    records = _answer_records(original, edited, before, after, sets)
    table = {
        "original": summarize(original, sets, protocol),
        "edited": summarize(edited, sets, protocol),
        "paired": paired_tests(before.by_measure(len(sets.bad)), after.by_measure(len(sets.bad))),
        "by_category": _by_category(before, after, sets),
        "samples": _samples(records, SAMPLES_PER_SET),
    }
    return SideBySide(table, records)


def _by_category(
    original: AnswerLabels, edited: AnswerLabels, sets: HoldoutSets
) -> dict[str, dict[str, dict[str, dict[str, Any]]]]:
    """Return the counts per category of each set for both models; omit sets without categories.

    Prompts without a category are left out. Categories are sorted by name.
    """
    found = {}
    for name in SETS:
        places = defaultdict(list)
        for index in sets.indices(name):
            places[sets.all[index].category].append(index)
        places.pop(None, None)
        if places:
            found[name] = {
                str(category): {
                    "original": _counts(original, name, places[category]),
                    "edited": _counts(edited, name, places[category]),
                }
                for category in sorted(places, key=str)
            }
    return found


def _counts(verdicts: AnswerLabels, name: str, indices: Sequence[int]) -> dict[str, Any]:
    refusals, rightness = BY_CATEGORY[name]
    counts = {refusals: rate([verdicts.refused[i] for i in indices])}
    right = verdicts.known_right(indices)
    return counts if right is None else {**counts, rightness: rate(right)}


def _answer_records(
    original: Measurement,
    edited: Measurement,
    before: AnswerLabels,
    after: AnswerLabels,
    sets: HoldoutSets,
) -> list[dict[str, Any]]:
    """Return every prompt with both answers and their verdicts.

    Divergences are given for good prompts only; they and the correctness of answers are None if
    unknown.
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
            "refused_before": before.refused[index],
            "refused_after": after.refused[index],
            "degenerate_before": before.degenerate[index],
            "degenerate_after": after.degenerate[index],
            "right_before": before.right[index],
            "right_after": after.right[index],
            "kl_first_token": _of_good(edited.kl_first_token, index, sets),
            "kl_teacher_forced": _of_good(edited.kl_teacher_forced, index, sets),
        }
        for name in SETS
        for index in sets.indices(name)
        for prompt in [sets.all[index]]
    ]


def _of_good(values: Sequence[float] | None, index: int, sets: HoldoutSets) -> float | None:
    place = index - len(sets.bad)
    return None if values is None or place < 0 else values[place]


def _samples(records: Sequence[Mapping[str, Any]], per_set: int) -> list[dict[str, Any]]:
    """Return answers side by side for the first prompts of each set, selected from all records."""
    return [
        {key: record[key] for key in SAMPLE_KEYS}
        for name in SETS
        for record in [record for record in records if record["set"] == name][:per_set]
    ]
