"""95% intervals for rates and means."""

from collections.abc import Sequence

import numpy as np

from heretic.errors import HereticError

Z_95 = 1.959963984540054


def wilson_interval(count: int, total: int) -> tuple[float, float]:
    """Compute the Wilson score interval of a proportion (Wilson 1927).

    Raises:
        HereticError: there is nothing to count.
    """
    if total <= 0:
        raise HereticError("computing a rate needs at least one answer; use a larger prompt set")
    rate, z = count / total, Z_95
    spread = 1 + z * z / total
    centre = (rate + z * z / (2 * total)) / spread
    half = z / spread * float(np.sqrt(rate * (1 - rate) / total + z * z / (4 * total * total)))
    # At the ends the formula is exact but its floating-point value is not.
    low = 0.0 if count == 0 else max(0.0, centre - half)
    high = 1.0 if count == total else min(1.0, centre + half)
    return low, high


def bootstrap_interval(values: Sequence[float], samples: int, seed: int) -> tuple[float, float]:
    """Compute the percentile bootstrap interval of the mean (Efron 1979) over `samples` resamples.

    Raises:
        HereticError: there are no values.
    """
    if not values:
        raise HereticError("computing a mean needs at least one value; use a larger prompt set")
    data = np.asarray(values, dtype=np.float64)
    draws = np.random.default_rng(seed).integers(0, len(data), size=(samples, len(data)))
    low, high = np.quantile(data[draws].mean(axis=1), [0.025, 0.975])
    return float(low), float(high)
