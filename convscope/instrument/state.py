"""Leave no trace: a network is looked at in evaluation mode, frozen, and is afterwards what it was before."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from convscope.errors import UsageError

# Modes, frozen weights and random numbers are the process's: of two threads one would restore what the other changed.
_ONE_AT_A_TIME = threading.RLock()


@contextmanager
def undisturbed(model: nn.Module, *, grad: bool = True, seed: int = 0) -> Iterator[None]:
    """Evaluation mode, parameters frozen, torch's global randomness fixed by ``seed``; all restored, also on an error.

    Frozen parameters make no graph before the layer that is explained and no weight gradients after it: this is where
    half the cost of a careless backward pass goes. A network that draws random numbers in evaluation mode (dropout left
    on) gives the same result each time. With ``grad`` gradients are on, even inside a caller's ``no_grad``. Of several
    threads one is inside at a time.
    """
    with _ONE_AT_A_TIME:
        _check(model)
        with _looked_at(model, grad, seed):
            yield


def _check(model: nn.Module) -> None:
    name = type(getattr(model, "network", model)).__name__
    if any(map(is_lazy, model.parameters())):
        raise UsageError(f"{name} has lazy layers, whose weights are not there yet: call it on a batch first")
    if any(parameter.is_inference() for parameter in model.parameters()):
        raise UsageError(f"{name} was made in torch.inference_mode(), where no gradient can be had: make it outside")


@contextmanager
def _looked_at(model: nn.Module, grad: bool, seed: int) -> Iterator[None]:
    modes = [(module, module.training) for module in model.modules()]
    trainable = [p for p in model.parameters() if p.requires_grad and p.is_leaf]  # a computed weight cannot be frozen
    tensors = (*model.parameters(), *model.buffers())
    devices = sorted({t.device.index for t in tensors if t.device.type == "cuda"})
    try:
        # `training` is set by hand: a module's own train() may do more, such as merging weights.
        for module, _ in modes:
            module.training = False
        for parameter in trainable:
            parameter.requires_grad_(False)
        with torch.random.fork_rng(devices), torch.inference_mode(False):
            # Not torch.manual_seed: that seeds every device there is, and only these are restored.
            for generator in (torch.default_generator, *(torch.cuda.default_generators[i] for i in devices)):
                generator.manual_seed(seed)
            with torch.set_grad_enabled(grad):
                yield
    finally:
        for module, training in modes:
            module.training = training
        for parameter in trainable:
            parameter.requires_grad_(True)
