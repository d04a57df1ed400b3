"""Random numbers for pictures: each is a function of its picture's seed, the step and its place, whatever the batch."""

from __future__ import annotations

import operator
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from convscope.data.mixing import mixed


def seed_of(seed: int, *words: int) -> int:
    """One number for several: a picture's seed from the run's, its unit and its copy."""
    found = np.uint64(seed % 2**64)
    for word in words:
        found = mixed(np.array([found], np.uint64))[0] ^ np.uint64(word % 2**64)
    return int(mixed(np.array([found], np.uint64))[0])


def placed(values: Tensor, like: Tensor) -> Tensor:
    """Numbers of the CPU in the dtype and on the device of others; dtype first: Apple's GPU has no float64."""
    return values.to(like.dtype).to(like.device)


class Draws:
    """What is drawn for the pictures with these seeds at a step, in the order in which it is asked for."""

    def __init__(self, seeds: Sequence[int], step: int) -> None:
        self._words = mixed(np.array([operator.index(seed) % 2**64 for seed in seeds], np.uint64)) ^ mixed(
            np.array([step], np.uint64)
        )

    def __len__(self) -> int:
        return len(self._words)

    def _next(self) -> np.ndarray:
        self._words = mixed(self._words)
        return self._words

    def uniform(self, low: float, high: float) -> np.ndarray:
        """One number a picture, in [low, high)."""
        return low + (high - low) * (self._next() >> np.uint64(11)).astype(np.float64) / 2**53

    def normal(self) -> np.ndarray:
        """One standard normal number a picture (Box and Muller 1958)."""
        return np.sqrt(-2 * np.log(1 - self.uniform(0, 1))) * np.cos(2 * np.pi * self.uniform(0, 1))

    def field(self, shape: Sequence[int], *, uniform: bool = False) -> Tensor:
        """Numbers "b *shape" for each picture, float64 on the CPU: standard normal, or uniform in [0, 1)."""
        draw, generator = (torch.rand if uniform else torch.randn), torch.Generator()
        parts = []
        for word in self._next():
            generator.manual_seed(int(word >> np.uint64(1)))
            parts.append(draw(*shape, generator=generator, dtype=torch.float64))
        return torch.stack(parts)
