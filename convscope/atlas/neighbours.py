"""What fires together: within a layer, units whose maxima on the same images go up and down with each other."""

from __future__ import annotations

import torch
from torch import Tensor

from convscope.atlas.statistics import precise

NEAREST = 8
SURE = 8  # images from which it can be said that two units are the same
SAME = 1 - 1e-5  # a correlation from which two units are one and the same up to scale
PART = 512  # units whose correlations with all are computed at once


def neighbours(maxima: Tensor, nearest: int = NEAREST) -> tuple[Tensor, Tensor]:
    """Each unit's most correlated others, "units nearest" of (unit, Pearson correlation), the highest first.

    ``maxima``: spatial maxima "images units"; images with NaN are left out. Of equal correlations the unit with the
    lower number comes first. Units that never change have none: -1 and NaN, as has what is beyond the number of units.
    """
    apart = _apart(maxima)
    units = apart.shape[1]
    others = torch.full((units, nearest), -1, dtype=torch.int64, device=apart.device)
    found = torch.full((units, nearest), torch.nan, dtype=torch.float64, device=apart.device)
    if len(apart) < 2:
        return others, found
    for start in range(0, units, PART):
        rows = torch.arange(start, min(start + PART, units), device=apart.device)
        alike = (apart[:, rows].T @ apart).clamp(-1, 1)
        alike[rows - start, rows] = torch.nan  # itself
        values, order = alike.nan_to_num(-2).sort(dim=1, descending=True, stable=True)
        values, order = values[:, :nearest], order[:, :nearest]
        there = values > -2
        found[rows, : values.shape[1]] = torch.where(there, values, torch.nan)
        others[rows, : values.shape[1]] = torch.where(there, order, -1)
    return others, found


def duplicates(maxima: Tensor) -> Tensor:
    """Of each unit the first one that it is the same as, up to scale and offset; -1 for none, and for the first itself.

    Of fewer than ``SURE`` images nothing of the kind can be said.
    """
    apart = _apart(maxima)
    units = apart.shape[1]
    first = torch.full((units,), -1, dtype=torch.int64, device=apart.device)
    own = torch.arange(units, device=apart.device)
    if len(apart) < SURE:
        return first
    for start in range(0, units, PART):
        rows = own[start : start + PART]
        same = (apart[:, rows].T @ apart > SAME) & (own < rows[:, None])
        first[rows] = torch.where(same.any(1), same.to(torch.uint8).argmax(1), -1)
    return first


def _apart(maxima: Tensor) -> Tensor:
    """The images that were seen, each unit's mean taken off and its length one; NaN for units that never change."""
    maxima = precise(maxima)
    seen = maxima[~maxima.isnan().any(1)]
    if not len(seen):
        return seen
    apart = seen - seen.mean(0)
    length = apart.norm(dim=0)
    changing = length > 1e-9 * seen.abs().amax(0) * len(seen) ** 0.5
    return torch.where(changing, apart / length, torch.nan)
