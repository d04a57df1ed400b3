"""Where a network works unless its user says otherwise."""

from __future__ import annotations

import torch


def best_device() -> torch.device:
    """A CUDA or Apple GPU where there is one, else the CPU."""
    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
