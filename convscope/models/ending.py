"""What a network ends in: many return probabilities, and what is explained and compared are the logits before them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

_SIGMOID = {torch.sigmoid, Tensor.sigmoid, torch.special.expit}
_SOFTMAX = {torch.softmax, Tensor.softmax, F.softmax, torch.log_softmax, Tensor.log_softmax, F.log_softmax}
_RESHAPING = {torch.squeeze, Tensor.squeeze, torch.flatten, Tensor.flatten, Tensor.view, torch.reshape, Tensor.reshape}


class Ending(TorchFunctionMode):
    """Run a network inside. ``before(output)`` is then what the sigmoid or softmax at its very end was given.

    A call inside scripted or compiled code is not seen, and its output is taken as it is.
    """

    def __init__(self) -> None:
        super().__init__()
        self._last: tuple[Tensor, Tensor] | None = None  # the input of the last such call, and its output

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        output = func(*args, **kwargs)
        if func in _SIGMOID or (func in _SOFTMAX and _over_classes(*args[1:2], **kwargs)):
            given = args[0] if args else kwargs["input"]
            self._last = (given, output) if output.ndim <= 2 else None  # of maps it is a gate
        elif func in _RESHAPING and self._last is not None and args and args[0] is self._last[1]:
            self._last = func(self._last[0], *args[1:], **kwargs), output
        return output

    def before(self, output: Tensor) -> Tensor:
        """The logits that a network's ``output`` was made of; itself where it ends in neither."""
        return self._last[0] if self._last is not None and self._last[1] is output else output


def _over_classes(dim: int | None = None, **_: Any) -> bool:
    return dim in (None, 1, -1)
