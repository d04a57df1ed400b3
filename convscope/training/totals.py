"""An epoch's running sums, without waiting for a GPU after each step."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor


class Totals:
    """Loss, right answers and photos so far, in float64: the same sums whether or not they were put down in between."""

    def __init__(self, values: Sequence[float], device: torch.device) -> None:
        self.values = list(values)
        self._on_cpu = device.type == "cpu"
        exact = torch.float64 if device.type != "mps" else torch.float32  # which has nothing longer
        self._tensor = torch.tensor(self.values[:2], dtype=exact, device=device)

    def add(self, losses: Tensor, logits: Tensor, labels: Tensor, counts: bool) -> None:
        """A step's; ``counts``: False for a photo that only stands in."""
        if not counts:
            return
        loss, right = losses.sum(), (logits.argmax(1) == labels).sum()
        self.values[2] += len(labels)
        if self._on_cpu:
            self.values[0] += loss.item()
            self.values[1] += right.item()
        else:
            self._tensor += torch.stack([loss, right]).to(self._tensor)

    def finite(self) -> bool:
        return all(map(math.isfinite, self.tolist()))

    def tolist(self) -> list[float]:
        return self.values if self._on_cpu else [*self._tensor.tolist(), self.values[2]]
