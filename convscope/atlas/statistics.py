"""Running statistics of a layer's units: mean, deviation, share active, and the mean for each class.

Sums are kept in float64, so their rounding does not grow with the data set; memory does not either.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from convscope.types import Features, Logits

CACHED = 2**19  # bytes of maps that a core's cache holds


class Labels(NamedTuple):
    """Which rows of a batch have a class, which, and how many there are of each."""

    rows: Tensor
    classes: Tensor
    members: Tensor

    @classmethod
    def of(cls, labels: np.ndarray, classes: int, device: torch.device) -> Labels:
        """From a class for each image, -1 where there is none. Worked out once for all layers, without the GPU."""
        rows = np.flatnonzero(labels >= 0)
        known = labels[rows].astype(np.int64)
        members = np.bincount(known, minlength=classes).astype(np.float64)
        return cls(*(torch.from_numpy(one).to(held_on(device)) for one in (rows, known, members)))


class Seen(NamedTuple):
    """Of each unit's map in each image, "b units": the maximum, the mean, of the deviations from that the sum (which
    rounding leaves) and the Euclidean norm, and the places above zero; and how many places there are."""

    best: Tensor
    means: Tensor
    rests: Tensor
    norms: Tensor
    active: Tensor
    places: int

    @classmethod
    def of(cls, outputs: Features | Logits) -> Seen:
        """Of a layer's outputs. On a CPU some maps at a time, so few that they are still in its cache for the next
        figure: memory would be the bound."""
        maps = outputs.flatten(2) if outputs.ndim > 2 else outputs[:, :, None]
        if maps.device.type != "cpu" or not maps.is_contiguous():
            return cls(*_figures(maps), maps.shape[2])
        rows = maps.flatten(0, 1)
        parts = [_figures(part) for part in rows.split(max(1, CACHED // (rows.shape[1] * rows.element_size())))]
        best, means, rests, norms, active = (torch.cat(one).view(maps.shape[:2]) for one in zip(*parts, strict=True))
        return cls(best, means, rests, norms, active, maps.shape[2])


def _figures(maps: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    active = maps.sign().clamp_(min=0).sum(-1)
    means = maps.mean(-1)
    apart = maps - means[..., None]
    return maps.amax(-1), means, apart.sum(-1), torch.linalg.vector_norm(apart, dim=-1), active


def precise(values: Tensor) -> Tensor:
    """In float64, for which values of a device that has none go to the CPU."""
    return values.to(held_on(values.device)).double()


def held_on(device: torch.device) -> torch.device:
    """Where sums are kept: on the device, unless that knows no float64."""
    return torch.device("cpu") if device.type == "mps" else device


@dataclass(eq=False)
class Statistics:
    """Of all places of all images: ``count`` of them, and "units" of ``mean``, ``squares`` (the sum of squared
    deviations from it) and ``active`` (places above zero). ``by_class``: sums of the images' means, "classes units",
    and ``members``, the images of each class. All float64.
    """

    count: float
    mean: Tensor
    squares: Tensor
    active: Tensor
    by_class: Tensor
    members: Tensor

    @classmethod
    def empty(cls, units: int, classes: int, like: Tensor) -> Statistics:
        def zeros(*shape: int) -> Tensor:
            return torch.zeros(shape, dtype=torch.float64, device=held_on(like.device))

        return cls(0.0, zeros(units), zeros(units), zeros(units), zeros(classes, units), zeros(classes))

    def update(self, seen: Seen, labels: Labels) -> None:
        """Take in a batch, and the classes of the images that have one."""
        places = seen.places
        # Each image's own figures are in the dtype of the maps; from here on it is float64. What their rounded means
        # leave is taken up by the rest, so that a small deviation from a large mean is not lost.
        rest = precise(seen.rests) / places
        means = precise(seen.means) + rest
        squares = precise(seen.norms).square() - rest.square() * places
        active = precise(seen.active).sum(0)
        mean = means.mean(0)
        batch = squares.clamp(min=0).sum(0) + (means - mean).square().sum(0) * places
        self._add(float(places * len(means)), mean, batch, active)
        self.by_class.index_add_(0, labels.classes, means[labels.rows])
        self.members += labels.members

    def merge(self, other: Statistics) -> None:
        """Take in what another has seen."""
        self._add(other.count, other.mean, other.squares, other.active)
        self.by_class += other.by_class
        self.members += other.members

    def _add(self, count: float, mean: Tensor, squares: Tensor, active: Tensor) -> None:
        """The mean and squares of both together (Chan, Golub and LeVeque 1979)."""
        if not count:
            return
        both, apart = self.count + count, mean - self.mean
        self.squares = self.squares + squares + apart.square() * (self.count * count / both)
        self.mean = self.mean + apart * (count / both)
        self.active = self.active + active
        self.count = both

    @property
    def std(self) -> Tensor:
        """Standard deviation over all places; of the data set itself, so by their number."""
        return (self.squares / max(self.count, 1.0)).sqrt()

    @property
    def fraction_active(self) -> Tensor:
        return self.active / max(self.count, 1.0)

    @property
    def class_means(self) -> Tensor:
        """Mean activation for each class, "classes units"; NaN for a class without images."""
        return self.by_class / torch.where(self.members > 0, self.members, torch.nan)[:, None]

    def selectivity(self) -> tuple[Tensor, Tensor]:
        """Class selectivity (Morcos et al. 2018), in [0, 1], and each unit's class of the highest mean.

        (best - rest) / (best + rest) of the class means, ``rest`` the mean of the other classes' means; of what is
        below zero, as before a ReLU, the part above zero counts. NaN with fewer than two classes, or if all are zero.
        """
        means = self.class_means[self.members > 0]
        if len(means) < 2:
            nothing = torch.full_like(self.mean, torch.nan)
            return nothing, torch.full_like(self.mean, -1, dtype=torch.int64)
        row, means = means.max(0).indices, means.clamp(min=0)
        best = means.max(0).values
        rest = (means.sum(0) - best) / (len(means) - 1)
        return (best - rest) / (best + rest), (self.members > 0).nonzero().squeeze(1)[row]
