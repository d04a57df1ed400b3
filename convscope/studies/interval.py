"""How sure a mean over photos is: Student's interval (1908), over photos also where a value belongs to two of them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from convscope.training.metrics import wilson

LEVEL = 0.95
# A verdict takes so many photos: by chance alone, fewer would all lie on one side in more than one of 20 cases.
FEWEST = 6


class Estimate(NamedTuple):
    """A mean over so many ``photos`` and its 95 % interval; None of too few."""

    mean: float
    low: float | None
    high: float | None
    photos: int

    def __str__(self) -> str:
        if self.low is None or self.high is None:
            return f"{self.mean:.3g}"
        return f"{self.mean:.3g} ({self.low:.3g} to {self.high:.3g})"

    def side(self, of: float = 0.0) -> int | None:
        """1 where the interval lies above a number, -1 below it, 0 where it holds it; None of too few photos."""
        if self.low is None or self.high is None or self.photos < FEWEST:
            return None
        return int(self.low > of) - int(self.high < of)


def estimate(values: Sequence[float] | np.ndarray, within: tuple[float, float] = (-math.inf, math.inf)) -> Estimate:
    """The mean of one value a photo, and Student's interval of it, which ends where the values' range does.

    What is not finite is left out, as a score that a photo does not have. Of fewer than two there is no interval.
    """
    found = np.asarray(values, np.float64)
    found = found[np.isfinite(found)]
    if not len(found):
        return Estimate(math.nan, None, None, 0)
    mean = float(found.mean())
    if len(found) < 2:
        return Estimate(mean, None, None, len(found))
    return _around(mean, float(found.std(ddof=1)) / math.sqrt(len(found)), len(found), within)


def estimate_share(values: Sequence[float] | np.ndarray) -> Estimate:
    """The mean of one value a photo that says yes, 1, or no, 0, or lies between, and Wilson's interval of it."""
    found = np.asarray(values, np.float64)
    found = found[np.isfinite(found)]
    if not len(found):
        return Estimate(math.nan, None, None, 0)
    within = wilson(float(found.sum()), len(found))
    return Estimate(float(found.mean()), within.low, within.high, len(found))


def estimate_pairs(distances: np.ndarray, within: tuple[float, float] = (-math.inf, math.inf)) -> Estimate:
    """The mean of "photos photos" distances over all pairs of different photos, and its interval.

    Pairs without a distance (NaN) are left out. Pairs that share a photo are not independent, so it is photos that are
    left out in turn, as in Tukey's jackknife (1958); what differs between pairs whatever their photos do by themselves,
    as where photos fall into kinds, is added, since the jackknife does not see it (Hoeffding 1948). Student's interval.
    Of fewer than four photos, or where all pairs share one, there is no interval.
    """
    values = np.asarray(distances, np.float64)
    known = np.isfinite(values) & ~np.eye(len(values), dtype=bool)
    apart = np.where(known, values, 0.0)
    there = known.any(1)
    photos = int(there.sum())
    total, pairs = apart.sum(), known.sum()
    if not pairs:
        return Estimate(math.nan, None, None, 0)
    mean = float(total / pairs)
    left = pairs - 2 * known.sum(1)[there]  # each pair is there twice, as the distances are
    if photos < 4 or not left.all():
        return Estimate(mean, None, None, photos)
    without = (total - 2 * apart.sum(1)[there]) / left
    error = (photos - 1) / photos * float(np.square(without - without.mean()).sum())
    own = np.zeros(len(values))
    own[there] = (photos - 1) / (photos - 2) * (apart.sum(1)[there] / known.sum(1)[there] - mean)
    rest = np.where(known, values - mean - own[:, None] - own[None], 0.0)
    among = max(1.0, pairs / 2 - photos)  # of so many pairs a value for each photo is taken
    error += float(np.square(rest).sum()) / 2 / among / (pairs / 2)
    return _around(mean, math.sqrt(error), photos, within)


def student(freedom: float) -> float:
    """So many standard errors to either side hold 95 % (Student's t of so many degrees of freedom)."""
    from scipy.special import stdtrit

    return float(stdtrit(freedom, (1 + LEVEL) / 2))


def _around(mean: float, error: float, photos: int, within: tuple[float, float]) -> Estimate:
    half = student(photos - 1) * error
    return Estimate(mean, max(within[0], mean - half), min(within[1], mean + half), photos)
