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
WEAK = 0.01  # of the squared mean: above it float32 gives a map's variance to a ten-thousandth


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
    """Of each unit's map in each image, "b units": the maximum, in float64 the mean and the sum of squared deviations
    from it, and the places above zero; and how many places there are."""

    best: Tensor
    means: Tensor
    squares: Tensor
    active: Tensor
    places: int

    @classmethod
    def of(cls, outputs: Features | Logits) -> Seen:
        """Of a layer's outputs. On a CPU some maps at a time, so few that they are still in its cache for the next
        figure: memory would be the bound."""
        maps = outputs.flatten(2) if outputs.ndim > 2 else outputs[:, :, None]
        shape, places = maps.shape[:2], maps.shape[2]
        rows = maps.reshape(-1, places)
        if rows.device.type != "cpu":
            means, squares = _deviations(rows)
            best, active = rows.amax(-1), _active(rows)
            return cls(best.view(shape), means.view(shape), squares.view(shape), active.view(shape), places)
        parts = [_figures(part) for part in rows.split(_some(rows))]
        best, sums, norms, active = (torch.cat(one) for one in zip(*parts, strict=True))
        # In numpy, whose small steps take a fraction of torch's.
        mean = sums.numpy().astype(np.float64) / places
        square, of_mean = np.square(norms.numpy(), dtype=np.float64), np.square(mean) * places
        square -= of_mean
        means, squares = torch.from_numpy(mean), torch.from_numpy(square)
        # Where maps hardly vary, rounding has eaten what the squares differ by: those few are looked at again.
        weak = np.flatnonzero(square < WEAK * of_mean)
        for few in torch.from_numpy(weak).split(_some(rows)) if len(weak) else ():
            means[few], squares[few] = _deviations(rows.index_select(0, few))
        return cls(best.view(shape), means.view(shape), squares.view(shape), active.view(shape), places)


def _some(rows: Tensor) -> int:
    return max(1, CACHED * torch.get_num_threads() // (rows.shape[1] * rows.element_size()))


def _figures(rows: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    return rows.amax(-1), rows.sum(-1), torch.linalg.vector_norm(rows, dim=-1), _active(rows)


def _active(rows: Tensor) -> Tensor:
    return torch.gt(rows, 0, out=torch.empty_like(rows)).sum(-1)  # numbers: truth values are added up slowly


def _deviations(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Means, and sums of squared deviations from them. What a rounded mean leaves is taken up by the rest."""
    means = rows.mean(-1)
    apart = rows - means[:, None]
    rest = precise(apart.sum(-1)) / rows.shape[1]
    squares = precise(torch.linalg.vector_norm(apart, dim=-1)).square() - rest.square() * rows.shape[1]
    return precise(means) + rest, squares


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
        places, means = seen.places, seen.means
        mean = means.mean(0)
        batch = seen.squares.clamp(min=0).sum(0) + (means - mean).square().sum(0) * places
        self._add(float(places * len(means)), mean, batch, precise(seen.active).sum(0))
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
