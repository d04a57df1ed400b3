"""How sure an accuracy is: over repetitions of an experiment, or of one from its photos."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from convscope.studies.extra import extra
from convscope.training.metrics import Z95

ONCE = "of one run the interval is Wilson's, of the photos measured"
SEVERAL = "intervals are Student's, of the mean over {} runs, but no narrower than Wilson's of the photos measured"


class Spread(NamedTuple):
    """A mean over repetitions, and its 95 % interval."""

    mean: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.mean:.1%} ({self.low:.1%} to {self.high:.1%})"


def derived(seed: int, repeat: int) -> int:
    """The seed of a repetition: those of one study's seed are not the next one's."""
    return int(np.random.SeedSequence([seed, repeat]).generate_state(1)[0])


def spread(shares: Sequence[float], photos: float) -> Spread:
    """Of shares, one a repetition: their mean, and its interval, the wider of two at either end.

    Student's is of what differs between repetitions: the draw of photos to learn from, weights and order. Wilson's is
    of the ``photos`` measured, which may be the same in all: two runs that come to the same figure are not sure of it.
    """
    mean = math.fsum(shares) / len(shares)
    low, high = share_interval(mean, photos)
    if len(shares) > 1:
        between = difference(shares)
        low, high = min(low, max(0.0, between.low)), max(high, min(1.0, between.high))
    return Spread(mean, low, high)


def difference(values: Sequence[float]) -> Spread:
    """The mean of a value a repetition, and Student's interval of it; endless of one alone."""
    mean = math.fsum(values) / len(values)
    if len(values) == 1:
        return Spread(mean, -math.inf, math.inf)
    error = float(np.std(values, ddof=1)) / math.sqrt(len(values))
    half = error * float(extra("scipy.special").stdtrit(len(values) - 1, 0.975))
    return Spread(mean, mean - half, mean + half)


def share_interval(share: float, photos: float, z: float = Z95) -> tuple[float, float]:
    """Wilson's interval (1927) of a share of ``photos``, which may be an effective number and so not be whole."""
    middle = (share + z * z / (2 * photos)) / (1 + z * z / photos)
    half = z / (1 + z * z / photos) * math.sqrt(share * (1 - share) / photos + z * z / (4 * photos * photos))
    return max(0.0, middle - half) if share > 0 else 0.0, min(1.0, middle + half) if share < 1 else 1.0


def effective(counts: Sequence[int] | np.ndarray) -> float:
    """Of a mean over classes: so many photos in all, were there equally many of each, would leave it as uncertain."""
    there = np.asarray([count for count in counts if count], np.float64)
    return float(len(there) ** 2 / (1 / there).sum())


def points(gain: Spread) -> str:
    """A difference of shares in words, with its interval where there is one."""
    if not math.isfinite(gain.low):
        return f"{100 * gain.mean:+.1f} points"
    return f"{100 * gain.mean:+.1f} points ({100 * gain.low:+.1f} to {100 * gain.high:+.1f})"
