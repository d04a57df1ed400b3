"""The optimisers there are, each with what it does unless it is told otherwise."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

from torch.optim import SGD, AdamW, Optimizer, RMSprop

HEAD, TUNE, NEW = "head", "tune", "new"  # what learns: a head on a trained base, a trained network, a new one
Groups: TypeAlias = list[dict[str, Any]]


@dataclass(frozen=True)
class Kind:
    """``build``: from groups of parameters, momentum, and whether one kernel may do for all of them."""

    build: Callable[[Groups, float, bool], Optimizer]
    rates: Mapping[str, float]  # the learning rate, by what learns
    weight_decay: float = 0.0


# Every group has its own learning rate; that of the whole, which the constructors ask for, is never used.
OPTIMIZERS: dict[str, Kind] = {
    "adamw": Kind(
        lambda groups, momentum, fused: AdamW(groups, fused=fused),
        {HEAD: 1e-3, TUNE: 1e-4, NEW: 1e-3},
        weight_decay=0.01,
    ),
    "sgd": Kind(
        lambda groups, momentum, fused: SGD(groups, lr=1.0, momentum=momentum, fused=fused),
        {HEAD: 1e-2, TUNE: 1e-3, NEW: 1e-2},
    ),
    "rmsprop": Kind(
        lambda groups, momentum, fused: RMSprop(groups, momentum=momentum),
        {HEAD: 1e-3, TUNE: 1e-5, NEW: 1e-3},
    ),
}
