"""What a step does to the weights: optimiser, learning rate over time, limits."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from convscope.errors import UsageError
from convscope.training.config import Training
from convscope.training.optimizers import OPTIMIZERS


def make_optimizer(network: nn.Module, chosen: set[str], config: Training) -> tuple[Optimizer, list[list[str]]]:
    """The optimiser over the parameters that learn, and the names in each of its groups.

    ``rates`` gives those that a glob names their own learning rate, by the last glob that fits; weight decay is for
    weights alone, not for biases and what normalisation learns.
    """
    assert config.lr is not None
    kind = OPTIMIZERS[config.optimizer]
    decay = kind.weight_decay if config.weight_decay is None else config.weight_decay
    for pattern in config.rates:
        if not any(_fits(name, pattern) for name in chosen):
            raise UsageError(f"rate {pattern}={config.rates[pattern]:g}: no parameter that learns is named so")
    groups: dict[tuple[float, float], list[str]] = {}
    parameters = dict(network.named_parameters())
    for name in (n for n in parameters if n in chosen):
        rate = next((r for pattern, r in reversed(config.rates.items()) if _fits(name, pattern)), config.lr)
        groups.setdefault((rate, decay if parameters[name].ndim > 1 else 0.0), []).append(name)
    settings: list[dict[str, Any]] = [
        {"params": [parameters[n] for n in names], "lr": rate, "weight_decay": wd, "initial_lr": rate}
        for (rate, wd), names in groups.items()
    ]
    # One kernel for all parameters; what it computes is the same.
    fused = all(parameters[name].device.type in ("cpu", "cuda") for name in chosen)
    return kind.build(settings, config.momentum, fused), list(groups.values())


def _fits(name: str, pattern: str) -> bool:
    parts = name.split(".")
    return any(fnmatchcase(".".join(parts[: i + 1]), pattern) for i in range(len(parts)))


@dataclass
class Schedule:
    """The learning rate's factor at any moment. Only ``plateau`` depends on what happened, which ``state`` holds."""

    config: Training
    epochs: int
    steps: int  # an epoch
    factor: float = 1.0
    best: float = math.inf
    waited: int = 0

    def at(self, epoch: int, step: int) -> float:
        done = epoch * self.steps + step
        warmup = round(self.config.warmup * self.steps)
        if done < warmup:
            return (done + 1) / warmup * self.factor
        if self.config.schedule == "cosine":
            share = (done - warmup) / max(1, self.epochs * self.steps - warmup)
            return 0.5 * (1 + math.cos(math.pi * min(1.0, share)))
        return self.factor

    def after_epoch(self, loss: float) -> None:
        """Divide the rate where the validation loss has not become better for ``plateau`` epochs."""
        if loss < self.best:
            self.best, self.waited = loss, 0
            return
        self.waited += 1
        if self.config.schedule == "plateau" and self.waited >= self.config.plateau:
            self.factor, self.waited = self.factor * self.config.plateau_factor, 0

    def state(self) -> dict[str, float]:
        return {"factor": self.factor, "best": self.best, "waited": self.waited}

    def restore(self, state: Mapping[str, float]) -> None:
        self.factor, self.best, self.waited = state["factor"], state["best"], int(state["waited"])


def set_rate(optimizer: Optimizer, factor: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = group["initial_lr"] * factor


@torch.no_grad()
def limit_filters(filters: Sequence[Tensor], rms: float) -> None:
    """Rescale each convolution filter whose RMS exceeds ``rms`` to it (Zeiler & Fergus 2013, section 3)."""
    for weight in filters:
        size = weight.square().mean(dim=(1, 2, 3), keepdim=True).sqrt()
        weight.mul_(torch.where(size > rms, rms / size, torch.ones_like(size)))


def filters_of(network: nn.Module, chosen: set[str]) -> list[Tensor]:
    """The weights of the convolutions that learn."""
    return [
        module.weight
        for path, module in network.named_modules()
        if isinstance(module, nn.Conv2d) and f"{path}.weight" in chosen
    ]


def class_weights(labels: np.ndarray, classes: int) -> Tensor:
    """Weights that make every class that is there count the same, 1 on average over the photos."""
    counts = np.bincount(labels, minlength=classes)
    present = counts > 0
    weights = np.zeros(classes)
    weights[present] = len(labels) / (present.sum() * counts[present])
    return torch.from_numpy(weights).float()


def pack(optimizer: Optimizer, groups: Sequence[Sequence[str]]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """An optimiser's state by the names of parameters: the tensors, and the plain numbers."""
    names = [name for group in groups for name in group]
    state = optimizer.state_dict()
    found: dict[str, Tensor] = {}
    plain: dict[str, Any] = {}
    for index, values in state["state"].items():
        for key, value in values.items():
            if isinstance(value, Tensor):
                found[f"{names[index]}/{key}"] = value.detach().cpu().clone()
            elif value is not None:
                plain[f"{names[index]}/{key}"] = value
    return found, {"groups": [list(group) for group in groups], "values": plain}


def unpack(
    optimizer: Optimizer, groups: Sequence[Sequence[str]], found: Mapping[str, Tensor], plain: Mapping[str, Any]
) -> None:
    """Put a packed state back; the groups must be those that it was packed with."""
    if plain["groups"] != [list(group) for group in groups]:
        raise UsageError("the checkpoint's optimiser has other groups of parameters: other layers were learning then")
    names = [name for group in groups for name in group]
    state: dict[int, dict[str, Any]] = {}
    for key, value in (*found.items(), *plain["values"].items()):
        name, _, entry = key.rpartition("/")
        state.setdefault(names.index(name), {})[entry] = value
    current = optimizer.state_dict()
    optimizer.load_state_dict({"state": state, "param_groups": current["param_groups"]})
