"""Fronts drawn by hand, and which of their trials each rule takes."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from heretic.errors import StudyError
from heretic.search.objectives import Objective
from heretic.search.pareto import (
    Candidate,
    hypervolume,
    nearest,
    pareto_front,
    select,
)
from heretic.search.records import resolution_of


def at(
    number: int, kl: float, unanswered: float, max_kl: float = 1.0, n_bad: int = 100
) -> Candidate:
    """A trial with the default objectives."""
    scores = {"kl_first_token": kl, "unanswered": unanswered}
    return Candidate(number, (kl / max_kl, unanswered / n_bad), scores)


# A front with a knee at 3, a dominated trial 9 and a twin 8 of trial 3.
FRONT = [
    at(1, 0.00, 100),
    at(2, 0.01, 60),
    at(3, 0.05, 10),
    at(4, 0.40, 6),
    at(5, 0.90, 0),
]
ALL = [FRONT[4], at(9, 0.5, 50), FRONT[2], at(8, 0.05, 10), *FRONT[:2], FRONT[3]]

candidates = st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), min_size=1, max_size=12).map(
    lambda pairs: [at(n, kl / 10, count, n_bad=10) for n, (kl, count) in enumerate(pairs)]
)


def chosen(rule: str, among: list[Candidate] | None = None, max_kl: float = 0.1) -> int:
    candidate, reason = select(ALL if among is None else among, rule, max_kl)
    assert reason.startswith(rule)
    return candidate.number


def test_the_front_by_rising_divergence() -> None:
    assert pareto_front(ALL) == FRONT
    assert pareto_front([]) == []


@settings(deadline=None)
@given(candidates)
def test_the_front_is_what_nothing_beats(found: list[Candidate]) -> None:
    def beats(a: Candidate, b: Candidate) -> bool:
        no_worse = all(x <= y for x, y in zip(a.objectives, b.objectives, strict=True))
        same = a.objectives == b.objectives
        return no_worse and (not same or a.number < b.number)

    expected = {c.number for c in found if not any(beats(o, c) for o in found)}
    assert {c.number for c in pareto_front(found)} == expected


@settings(deadline=None)
@given(candidates)
def test_the_best_so_far_is_the_one_that_would_be_taken(found: list[Candidate]) -> None:
    best = None
    for so_far, candidate in enumerate(found, start=1):
        best = nearest([*([best] if best else []), candidate])
        assert best is not None
        assert best.distance() == select(found[:so_far], "closest", 0.1)[0].distance()
        assert best in pareto_front(found[:so_far])
    assert nearest([]) is None


@pytest.mark.parametrize(
    ("points", "volume"),
    [
        ([], 0.0),
        ([(0.0, 100)], 0.0),  # the original
        ([(1.0, 0)], 0.0),  # at the limit of KL
        ([(0.0, 0)], 1.0),
        ([(0.5, 50)], 0.25),
        ([(0.25, 60), (0.5, 20)], 0.75 * 0.4 + 0.5 * 0.4),
        # The same with the original, a twin, and one that is dominated.
        ([(0.5, 20), (0.25, 60), (0.0, 100), (0.5, 20), (0.6, 30)], 0.5),
        ([(0.25, 60), (1.5, 10)], 0.3),  # beyond the limit
        # Columns of 0, 0.4, 0.5, 0.04 and 0.06 in height, from FRONT.
        ([(c.scores["kl_first_token"], c.scores["unanswered"]) for c in FRONT],
         0.99 * 0.4 + 0.95 * 0.5 + 0.6 * 0.04 + 0.1 * 0.06),
    ],
)  # fmt: skip
def test_what_a_front_dominates(points: list[tuple[float, int]], volume: float) -> None:
    found = [at(n, kl, unanswered) for n, (kl, unanswered) in enumerate(points)]
    assert hypervolume(found) == pytest.approx(volume)
    # A third objective in which all are half as good as can be halves it.
    deeper = [Candidate(c.number, (*c.objectives, 0.5)) for c in found]
    assert hypervolume(deeper) == pytest.approx(volume / 2)


@settings(deadline=None)
@given(candidates)
def test_what_a_front_dominates_is_counted_by_cells(found: list[Candidate]) -> None:
    """All objectives are multiples of a tenth and of one of ten prompts."""
    cells = sum(
        any(round(10 * c.objectives[0]) <= x and round(10 * c.objectives[1]) <= y for c in found)
        for x in range(10)
        for y in range(10)
    )
    assert hypervolume(found) == pytest.approx(cells / 100)


@settings(deadline=None)
@given(candidates, st.sampled_from(["closest", "knee"]))
def test_rules_choose_from_the_front_in_any_order(found: list[Candidate], rule: str) -> None:
    first, _ = select(found, rule, 0.1)
    again, _ = select(found[::-1], rule, 0.1)
    assert first == again
    assert first in pareto_front(found)


def test_closest_to_the_origin_in_fixed_scales() -> None:
    assert chosen("closest") == 3
    # Another trial far away at the end of the front does not change what is near.
    assert chosen("closest", [*ALL, at(10, 0.99, -0)]) == 3
    # 0.4 of 0.5 nats and 6 of 100 prompts are farther than 0.05 and 60 of 100.
    for max_kl, number in ((0.5, 2), (2.0, 4)):
        near, _ = select([at(2, 0.05, 60, max_kl), at(4, 0.4, 6, max_kl)], "closest", 0.1)
        assert near.number == number


def test_the_knee_is_farthest_below_the_line_between_the_ends() -> None:
    assert chosen("knee") == 3
    bent_late = [at(0, 0.0, 100), at(1, 0.1, 95), at(2, 0.5, 20), FRONT[4]]
    assert chosen("knee", bent_late) == 2


def test_on_a_straight_front_the_knee_is_the_nearest_and_not_the_original() -> None:
    assert chosen("knee", [FRONT[0], FRONT[4]]) == 5
    assert chosen("knee", [FRONT[0], at(7, 0.45, 50), FRONT[4]]) == 7


@settings(deadline=None)
@given(candidates, st.sampled_from(["closest", "knee"]))
def test_the_order_of_objectives_changes_no_choice(found: list[Candidate], rule: str) -> None:
    turned = [Candidate(c.number, c.objectives[::-1], c.scores) for c in found]
    assert hypervolume(turned) == pytest.approx(hypervolume(found))
    one, other = select(found, rule, 0.1)[0], select(turned, rule, 0.1)[0]
    assert one.distance() == other.distance()


def test_three_objectives() -> None:
    points = [(0.0, 0.5, 1.0), (0.5, 0.0, 0.5), (0.5, 0.5, 0.5), (0.5, 0.5, 0.0), (0.2, 0.2, 0.2)]
    found = [Candidate(n, point) for n, point in enumerate(points)]
    assert [c.number for c in pareto_front(found)] == [0, 4, 1, 3]
    # A cube of 0.8 and what sticks out of it on two sides: slabs of 0.2 x 0.5 x 0.5 each.
    assert hypervolume(found) == pytest.approx(0.512 + 2 * 0.05)
    assert hypervolume(found[4:]) == pytest.approx(0.512)
    assert select(found, "closest", 0.1)[0].number == 4


@pytest.mark.parametrize("rule", ["closest", "knee", "min_refusals_under_kl"])
def test_a_single_trial_is_taken(rule: str) -> None:
    assert chosen(rule, [at(7, 0.05, 10)]) == 7


@pytest.mark.parametrize("rule", ["closest", "knee", "min_refusals_under_kl"])
def test_of_twins_the_earliest_is_taken(rule: str) -> None:
    assert chosen(rule, [at(8, 0.05, 10), at(3, 0.05, 10)]) == 3


def test_fewest_unanswered_under_a_divergence() -> None:
    assert chosen("min_refusals_under_kl") == 3
    assert chosen("min_refusals_under_kl", max_kl=0.05) == 3  # the limit itself is allowed
    assert chosen("min_refusals_under_kl", max_kl=0.4) == 4
    assert chosen("min_refusals_under_kl", max_kl=0.04) == 2


def test_no_trial_under_the_divergence() -> None:
    with pytest.raises(StudyError, match=r"KL of 0\.01 or less \(smallest 0\.050\); raise"):
        select([FRONT[2]], "min_refusals_under_kl", 0.01)


def test_a_trial_by_its_number_on_the_front_or_not() -> None:
    assert chosen("trial=9") == 9
    assert chosen("trial=3") == 3


@pytest.mark.parametrize("rule", ["trial=6", "trial=99"])
def test_an_infeasible_or_missing_trial(rule: str) -> None:
    with pytest.raises(StudyError, match=r"is not a feasible trial; see trials\.csv"):
        select(ALL, rule, 0.1)


@pytest.mark.parametrize("rule", ["closest", "knee", "min_refusals_under_kl", "trial=1"])
def test_no_feasible_trial(rule: str) -> None:
    with pytest.raises(StudyError, match="no trial is feasible; raise max_kl or n_trials"):
        select([], rule, 0.1)


def test_of_trials_as_near_the_surest_is_taken() -> None:
    def sure(number: int, kl: float, odds: float | None) -> Candidate:
        return Candidate(number, (kl, 0.0), {"refusal_log_odds": odds})

    found = [sure(0, 0.002, -3.0), sure(1, 0.004, -6.0), sure(2, 0.006, -9.0), sure(3, 0.3, -15.0)]
    for resolution, number in ((0.0, 0), (0.0025, 1), (0.005, 2)):
        for among in (found, found[::-1]):
            chosen, reason = select(among, "closest", 0.1, resolution)
            assert chosen.number == number
            assert ("the surest" in reason) == (number > 0)
    # What no log-odds are known of is as it was, and other rules do not ask.
    unknown = [sure(0, 0.002, None), sure(1, 0.004, -6.0)]
    assert select(unknown, "closest", 0.1, 0.0025)[0].number == 0
    assert select(found, "knee", 0.1, 0.0025)[0].number == 0
    assert resolution_of(OBJECTIVES) == 0.25 / 64
    assert resolution_of(OBJECTIVES[:1]) == 0.0


OBJECTIVES = [
    Objective("kl_first_token", "minimize", 0.0, 1.0),
    Objective("unanswered", "minimize", 0.0, 64.0),
]
