"""Where the randomness of dropout begins: a function of the seed and of how far the training is."""

from __future__ import annotations

import numpy as np
import torch

from convscope.data.mixing import mixed


def seeds_of(seed: int, epoch: int, process: int, steps: int) -> np.ndarray:
    """A seed for each step of an epoch."""
    state = np.zeros(steps, np.uint64)
    for part in (seed, epoch, process, np.arange(steps, dtype=np.uint64)):
        state = mixed(state ^ np.asarray(part, np.uint64))
    return state


def seed_dropout(device: torch.device, seed: int) -> None:
    """torch.manual_seed would note a traceback for each kind of device there is not."""
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        torch.cuda.manual_seed(seed)
    elif device.type == "mps":
        torch.mps.manual_seed(seed)
