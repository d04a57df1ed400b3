"""Running top-k: each unit's strongest images, and where on them, over any number of batches. Memory is k a unit."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from convscope.instrument.target import first_argmax, peaks
from convscope.types import Features, Logits

NOWHERE = -1  # row and column of a layer without maps; the image where there are fewer than k


@dataclass(eq=False)
class TopK:
    """The highest spatial maxima "units k", highest first, of equal ones the earlier image first.

    ``value``: -inf where there are fewer than k. ``image``: the number in the data set. ``place``: the flat index of
    the maximum on the map, the first of equal ones in reading order; NOWHERE for numbers without rows and columns.
    """

    value: Tensor
    image: Tensor
    place: Tensor

    @classmethod
    def empty(cls, units: int, k: int, like: Tensor) -> TopK:
        return cls(
            torch.full((units, k), -torch.inf, dtype=like.dtype, device=like.device),
            torch.full((units, k), NOWHERE, dtype=torch.int64, device=like.device),
            torch.full((units, k), NOWHERE, dtype=torch.int64, device=like.device),
        )

    def update(self, outputs: Features | Logits, best: Tensor, images: Tensor) -> None:
        """Take in a batch: a layer's ``outputs``, their ``peaks`` "b units" and the images' numbers, ascending.

        Most units of most batches have nothing new; of those that have, only the maps that count are looked at for the
        place of their maximum.
        """
        rows = (best > self.value[:, -1]).any(0).nonzero().squeeze(1)
        if not len(rows):
            return
        k = self.value.shape[1]
        values = torch.cat([self.value[rows], best[:, rows].T], 1)
        values, order = values.sort(dim=1, descending=True, stable=True)  # what was there is earlier
        order = order[:, :k]
        numbers = torch.cat([self.image[rows], images.expand(len(rows), -1)], 1)
        places = torch.cat([self.place[rows], torch.full_like(best[:, rows].T, NOWHERE, dtype=torch.int64)], 1)
        self.value[rows], self.image[rows] = values[:, :k], numbers.gather(1, order)
        found = places.gather(1, order)
        if outputs.ndim > 2:
            at, rank = ((order >= k) & (values[:, :k] > -torch.inf)).nonzero(as_tuple=True)
            found[at, rank] = first_argmax(outputs[order[at, rank] - k, rows[at]].flatten(1))
        self.place[rows] = found

    def merged(self, other: TopK) -> TopK:
        """The top-k of what both have seen; neither saw an image of the other's."""
        value, image, place = (
            torch.cat([getattr(self, name), getattr(other, name)], 1) for name in ("value", "image", "place")
        )
        first = image.sort(dim=1, stable=True).indices  # so that of equal values the earlier image comes first
        order = first.gather(1, value.gather(1, first).sort(dim=1, descending=True, stable=True).indices)
        order = order[:, : self.value.shape[1]]
        return TopK(value.gather(1, order), image.gather(1, order), place.gather(1, order))


def topk_of(outputs: Features | Logits, images: Tensor, k: int) -> TopK:
    """Of one batch."""
    found = TopK.empty(outputs.shape[1], k, outputs)
    found.update(outputs, peaks(outputs), images)
    return found
