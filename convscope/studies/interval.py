"""How sure a mean over photos is: the percentile bootstrap (Efron 1979)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

RESAMPLES = 2000
LEVEL = 0.95


class Estimate(NamedTuple):
    """A mean over so many ``photos`` and the interval that holds 95 % of the resampled means; None of too few."""

    mean: float
    low: float | None
    high: float | None
    photos: int

    def __str__(self) -> str:
        if self.low is None or self.high is None:
            return f"{self.mean:.3g}"
        return f"{self.mean:.3g} ({self.low:.3g} to {self.high:.3g})"


def estimate(values: Sequence[float] | np.ndarray, seed: int = 0) -> Estimate:
    """The mean of one value a photo, and its interval: photos are drawn with replacement, 2,000 times.

    What is not finite is left out, as a score that a photo does not have. Of fewer than three there is no interval.
    """
    found = np.asarray(values, np.float64)
    found = found[np.isfinite(found)]
    if not len(found):
        return Estimate(math.nan, None, None, 0)
    mean = float(found.mean())
    if len(found) < 3:
        return Estimate(mean, None, None, len(found))
    drawn = np.random.default_rng(seed).integers(0, len(found), (RESAMPLES, len(found)))
    low, high = np.quantile(found[drawn].mean(1), [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Estimate(mean, float(low), float(high), len(found))
