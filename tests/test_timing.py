"""Seconds are charged to the stage that is at work."""

import time

import pytest

from heretic.timing import STAGES, StageTimer, mean_seconds


def test_inner_stages_do_not_count_for_outer_ones() -> None:
    clock = StageTimer()
    started = time.perf_counter()
    with clock.stage("edit"):
        time.sleep(0.01)
        with clock.stage("restore"):
            time.sleep(0.05)
    time.sleep(0.02)
    seconds = clock.read()

    assert list(seconds) == list(STAGES)
    assert sum(seconds.values()) == pytest.approx(time.perf_counter() - started, abs=5e-3)
    assert seconds["restore"] >= 0.05
    assert seconds["overhead"] >= 0.02
    assert 0.01 <= seconds["edit"] < seconds["restore"]
    assert seconds["sampler"] == seconds["prefill"] == seconds["decode"] == 0


def test_a_stage_that_fails_is_closed_and_reading_starts_anew() -> None:
    clock = StageTimer()
    with pytest.raises(ZeroDivisionError), clock.stage("decode"):
        raise ZeroDivisionError
    clock.read()
    time.sleep(0.01)
    assert clock.read()["overhead"] >= 0.01
    assert clock.read()["decode"] == 0


def test_mean_seconds_by_stage() -> None:
    one, other = (dict.fromkeys(STAGES, seconds) for seconds in (1.0, 2.0))
    assert mean_seconds([one, other]) == dict.fromkeys(STAGES, 1.5)
    assert mean_seconds([]) == {}
