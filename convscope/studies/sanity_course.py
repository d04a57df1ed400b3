"""The course of a sanity check: which layers are randomised, step by step, and what becomes of each method's maps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from convscope.instrument.weighted import WeightedLayer
from convscope.studies.interval import Estimate, estimate
from convscope.studies.likeness import MEASURES, Sight, rank_correlation

CASCADE, ALONE = "cascading", "independent"
RANK, SIGNED, OTHERS, BLANK = "rank", "signed rank", "other photos", "blank"
SEEN = {
    **MEASURES,
    BLANK: "1 where the map has become the same everywhere, which counts as rank correlations of 0; else 0",
    OTHERS: "as rank, with the trained network's maps of the other photos: what is alike in all of them",
}


@dataclass(frozen=True)
class Step:
    """A network with random ``layers``: the last ``count``, or that which a cascade of so many comes to, alone."""

    order: str
    count: int
    layers: tuple[WeightedLayer, ...]

    @property
    def layer(self) -> str:
        """The lowest that is randomised."""
        return self.layers[0].path or "the network's own"


@dataclass(frozen=True, eq=False)
class Course:
    """What became of maps by method. ``likeness``: "steps photos measures", the measures as ``SEEN``. ``shown``: the
    first photo's maps as pictures, trained and then at each step; None for one that is the same everywhere."""

    order: str
    depth: int  # layers that there are
    steps: list[Step]
    likeness: dict[str, np.ndarray]
    shown: dict[str, list[np.ndarray | None]]

    def at(self, method: str, step: int, measure: str = RANK) -> Estimate:
        """The mean over the photos."""
        return _over_photos(self.likeness[method][step], measure)

    def overall(self, method: str, measure: str = RANK) -> Estimate:
        """The mean over the photos of each one's mean over the steps."""
        return _over_photos(mean(self.likeness[method], 0), measure)


def plan(layers: Sequence[WeightedLayer], steps: int | None, independent: bool) -> list[Step]:
    """Cascades from the last layer to all of them, then what each comes to alone."""
    many = len(layers)
    if steps is None or steps >= many:
        counts = list(range(1, many + 1))
    else:
        counts = [many] if steps == 1 else [round(at) for at in np.linspace(1, many, steps)]
    found = [Step(CASCADE, count, tuple(layers[many - count :])) for count in counts]
    if independent:
        found += [Step(ALONE, count, (layers[many - count],)) for count in counts]
    return found


def likeness(trained: Sequence[Sight], now: Sequence[Sight]) -> np.ndarray:
    """How like each photo's map is to its trained network's, "photos measures" as ``SEEN``."""
    rows = []
    for i, sight in enumerate(now):
        own = dict(zip(MEASURES, trained[i].like(sight), strict=True))
        own[BLANK] = np.nan if trained[i].ranks is None else float(sight.blank)
        if sight.blank:  # nothing is left of what was there: a network that made it blank is no reason not to count
            own[RANK] = 0.0 if trained[i].ranks is not None else np.nan
            own[SIGNED] = 0.0 if trained[i].signed is not None else np.nan
        others = [rank_correlation(sight.ranks, other.ranks) for j, other in enumerate(trained) if j != i]
        own[OTHERS] = float(mean(np.array(others), 0)) if others else np.nan
        rows.append([own[name] for name in SEEN])
    return np.array(rows)


def mean(values: np.ndarray, axis: int) -> np.ndarray:
    """The mean of what is finite; NaN where nothing is."""
    counted = np.isfinite(values)
    count = counted.sum(axis)
    found: np.ndarray = np.where(counted, values, 0).sum(axis) / np.where(count, count, 1)
    return np.where(count, found, np.nan)


def _over_photos(values: np.ndarray, measure: str) -> Estimate:
    return estimate(values[:, list(SEEN).index(measure)], (-1, 1))
