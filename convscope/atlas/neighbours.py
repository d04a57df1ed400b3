"""What fires together: within a layer, units whose maxima on the same images go up and down with each other."""

from __future__ import annotations

import torch
from torch import Tensor

from convscope.atlas.statistics import precise

NEAREST = 8
SAME = 1 - 1e-5  # a correlation from which two units are one and the same up to scale
PART = 512  # units whose correlations with all are computed at once


def neighbours(maxima: Tensor, nearest: int = NEAREST) -> tuple[Tensor, Tensor]:
    """Each unit's most correlated others, "units nearest" of (unit, Pearson correlation), the highest first.

    ``maxima``: spatial maxima "images units"; images with NaN are left out. Of equal correlations the unit with the
    lower number comes first. Units that never change have none: -1 and NaN, as has what is beyond the number of units.
    """
    maxima = precise(maxima)
    seen = maxima[~maxima.isnan().any(1)]
    units = seen.shape[1]
    others = torch.full((units, nearest), -1, dtype=torch.int64, device=maxima.device)
    found = torch.full((units, nearest), torch.nan, dtype=torch.float64, device=maxima.device)
    if len(seen) < 2:
        return others, found
    apart = seen - seen.mean(0)
    length = apart.norm(dim=0)
    changing = length > 1e-9 * seen.abs().amax(0) * len(seen) ** 0.5
    apart = torch.where(changing, apart / length, torch.nan)
    for start in range(0, units, PART):
        rows = torch.arange(start, min(start + PART, units), device=maxima.device)
        alike = (apart[:, rows].T @ apart).clamp(-1, 1)
        alike[rows - start, rows] = torch.nan  # itself
        values, order = alike.nan_to_num(-2).sort(dim=1, descending=True, stable=True)
        values, order = values[:, :nearest], order[:, :nearest]
        there = values > -2
        found[rows, : values.shape[1]] = torch.where(there, values, torch.nan)
        others[rows, : values.shape[1]] = torch.where(there, order, -1)
    return others, found


def duplicates(others: Tensor, correlations: Tensor) -> Tensor:
    """Of each unit the first one that it is the same as, up to scale; -1 for none, and for the first itself.

    ``others``, ``correlations``: what ``neighbours`` gave.
    """
    own = torch.arange(len(others), device=others.device)[:, None]
    same = (correlations > SAME) & (others < own)
    first = torch.where(same, others, len(others)).amin(1)
    return torch.where(first < len(others), first, -1)
