"""Running top-k: each unit's strongest images, and where on them, over any number of batches. Memory is k a unit."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from convscope.instrument.target import first_argmax
from convscope.types import Features, Logits

AT_ONCE_KNOWN = {"cpu"}  # devices that are never waited for
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
        place of their maximum. An accelerator would have to be waited for to know which they are: there it is all.
        """
        k, known = self.value.shape[1], best.device.type in AT_ONCE_KNOWN
        rows = torch.arange(len(self.value), device=best.device)
        if known:
            rows = (best > self.value[:, -1]).any(0).nonzero().squeeze(1)
            if not len(rows):
                return
        values = torch.cat([self.value[rows], best[:, rows].T], 1)
        values, order = values.sort(dim=1, descending=True, stable=True)  # what was there is earlier
        values, order = values[:, :k], order[:, :k]
        numbers = torch.cat([self.image[rows], images.expand(len(rows), -1)], 1)
        places = torch.cat([self.place[rows], torch.full_like(best[:, rows].T, NOWHERE, dtype=torch.int64)], 1)
        found = places.gather(1, order)
        if outputs.ndim > 2:
            new = (order >= k) & (values > -torch.inf)
            if known:
                at, rank = new.nonzero(as_tuple=True)
                found[at, rank] = _first_places(outputs, order[at, rank] - k, rows[at])
            elif k > len(outputs):  # fewer maps than places are asked for
                every = first_argmax(outputs.flatten(0, 1).flatten(1)).view(best.shape).T
                found = torch.where(new, every.gather(1, (order - k).clamp(min=0)), found)
            else:
                maps = outputs[(order - k).clamp(min=0), rows[:, None]].flatten(2)
                found = torch.where(new, first_argmax(maps.flatten(0, 1)).view_as(found), found)
        self.value[rows], self.image[rows], self.place[rows] = values, numbers.gather(1, order), found

    def merged(self, other: TopK) -> TopK:
        """The top-k of what both have seen; neither saw an image of the other's."""
        value, image, place = (
            torch.cat([getattr(self, name), getattr(other, name)], 1) for name in ("value", "image", "place")
        )
        first = image.sort(dim=1, stable=True).indices  # so that of equal values the earlier image comes first
        order = first.gather(1, value.gather(1, first).sort(dim=1, descending=True, stable=True).indices)
        order = order[:, : self.value.shape[1]]
        return TopK(value.gather(1, order), image.gather(1, order), place.gather(1, order))


def _first_places(outputs: Features, rows: Tensor, units: Tensor) -> Tensor:
    """Where the maximum of some maps in the CPU's memory is, the first of equal ones, as numpy promises."""
    if outputs.is_contiguous():  # whole maps are copied, not number by number
        maps = outputs.flatten(0, 1).index_select(0, rows * outputs.shape[1] + units)
    else:
        maps = outputs[rows, units]
    return torch.from_numpy(maps.flatten(1).numpy().argmax(1))
