"""Fronts drawn by hand: who the finalists are, and which one their new scores put first."""

from collections.abc import Mapping

import pytest

from heretic.ablation.parameters import AblationParameters
from heretic.artifact_types import FinalistsFile
from heretic.errors import StudyError
from heretic.search.finalists import (
    Finalist,
    Finalists,
    SelectionRule,
    choose_finalist,
    score_finalists,
)
from heretic.search.records import TrialRecord
from search.small_search import objectives_of

Point = tuple[float, int | None]
NOTHING = AblationParameters("per_layer", None, {})
OVERFLOWED: Point = (1e6, None)
# A front with a knee at 3; trial 9 is dominated, 8 is a twin of 3, and 7 is infeasible.
SEARCHED: dict[int, Point] = {
    5: (0.90, 0), 9: (0.50, 50), 3: (0.05, 10), 8: (0.05, 10), 1: (0.00, 100), 2: (0.01, 60),
    4: (0.40, 6), 7: (1.50, None),
}  # fmt: skip


def scores_of(point: Point) -> dict[str, float | int | None]:
    kl, unanswered = point
    return {
        "kl_first_token": kl,
        "refusals": unanswered,
        "degenerate": 0 if unanswered is not None else None,
        "unanswered": unanswered,
        "false_refusals": 0 if unanswered is not None else None,
    }


def records(points: Mapping[int, Point] = SEARCHED) -> list[TrialRecord]:
    return [
        TrialRecord(number, NOTHING, {}, scores_of(point), point[1] is not None, 1.0)
        for number, point in points.items()
    ]


def choice(rule: str, max_kl: float = 0.1) -> SelectionRule:
    return SelectionRule(rule, max_kl, objectives_of(1.0, 100))


def again(record: TrialRecord, point: Point | None) -> Finalist:
    """A trial that scores something else, or the same, on its exported weights."""
    found = record.scores if point is None else scores_of(point)
    return Finalist(record.number, found, record.scores, found["unanswered"] is not None)


def finals(rule: str, changed: Mapping[int, Point], n: int = 3, max_kl: float = 0.1) -> Finalists:
    found = score_finalists(
        records(), choice(rule, max_kl), n, lambda record: again(record, changed.get(record.number))
    )
    return Finalists(tuple(found), rescored=True)


def numbers(found: Finalists) -> list[int]:
    return [finalist.trial for finalist in found.finalists]


def chosen(rule: str, changed: Mapping[int, Point], n: int = 3, max_kl: float = 0.1) -> int:
    found = finals(rule, changed, n, max_kl)
    trial, finalist, reason = choose_finalist(records(), found, choice(rule, max_kl))
    assert trial.number == finalist.trial
    assert trial.scores == finalist.search_scores == scores_of(SEARCHED[trial.number])
    assert reason.startswith(f"{rule}:")
    return trial.number


@pytest.mark.parametrize(
    ("rule", "n", "wanted"),
    [
        ("closest", 1, [3]),
        ("closest", 3, [3, 8, 4]),  # of twins the earliest, then the other one
        ("closest", 9, [3, 8, 4, 2, 9, 5, 1]),  # never the infeasible one
        ("knee", 2, [3, 8]),
        ("min_refusals_under_kl", 9, [3, 8, 2, 1]),  # no others are under 0.1
        ("trial=9", 3, [9]),
    ],
)
def test_finalists_are_the_best_by_the_rule(rule: str, n: int, wanted: list[int]) -> None:
    assert numbers(finals(rule, {}, n)) == wanted


@pytest.mark.parametrize("rule", ["closest", "knee", "min_refusals_under_kl", "trial=9"])
@pytest.mark.parametrize("n", [1, 2, 3, 7])
def test_scores_that_stay_choose_what_the_search_chose(rule: str, n: int) -> None:
    """Also a knee, which depends on the ends of the whole front and not on the finalists'."""
    assert chosen(rule, {}, n) == next(choice(rule).ranking(records()))[0].number


@pytest.mark.parametrize(
    ("rule", "changed", "wanted"),
    [
        ("closest", {3: (0.3, 30)}, 8),
        ("closest", {3: (0.3, 30), 8: (0.3, 31)}, 4),
        ("closest", {4: (0.01, 1)}, 4),  # the third of the search is the best
        # Trial 2, which is no finalist, is now nearer than all of them, and is not taken.
        ("closest", dict.fromkeys((3, 8, 4), (0.9, 90)) | {4: (0.8, 90)}, 4),
        ("closest", {3: OVERFLOWED}, 8),
        ("knee", {3: (0.9, 90)}, 8),
        ("min_refusals_under_kl", {3: (0.100001, 10)}, 8),
        ("min_refusals_under_kl", {8: (0.05, 9)}, 8),
    ],
)
def test_new_scores_decide(rule: str, changed: dict[int, Point], wanted: int) -> None:
    assert chosen(rule, changed) == wanted


def test_the_limit_of_kl_holds_for_the_new_scores() -> None:
    """Where no finalist is under it any more, the next ones are scored until one is."""
    changed: dict[int, Point] = {3: (0.11, 10), 8: (0.11, 10)}
    assert numbers(finals("min_refusals_under_kl", changed, 2)) == [3, 8, 2]
    assert chosen("min_refusals_under_kl", changed, 2) == 2
    everywhere: dict[int, Point] = dict.fromkeys(SEARCHED, (0.2, 5))
    assert numbers(finals("min_refusals_under_kl", everywhere, 2)) == [3, 8, 2, 1]
    with pytest.raises(StudyError, match=r"KL of 0\.1 or less"):
        chosen("min_refusals_under_kl", everywhere, 2)


def test_weights_that_predict_no_numbers_are_not_taken() -> None:
    assert chosen("closest", {3: OVERFLOWED, 8: OVERFLOWED}, n=2) == 4
    with pytest.raises(StudyError):
        chosen("trial=9", {9: OVERFLOWED})


@pytest.mark.parametrize("rule", ["closest", "knee", "min_refusals_under_kl", "trial=7"])
def test_nothing_to_choose(rule: str) -> None:
    infeasible = [record for record in records() if not record.feasible]
    with pytest.raises(StudyError, match="no trial is feasible"):
        score_finalists(infeasible, choice(rule), 3, Finalist.of)


def test_the_reason_says_what_happened() -> None:
    def reason(found: Finalists, rule: str = "closest") -> str:
        return choose_finalist(records(), found, choice(rule))[2]

    told = reason(finals("closest", {3: (0.3, 30)}))
    assert told.endswith(
        "; 3 finalists were re-scored on the exported weights, which puts it before trial 3"
    )
    assert reason(finals("closest", {})).endswith("on the exported weights")
    assert "; it was re-scored" in reason(finals("trial=9", {}), "trial=9")
    untouched = Finalists(tuple(Finalist.of(record) for record in records()[:3]), rescored=False)
    assert "scored" not in reason(untouched)


def test_finals_are_read_as_they_were_written() -> None:
    found = finals("closest", {3: OVERFLOWED})
    stored = found.file({}).to_dict()
    assert Finalists.of(FinalistsFile.from_dict(stored, "finalists.json")) == found
