"""What a map says of a box that a person drew: does it point into it, and how much of it lies there?"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from convscope.studies.boxes import Box


def pointed(map: Tensor, boxes: Sequence[Box], tolerance: float) -> float:
    """The pointing game (Zhang et al. 2016, arXiv 1608.00507): 1 where the map's maximum is in a box, or at most
    ``tolerance`` pixels away from one, else 0.

    Of several equal maxima it is their share: what one of them, chosen at random, would have. NaN of what is no number.
    """
    if not bool(map.isfinite().all()):
        return math.nan
    places = (map == map.max()).nonzero().double()
    hit = torch.zeros(len(places), dtype=torch.bool, device=map.device)
    for top, left, bottom, right in boxes:
        first, last = places.new_tensor([top, left]), places.new_tensor([bottom - 1, right - 1])
        away = torch.maximum(first - places, places - last).clamp(min=0)
        hit |= away.square().sum(1) <= tolerance**2
    return float(hit.double().mean())


def energy_inside(map: Tensor, boxes: Sequence[Box]) -> float:
    """The energy-based pointing game (Wang et al. 2020, Score-CAM, arXiv 1910.01279): of what speaks for the class, the
    share inside the boxes. NaN where nothing does, or where the map holds what is no number.
    """
    if not bool(map.isfinite().all()):
        return math.nan
    positive = map.double().clamp(min=0)
    total = float(positive.sum())
    return float(positive[inside(map.shape[-2:], boxes).to(map.device)].sum()) / total if total > 0 else math.nan


def inside(shape: Sequence[int], boxes: Sequence[Box]) -> Tensor:
    """The pixels "h w" that are in any of the boxes."""
    found = torch.zeros(*shape, dtype=torch.bool)
    for top, left, bottom, right in boxes:
        found[top:bottom, left:right] = True
    return found
