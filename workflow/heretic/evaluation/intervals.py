"""Rates and means over prompts with 95% intervals."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy.stats import binomtest

from heretic.errors import HereticError


def rate(flags: Sequence[bool]) -> dict[str, Any]:
    """Return the rate of a flag with its 95% Wilson interval (Wilson 1927).

    Raises:
        HereticError: there are no flags.
    """
    count, total = sum(flags), len(flags)
    if not total:
        raise HereticError("a rate needs at least one answer; use a larger prompt set")
    found = binomtest(count, total).proportion_ci(confidence_level=0.95, method="wilson")
    interval = [float(found.low), float(found.high)]
    return {"count": count, "total": total, "rate": count / total, "interval": interval}


def require_finite(values: Sequence[float]) -> None:
    """Reject values that a table cannot contain.

    Raises:
        HereticError: a value is not finite.
    """
    if not all(math.isfinite(value) for value in values):
        raise HereticError(
            "a model produced non-finite logits; choose a weaker edit with `select`, or "
            "dtype=bfloat16 or dtype=float32"
        )


def mean_with_interval(values: Sequence[float], samples: int, seed: int) -> dict[str, Any]:
    """Return the mean and its 95% percentile bootstrap interval (Efron 1979).

    The interval is computed from `samples` resamples.

    Raises:
        HereticError: there are no values, or one is not finite.
    """
    if not values:
        raise HereticError("a mean needs at least one value; use a larger prompt set")
    require_finite(values)
    data = np.asarray(values, dtype=np.float64)
    draws = np.random.default_rng(seed).integers(0, len(data), size=(samples, len(data)))
    interval = np.quantile(data[draws].mean(axis=1), [0.025, 0.975])
    return {"mean": sum(values) / len(values), "interval": interval.tolist()}
