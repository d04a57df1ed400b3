"""Redirected ReLUs: a way out for what a ReLU holds at zero (Olah et al. 2017, appendix).

A unit that is silent everywhere has no gradient, and a picture for it would stay what it began as. Here such a
rectifier passes down what would raise its input, for the samples whose signal it blocks altogether; all others have
their true gradient.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from convscope.instrument.backward import rectified, rectifier


class redirected(TorchFunctionMode):
    """Run a forward pass inside; enter it before ``record``. The signals of its backward pass must be of a score that
    is to rise.
    """

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        call = rectifier(func, args, kwargs or {})
        if call is None or not call[0].requires_grad:
            return func(*args, **(kwargs or {}))
        return _Redirect.apply(*call)


class _Redirect(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, top: float, in_place: bool) -> Tensor:
        ctx.save_for_backward(x > 0, x < top)
        return rectified(ctx, x, top, in_place)

    @staticmethod
    def backward(ctx: Any, signal: Tensor) -> Any:
        above, below = ctx.saved_tensors
        plain = signal * (above & below)
        going = plain.any(tuple(range(1, plain.ndim)), keepdim=True)  # of one dimension each value is a sample
        return torch.where(going, plain, signal.relu() * below), None, None
