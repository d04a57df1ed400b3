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

    What is not finite is left out, as a score that a photo does not have. Of fewer than three there is no interval; of
    few it is too narrow: of five normal values it holds the mean in 84 of 100 cases, of ten in 90.
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


def estimate_pairs(distances: np.ndarray, seed: int = 0) -> Estimate:
    """The mean of "photos photos" distances over all pairs of different photos, and its interval.

    Pairs without a distance (NaN) are left out. Pairs that share a photo are not independent, so photos are drawn, not
    pairs; a photo that was drawn twice makes no pair with itself. Of fewer than four photos there is no interval.
    """
    count = len(distances)
    values = np.asarray(distances, np.float64)
    known = np.isfinite(values) & ~np.eye(count, dtype=bool)
    if not known.any():
        return Estimate(math.nan, None, None, count)
    apart, weight = np.where(known, values, 0.0), known.astype(np.float64)
    mean = float(apart.sum() / weight.sum())
    if count < 4:
        return Estimate(mean, None, None, count)
    drawn = np.random.default_rng(seed).multinomial(count, np.full(count, 1 / count), RESAMPLES).astype(np.float64)
    sums, pairs = (np.einsum("ri,ij,rj->r", drawn, matrix, drawn) for matrix in (apart, weight))
    low, high = np.quantile(sums[pairs > 0] / pairs[pairs > 0], [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Estimate(mean, float(low), float(high), count)
