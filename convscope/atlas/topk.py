"""Running top-k: each unit's strongest images, and where on them, over any number of batches. Memory is k a unit."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
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
        if best.device.type in AT_ONCE_KNOWN:
            self._update_some(outputs, best.numpy(), images.numpy())
        else:
            self._update_all(outputs, best, images)

    def _update_some(self, outputs: Features | Logits, best: np.ndarray, images: np.ndarray) -> None:
        """In numpy, whose small steps take a fraction of torch's; its arrays are the tensors' own memory."""
        value, image, place = self.value.numpy(), self.image.numpy(), self.place.numpy()
        rows = np.flatnonzero((best > value[:, -1]).any(0))
        if not len(rows):
            return
        k, shape = value.shape[1], (len(rows), len(best))
        values = np.concatenate([value[rows], best[:, rows].T], 1)
        order = np.argsort(-values, axis=1, kind="stable")[:, :k]  # what was there is earlier
        values = np.take_along_axis(values, order, 1)
        numbers = np.concatenate([image[rows], np.broadcast_to(images, shape)], 1)
        found = np.take_along_axis(np.concatenate([place[rows], np.full(shape, NOWHERE)], 1), order, 1)
        if outputs.ndim > 2:
            at, rank = np.nonzero((order >= k) & (values > -np.inf))
            found[at, rank] = _first_places(outputs, order[at, rank] - k, rows[at])
        value[rows], image[rows], place[rows] = values, np.take_along_axis(numbers, order, 1), found

    def _update_all(self, outputs: Features | Logits, best: Tensor, images: Tensor) -> None:
        k = self.value.shape[1]
        values, order = torch.cat([self.value, best.T], 1).sort(dim=1, descending=True, stable=True)
        values, order = values[:, :k], order[:, :k]
        numbers = torch.cat([self.image, images.expand(len(self.value), -1)], 1)
        places = torch.cat([self.place, torch.full_like(best.T, NOWHERE, dtype=torch.int64)], 1)
        found = places.gather(1, order)
        if outputs.ndim > 2:
            new, mine = (order >= k) & (values > -torch.inf), (order - k).clamp(min=0)
            if k > len(outputs):  # fewer maps than places are asked for
                at = first_argmax(outputs.flatten(0, 1).flatten(1)).view(best.shape).T.gather(1, mine)
            else:
                maps = outputs[mine, torch.arange(len(mine), device=mine.device)[:, None]]
                at = first_argmax(maps.flatten(2).flatten(0, 1)).view_as(found)
            found = torch.where(new, at, found)
        self.value, self.image, self.place = values, numbers.gather(1, order), found

    def merged(self, other: TopK) -> TopK:
        """The top-k of what both have seen; neither saw an image of the other's."""
        value, image, place = (
            torch.cat([getattr(self, name), getattr(other, name)], 1) for name in ("value", "image", "place")
        )
        first = image.sort(dim=1, stable=True).indices  # so that of equal values the earlier image comes first
        order = first.gather(1, value.gather(1, first).sort(dim=1, descending=True, stable=True).indices)
        order = order[:, : self.value.shape[1]]
        return TopK(value.gather(1, order), image.gather(1, order), place.gather(1, order))


def _first_places(outputs: Features, rows: np.ndarray, units: np.ndarray) -> np.ndarray:
    """Where the maximum of some maps in the CPU's memory is, the first of equal ones, as numpy promises."""
    if outputs.is_contiguous():  # whole maps are copied, not number by number
        maps = outputs.flatten(0, 1).index_select(0, torch.from_numpy(rows * outputs.shape[1] + units))
    else:
        maps = outputs[torch.from_numpy(rows), torch.from_numpy(units)]
    found: np.ndarray = maps.flatten(1).numpy().argmax(1)
    return found
