"""Intervals of rates and means: against published values, and what must hold of any interval."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from heretic.errors import HereticError
from heretic.evaluation.intervals import mean_with_interval, rate


def wilson_interval(count: int, total: int) -> tuple[float, float]:
    low, high = rate([True] * count + [False] * (total - count))["interval"]
    return low, high


def bootstrap_interval(values: list[float], samples: int, seed: int) -> tuple[float, float]:
    low, high = mean_with_interval(values, samples, seed)["interval"]
    return low, high


@pytest.mark.parametrize(
    ("count", "total", "low", "high"),
    [
        # Newcombe (1998), Statistics in Medicine 17:857, table I, method 3.
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0000, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_published_values(count: int, total: int, low: float, high: float) -> None:
    assert wilson_interval(count, total) == pytest.approx((low, high), abs=5e-5)


@settings(deadline=None)
@given(st.integers(1, 3000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_it_contains_the_rate_lies_in_the_unit_interval_and_is_symmetric(
    case: tuple[int, int],
) -> None:
    count, total = case
    low, high = wilson_interval(count, total)
    assert 0 <= low <= count / total <= high <= 1
    assert low < high
    mirrored = wilson_interval(total - count, total)
    assert mirrored == pytest.approx((1 - high, 1 - low), abs=1e-12)
    wider = wilson_interval(count, total)
    narrower = wilson_interval(10 * count, 10 * total)
    assert narrower[1] - narrower[0] < wider[1] - wider[0]


@given(st.integers(1, 500))
def test_the_ends_are_exact(total: int) -> None:
    assert wilson_interval(0, total)[0] == 0.0
    assert wilson_interval(total, total)[1] == 1.0


def test_a_single_value_is_its_own_interval() -> None:
    assert bootstrap_interval([0.5], 100, 0) == (0.5, 0.5)


def test_nothing_to_count() -> None:
    with pytest.raises(HereticError, match="at least one answer"):
        wilson_interval(0, 0)
    with pytest.raises(HereticError, match="at least one value"):
        bootstrap_interval([], 100, 0)


def test_the_bootstrap_covers_the_true_mean_about_as_often_as_it_says() -> None:
    generator = np.random.default_rng(0)
    covered = 0
    for trial in range(300):
        sample = generator.exponential(1.0, size=80)
        low, high = bootstrap_interval(list(sample), 300, trial)
        covered += low <= 1.0 <= high
    assert 0.88 <= covered / 300 <= 0.98


def test_the_bootstrap_is_about_the_normal_interval_and_repeats() -> None:
    values = list(np.random.default_rng(1).normal(5, 2, size=400))
    low, high = bootstrap_interval(values, 4000, 7)
    mean, spread = np.mean(values), 1.96 * np.std(values) / math.sqrt(len(values))
    assert (low, high) == pytest.approx((mean - spread, mean + spread), abs=0.02)
    assert bootstrap_interval(values, 4000, 7) == (low, high)
    assert bootstrap_interval(values, 4000, 8) != (low, high)
    assert bootstrap_interval([0.25] * 9, 100, 0) == (0.25, 0.25)
