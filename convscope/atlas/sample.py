"""A sample of the images, the same for all units: their maxima, for quantiles and for what fires together."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

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


class Drawn(NamedTuple):
    """Which rows of a batch are in the sample, where there, and of which places are kept (row and slot)."""

    rows: Tensor
    slots: Tensor
    placed: list[tuple[int, int]]

    @classmethod
    def of(cls, slots: np.ndarray, device: torch.device) -> Drawn:
        """From each image's slot, -1 for most. Worked out once for all layers."""
        rows = np.flatnonzero(slots >= 0)
        placed = [(row, int(slots[row])) for row in rows.tolist() if slots[row] < PLACED]
        return cls(torch.from_numpy(rows).to(device), torch.from_numpy(slots[rows]).to(device), placed)


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

    def update(self, outputs: Features | Logits, best: Tensor, drawn: Drawn) -> None:
        """Take in what of a batch is in the sample."""
        if not len(drawn.rows):
            return
        self.maxima[drawn.slots] = best[drawn.rows]
        if outputs.ndim > 2:
            for row, slot in drawn.placed:
                self.places[slot] = first_argmax(outputs[row].flatten(1)).int()

    def merge(self, other: Sample) -> None:
        """Take in what another has seen of the same sample."""
        seen = ~other.maxima.isnan().all(1)
        self.maxima[seen] = other.maxima[seen]
        placed = seen[: len(self.places)]
        self.places[placed] = other.places[placed]
