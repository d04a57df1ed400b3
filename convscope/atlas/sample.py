"""A sample of the images, the same for all units: their maxima, for quantiles and for what fires together."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from convscope.data.mixing import mixed
from convscope.instrument.target import first_argmax
from convscope.types import Features, Logits

IMAGES = 1024  # whose maxima are kept
PLACED = 128  # the first of them, of which it is kept where on the map the maxima are too
SEED = 0x5EED


def sampled(count: int, size: int = IMAGES) -> np.ndarray:
    """The numbers of the images in the sample, at random but for ever the same: those whose numbers hash lowest."""
    order = np.argsort(mixed(np.arange(count, dtype=np.uint64) ^ np.uint64(SEED)), kind="stable")
    return order[:size].astype(np.int64)


@dataclass(eq=False)
class Sample:
    """Spatial maxima "images units" of the images ``numbers``, NaN where one was not seen, and of the first PLACED the
    flat index on the map.
    """

    numbers: Tensor
    maxima: Tensor
    places: Tensor

    @classmethod
    def empty(cls, numbers: np.ndarray, units: int, like: Tensor) -> Sample:
        count = len(numbers)
        return cls(
            torch.from_numpy(numbers),
            torch.full((count, units), torch.nan, dtype=like.dtype, device=like.device),
            torch.full((min(count, PLACED), units), -1, dtype=torch.int32, device=like.device),
        )

    def update(self, outputs: Features | Logits, best: Tensor, images: np.ndarray, slots: np.ndarray) -> None:
        """Take in a batch. ``slots``: each image's row in the sample, -1 for most."""
        rows = np.flatnonzero(slots >= 0)
        if not len(rows):
            return
        self.maxima[torch.from_numpy(slots[rows])] = best[torch.from_numpy(rows)]
        if outputs.ndim < 3:
            return
        for row in rows[slots[rows] < len(self.places)].tolist():
            self.places[int(slots[row])] = first_argmax(outputs[row].flatten(1)).int()

    def merge(self, other: Sample) -> None:
        """Take in what another has seen of the same sample."""
        seen = ~other.maxima.isnan().all(1)
        self.maxima[seen] = other.maxima[seen]
        placed = seen[: len(self.places)]
        self.places[placed] = other.places[placed]
