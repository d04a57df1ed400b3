"""Square cells of pixels, which are ranked, taken away and summed as one."""

from __future__ import annotations

import torch
from torch import Tensor


def cells(height: int, width: int, side: int) -> Tensor:
    """The number of the cell "h w" that each pixel is in: squares of ``side``, those at the lower right may be cut."""
    rows, cols = torch.arange(height) // side, torch.arange(width) // side
    return rows[:, None] * (-(-width // side)) + cols


def sums_in(maps: Tensor, of: Tensor) -> Tensor:
    """The sum of maps "m h w" in each cell, "m cells" in float64 on the CPU."""
    found = torch.zeros(len(maps), int(of.max()) + 1, dtype=torch.float64)
    return found.index_add_(1, of.flatten(), maps.detach().flatten(1).double().cpu())
