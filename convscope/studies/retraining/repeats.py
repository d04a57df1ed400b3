"""How sure an accuracy is: over repetitions of an experiment, and over the photos that it was measured on."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from convscope.studies.interval import student
from convscope.training.metrics import wilson

ONCE = (
    "intervals are of the photos measured alone (Wilson's; of a difference, Student's over photos that both were asked "
    "about): each network was trained once, and another training might come out otherwise"
)
SEVERAL = "intervals are of the photos measured and of {} runs, both together (Wilson's and Student's)"


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
    """Of shares, one a repetition: their mean, and its interval.

    Two things are not known. What the mean would be of other ``photos`` of the kind, which may be the same in all
    repetitions: Wilson's interval. And what it would be in other repetitions, with other draws of photos to learn from,
    other weights, another order: Student's. Their reaches are joined as legs of a right angle (Zou & Donner 2008).
    """
    mean = math.fsum(shares) / len(shares)
    found = wilson(mean * photos, photos)
    again = _over_repeats(shares)
    return Spread(
        mean,
        max(0.0, mean - math.hypot(mean - found.low, again)),
        min(1.0, mean + math.hypot(found.high - mean, again)),
    )


def gain(one: np.ndarray, other: np.ndarray, labels: np.ndarray | None = None) -> Spread:
    """By how much the first of two networks is right more often, and the interval of it.

    ``one``, ``other``: 1 where a photo was told right, else 0, "repetitions photos"; NaN of one that was not asked
    about. ``labels``: the mean is over these classes of the photos, else over the photos. Joined, as in ``spread``, are
    what differs between repetitions and what differs between photos: the same ones were given to both, so it is their
    difference photo by photo that counts. Two photos are added, half of one told right by each network alone, so
    that two that never differ are not sure to be equal (Agresti & Min 2005).
    """
    apart = one - other
    asked = np.isfinite(apart).any(0)
    classes = np.zeros(apart.shape[1], np.int64) if labels is None else labels
    each = shares(apart, classes)
    mean = math.fsum(each) / len(each)
    over = np.nanmean(apart[:, asked], 0)
    own, counts = np.unique(classes[asked], return_inverse=True, return_counts=True)[1:]
    rest = over - (np.bincount(own, over) / counts)[own]
    freedom = len(over) + 2 - len(counts)
    error = math.sqrt((float(rest @ rest) + 1) / freedom / (effective(counts) + 2))
    half = math.hypot(student(freedom) * error, _over_repeats(each))
    return Spread(mean, max(-1.0, mean - half), min(1.0, mean + half))


def shares(right: np.ndarray, labels: np.ndarray | None = None) -> list[float]:
    """Of each repetition of "repetitions photos" the mean over those that are no NaN, or over the means of classes."""
    found = []
    for row in right:
        asked = np.isfinite(row)
        own = np.zeros(int(asked.sum()), np.int64) if labels is None else labels[asked]
        counts = np.bincount(own)
        found.append(float((np.bincount(own, row[asked])[counts > 0] / counts[counts > 0]).mean()))
    return found


def _over_repeats(values: Sequence[float]) -> float:
    """Half of Student's interval of the mean; nothing is known of it from one alone, and nothing is added."""
    if len(values) < 2:
        return 0.0
    return student(len(values) - 1) * float(np.std(values, ddof=1)) / math.sqrt(len(values))


def effective(counts: Sequence[int] | np.ndarray) -> float:
    """Of a mean over classes: so many photos in all, were there equally many of each, would leave it as uncertain."""
    there = np.asarray([count for count in counts if count], np.float64)
    return float(len(there) ** 2 / (1 / there).sum())


def points(gain: Spread) -> str:
    """A difference of shares in words, with its interval."""
    return f"{100 * gain.mean:+.1f} points ({100 * gain.low:+.1f} to {100 * gain.high:+.1f})"
