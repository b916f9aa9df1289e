"""Limits of a trial: which ones it exceeds, in the words that are stored with it."""

import math

import pytest

from heretic.engine.base import FeasibilityLimits


@pytest.mark.parametrize(
    ("limits", "kl", "log_odds", "exceeded"),
    [
        (FeasibilityLimits(0.5), 0.5, None, ""),
        (FeasibilityLimits(0.5), 0.62, None, "max_kl: 0.62 > 0.5"),
        (FeasibilityLimits(0.5), math.nan, None, "max_kl: not finite"),
        (FeasibilityLimits(0.5, -1.0), 0.1, -0.5, "max_refusal_log_odds: -0.5 > -1"),
        (FeasibilityLimits(0.5, -1.0), 0.7, 3.0, "max_kl: 0.7 > 0.5, max_refusal_log_odds: 3 > -1"),
        (FeasibilityLimits(None, None), 99.0, 99.0, ""),
    ],
)
def test_exceeded_limits_are_named(
    limits: FeasibilityLimits, kl: float, log_odds: float | None, exceeded: str
) -> None:
    scores = {"kl_first_token": kl, "refusal_log_odds": log_odds, "refusals": 99.0}
    assert limits.exceeded(scores) == exceeded
    assert limits.allow(scores) is not bool(exceeded)
    # A score that is not measured yet.
    assert limits.allow({}) is True
