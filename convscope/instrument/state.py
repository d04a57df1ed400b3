"""Leave no trace: a network is looked at in evaluation mode, frozen, and is afterwards what it was before."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn
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
    with _ONE_AT_A_TIME, _looked_at(model, grad, seed):
        yield


@contextmanager
def _looked_at(model: nn.Module, grad: bool, seed: int) -> Iterator[None]:
    modules = list(model.modules())  # once: walking a large network takes longer than a small one's forward pass
    parameters = _distinct(module._parameters for module in modules)
    _check(model, parameters)
    modes = [(module, module.training) for module in modules]
    trainable = [p for p in parameters if p.requires_grad and p.is_leaf]  # a computed weight cannot be frozen
    tensors = (*parameters, *_distinct(module._buffers for module in modules))
    devices = sorted({t.device.index for t in tensors if t.device.type == "cuda"})
    try:
        # `training` is set by hand: a module's own train() may do more, such as merging weights.
        for module in modules:
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


def _distinct(found: Iterable[Mapping[str, Tensor | None]]) -> list[Tensor]:
    """The tensors of all modules, each once."""
    return list({id(t): t for tensors in found for t in tensors.values() if t is not None}.values())


def _check(model: nn.Module, parameters: Sequence[Tensor]) -> None:
    name = type(getattr(model, "network", model)).__name__
    if any(map(is_lazy, parameters)):
        raise UsageError(f"{name} has lazy layers, whose weights are not there yet: call it on a batch first")
    if any(parameter.is_inference() for parameter in parameters):
        raise UsageError(f"{name} was made in torch.inference_mode(), where no gradient can be had: make it outside")
