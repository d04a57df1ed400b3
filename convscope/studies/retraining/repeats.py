"""How sure an accuracy is: over repetitions of an experiment, and over the photos that it was measured on."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from convscope.studies.interval import student

ONCE = (
    "intervals are of the photos measured alone (of a difference, of photos that both were asked about): each network "
    "was trained once, and another training might come out otherwise"
)
SEVERAL = "intervals are of the photos measured and of {} runs, both together"


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


def spread(right: np.ndarray, labels: np.ndarray | None = None) -> Spread:
    """How often a network is right, and the interval of it.

    ``right``: 1 where a photo was told right, else 0, "repetitions photos"; NaN of one that was not asked about.
    ``labels``: the mean is over these classes of the photos, else over the photos.

    Two things are not known. What the mean would be of other photos of the kind, which may be the same in all
    repetitions; and what it would be in other repetitions, with other draws of photos to learn from, other weights,
    another order. For the first, two photos told right and two told wrong are added, so that few that are all right do
    not make sure (Agresti & Coull 1998); for the second stands Student's interval over repetitions. Their reaches are
    joined as legs of a right angle.
    """
    return _interval(right, labels, added=4, around=0.5, within=(0.0, 1.0))


def gain(one: np.ndarray, other: np.ndarray, labels: np.ndarray | None = None) -> Spread:
    """By how much the first of two networks is right more often, and the interval of it; as ``spread`` otherwise.

    The same photos were given to both, so it is the difference on each that counts. Two photos are added, half of one
    told right by each network alone, so that two that never differ are not sure to be equal, and a few that do not
    decide (Agresti & Min 2005).
    """
    return _interval(one - other, labels, added=2, around=0.0, within=(-1.0, 1.0))


def _interval(
    values: np.ndarray, labels: np.ndarray | None, added: int, around: float, within: tuple[float, float]
) -> Spread:
    """``added`` photos, whose squares about the value they lie ``around`` sum up to 1, draw the middle there and widen.

    Each class has a variance of its own, with one degree of freedom of what is added or of all classes', so that those
    of one photo have one too (Welch & Satterthwaite).
    """
    asked = np.isfinite(values).any(0)
    over = np.nanmean(values[:, asked], 0)
    own = np.zeros(len(over), np.int64) if labels is None else np.unique(labels[asked], return_inverse=True)[1]
    counts = np.bincount(own)
    rest = np.bincount(own, np.square(over - (np.bincount(own, over) / counts)[own]))
    common = (float(rest.sum()) + 1) / (len(over) + added - len(counts))
    errors = (rest + max(common, 1 / len(counts))) / np.square(counts * len(counts))
    error, freedom = float(errors.sum()), float(errors.sum()) ** 2 / float((errors**2 / counts).sum())
    each = shares(values, labels)
    half = math.hypot(student(max(1.0, freedom)) * math.sqrt(error), _over_repeats(each))
    mean = math.fsum(each) / len(each)
    middle = (mean * len(over) + around * added) / (len(over) + added)
    return Spread(mean, min(mean, max(within[0], middle - half)), max(mean, min(within[1], middle + half)))


def shares(right: np.ndarray, labels: np.ndarray | None = None) -> list[float]:
    """Of each repetition of "repetitions photos" the mean over those that are no NaN, or over the means of classes."""
    found = []
    for row in right:
        asked = np.isfinite(row)
        own = np.zeros(int(asked.sum()), np.int64) if labels is None else labels[asked]
        counts = np.bincount(own)
        found.append(float((np.bincount(own, row[asked])[counts > 0] / counts[counts > 0]).mean()))
    return found


def measured(right: np.ndarray) -> int:
    """How many photos were asked about."""
    return int(np.isfinite(right).any(0).sum())


def _over_repeats(values: Sequence[float]) -> float:
    """Half of Student's interval of the mean; nothing is known of it from one alone, and nothing is added."""
    if len(values) < 2:
        return 0.0
    return student(len(values) - 1) * float(np.std(values, ddof=1)) / math.sqrt(len(values))


def points(gain: Spread) -> str:
    """A difference of shares in words, with its interval."""
    return f"{100 * gain.mean:+.1f} points ({100 * gain.low:+.1f} to {100 * gain.high:+.1f})"
