"""Leave no trace: a network is looked at in evaluation mode, frozen, and is afterwards what it was before."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn


@contextmanager
def undisturbed(model: nn.Module, *, grad: bool = True, seed: int = 0) -> Iterator[None]:
    """Evaluation mode, parameters frozen, torch's global randomness fixed by ``seed``; all restored, also on an error.

    Frozen parameters make no graph before the layer that is explained and no weight gradients after it: this is where
    half the cost of a careless backward pass goes. A network that draws random numbers in evaluation mode (dropout left
    on) gives the same result each time. With ``grad`` gradients are on, even inside a caller's ``no_grad``.
    """
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
