"""Running statistics of a layer's units: mean, deviation, share active, and the mean for each class.

Sums are kept in float64, so their rounding does not grow with the data set; memory does not either.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from convscope.types import Features, Logits


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
            return torch.zeros(shape, dtype=torch.float64, device=like.device)

        return cls(0.0, zeros(units), zeros(units), zeros(units), zeros(classes, units), zeros(classes))

    def update(self, outputs: Features | Logits, labels: Tensor) -> None:
        """Take in a batch: a layer's ``outputs`` and the images' classes, -1 where there is none."""
        maps = outputs if outputs.ndim > 2 else outputs[:, :, None]
        places, dims = maps.shape[2:].numel(), tuple(range(2, maps.ndim))
        # Each image's own figures in the dtype of the maps, which is one fast pass each; then in float64.
        means = maps.sum(dims).double() / places
        squares = torch.linalg.vector_norm(maps, dim=dims).double().square() - means.square() * places
        active = maps.sign().clamp_(min=0).sum(dims).double().sum(0)
        mean = means.mean(0)
        batch = squares.clamp(min=0).sum(0) + (means - mean).square().sum(0) * places
        self._add(float(places * len(maps)), mean, batch, active)
        known = labels >= 0
        self.by_class.index_add_(0, labels[known], means[known])
        self.members += torch.bincount(labels[known], minlength=len(self.members)).double()

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
