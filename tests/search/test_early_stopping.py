"""A search ends when nothing is gained any more, at the same trial however it got there."""

import logging
from pathlib import Path

import pytest

from heretic.ablation.parameters import AblationParameters
from heretic.search.early_stopping import EarlyStopping
from heretic.search.records import TrialRecord
from heretic.search.status import read_search, search_table
from search.small_search import objectives_of, search, small_loop
from search.test_pending import FIRST_IS_STORED, cut_off, run
from search.test_study import told

N = 16
SCALES = objectives_of(1.0, 1000)
NOTHING = AblationParameters("per_layer", None, {})


def record(number: int, kl: float, unanswered: int | None) -> TrialRecord:
    scores = {"kl_first_token": kl, "unanswered": unanswered}
    return TrialRecord(number, NOTHING, {}, scores, unanswered is not None, 1.0)


def end(unanswered: list[int | None], patience: int, startup: int = 2) -> int | None:
    """Where a search ends whose trials differ in what they leave unanswered."""
    records = [record(n, 0.5, count) for n, count in enumerate(unanswered)]
    return EarlyStopping(patience, startup, SCALES).end(records)


@pytest.mark.parametrize(
    ("unanswered", "patience", "ended"),
    [
        ([500] * 9, 0, None),
        ([500] * 9, 3, 5),  # two startup trials, and three without a gain
        ([500] * 4, 3, None),
        ([500] * 5, 3, 5),
        ([500, 500, 500, 400, 400, 400, 400, 400], 3, 7),
        ([500, 500, 500, 500, 400, 400, 400, 400], 3, 8),  # just in time
        ([500, 500, 500, 500, 500, 400, 400, 400], 3, 5),  # too late
        ([500, 499, 498, 497, 496, 495], 1, None),  # each gain is of 1 in 500, or more than 1e-3
        ([None, None, 500, None, None, None], 3, 6),  # an infeasible trial gains nothing
        ([None] * 9, 3, None),  # nothing to choose yet
        ([1000] * 9, 3, None),  # no better than the original
        ([1000] * 7 + [500] * 4, 3, 11),
    ],
)
def test_ends_after_as_many_trials_without_a_gain(
    unanswered: list[int | None], patience: int, ended: int | None
) -> None:
    assert end(unanswered, patience) == ended
    if ended is not None:
        # What comes later does not matter.
        assert end(unanswered[:ended], patience) == ended
        assert end(unanswered[: ended - 1], patience) is None
        assert end([*unanswered[:ended], 0, 0, 0], patience) == ended


def test_a_gain_below_a_thousandth_is_none_but_several_add_up() -> None:
    def ended(step: float) -> int | None:
        kls = [0.5 - step * n for n in range(9)]
        records = [record(n, kl, 500) for n, kl in enumerate(kls)]
        return EarlyStopping(4, 1, SCALES).end(records)

    assert ended(0.0001) == 5  # four gains of 0.0002 in 1
    assert ended(0.0002) is None  # the third gain of 0.0004 makes it


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> list[TrialRecord]:
    """A search without patience."""
    return search(tmp_path_factory.mktemp("whole") / "study.db", N, max_kl=5.0)


def expected(whole: list[TrialRecord], patience: int) -> int:
    ended = EarlyStopping(patience, 3, objectives_of(5.0, 2)).end(whole)
    assert ended is not None
    assert 3 + patience <= ended < N
    return ended


def test_a_search_ends_early_and_stays_ended(
    tmp_path: Path, whole: list[TrialRecord], caplog: pytest.LogCaptureFixture
) -> None:
    database, ended = tmp_path / "study.db", expected(whole, 2)
    with caplog.at_level(logging.INFO, logger="heretic"):
        records = search(database, N, max_kl=5.0, patience=2)
    assert told(records) == told(whole[:ended])
    assert f"no improvement in the last 2 of {ended} trials" in caplog.text
    assert f"{ended} of {ended} trials complete, 0 running" in search_table(read_search(database))
    assert search(database, N, max_kl=5.0, patience=2) == records
    assert len(read_search(database).records) == ended
    # A search of fewer trials has not come to that.
    assert search(database, 4, max_kl=5.0, patience=2) == records[:4]


def test_more_patience_goes_on_where_it_ended(tmp_path: Path, whole: list[TrialRecord]) -> None:
    database = tmp_path / "study.db"
    search(database, N, max_kl=5.0, patience=2)
    longer = expected(whole, 5)
    assert told(search(database, N, max_kl=5.0, patience=5)) == told(whole[:longer])
    assert told(search(database, N, max_kl=5.0)) == told(whole)
    # Less patience again: the first trials are those of before, and none is lost.
    assert told(search(database, N, max_kl=5.0, patience=2)) == told(whole[: expected(whole, 2)])
    assert len(read_search(database).records) == N


def test_of_trials_in_flight_those_after_the_end_are_kept(tmp_path: Path) -> None:
    options = {"max_kl": 5.0, "in_flight": 4}
    whole = search(tmp_path / "whole.db", N, **options)
    ended = next(
        (p, end) for p in range(1, 12)
        if (end := EarlyStopping(p, 3, objectives_of(5.0, 2)).end(whole)) and end % 4
    )  # fmt: skip
    patience, count = ended
    database, loop = tmp_path / "study.db", small_loop(max_kl=5.0, in_flight=4, patience=patience)
    with cut_off(FIRST_IS_STORED + 1):
        run(database, loop, N)
    assert told(run(database, loop, N)) == told(whole[:count])
    stored = len(read_search(database).records)
    assert stored == -(-count // 4) * 4
    assert told(search(database, N, **options)) == told(whole)
