"""Own filters: of a convolution that ends a pass, for each sample the map of one unit alone.

Who asks for one unit a sample needs one filter of hundreds there: in VGG16's conv3_3 a fifth of the pass is saved.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Any, TypeGuard

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.module import _global_forward_hooks
from torch.overrides import TorchFunctionMode


class own_filters(TorchFunctionMode):
    """Inside, ``convolution`` gives "b 1 h w": of each sample the map of its one of ``units``; see ``takes``.

    ``done``: whether it did. What comes after it in the network cannot go on with that, so the pass must end there.
    """

    def __init__(self, convolution: nn.Conv2d, units: Sequence[int]) -> None:
        super().__init__()
        self.convolution, self.chosen = convolution, list(units)
        self.inside = self.done = False

    def __enter__(self) -> own_filters:
        with ExitStack() as stack:
            stack.enter_context(self.convolution.register_forward_pre_hook(self._begin))
            super().__enter__()
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *error: Any) -> None:
        self._stack.close()
        super().__exit__(*error)

    def _begin(self, *_: Any) -> None:
        self.inside = True

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if not self.inside or func is not F.conv2d or args[1] is not self.convolution.weight or _runs_again():
            return func(*args, **(kwargs or {}))
        self.inside, self.done = False, True
        x, weight, bias, stride, padding, dilation, _ = args
        chosen = torch.tensor(self.chosen, device=x.device)
        own = weight[chosen]
        found = _own_maps(_own_channels(x, weight, chosen), own, stride, padding, dilation)
        return (found if bias is None else found + bias[chosen][:, None, None])[:, None]


def _runs_again() -> bool:
    """Whether this is part of a checkpointed segment, which the backward pass runs once more without the mode."""
    return torch._C._autograd._top_saved_tensors_default_hooks(True) is not None


def takes(module: nn.Module) -> TypeGuard[nn.Conv2d]:
    """Whether a module is a convolution whose filters can be had one by one, and are worth it.

    A plain ``nn.Conv2d``, whose weights nothing computes and whose output no hook changes; not in half precision, where
    the order of a sum counts.
    """
    if type(module) is not nn.Conv2d or isinstance(module.padding, str):
        return False
    if module._forward_hooks or _global_forward_hooks or {"forward", "_conv_forward"} & vars(module).keys():
        return False
    taps, steps = module.kernel_size[0] * module.kernel_size[1], module.stride[0] * module.stride[1]
    return (
        isinstance(module.weight, nn.Parameter)
        and module.weight.dtype in (torch.float32, torch.float64)
        and taps * steps < module.out_channels  # as many planes are kept as there are taps, before the steps
    )


def _own_channels(x: Tensor, weight: Tensor, chosen: Tensor) -> Tensor:
    """The channels that each sample's filter sees, those of its group."""
    each = weight.shape[1]
    if each == x.shape[1]:
        return x
    group = chosen // (len(weight) * each // x.shape[1])
    return x.unflatten(1, (-1, each))[torch.arange(len(x), device=x.device), group]


def _own_maps(
    x: Tensor, filters: Tensor, stride: Sequence[int], padding: Sequence[int], dilation: Sequence[int]
) -> Tensor:
    """Maps "b h w" of a filter a sample: a product of all places with each tap, the products moved and added up.

    A batch gives what its samples give one by one, so a single one is done twice: its product may be rounded otherwise.
    """
    taps = filters.flatten(2).transpose(1, 2)
    if len(x) == 1:
        products = torch.bmm(taps.expand(2, -1, -1), x.flatten(2).expand(2, -1, -1))[:1]
    else:
        products = torch.bmm(taps, x.flatten(2))
    planes = F.pad(products.unflatten(2, x.shape[2:]), (padding[1], padding[1], padding[0], padding[0]))
    height, width = (
        (size - step * (taken - 1) - 1) // stride_ + 1
        for size, step, taken, stride_ in zip(planes.shape[2:], dilation, filters.shape[2:], stride, strict=True)
    )
    maps = torch.zeros((), device=x.device, dtype=x.dtype)
    for tap in range(planes.shape[1]):
        top, left = (at * step for at, step in zip(divmod(tap, filters.shape[3]), dilation, strict=True))
        bottom, right = top + stride[0] * (height - 1) + 1, left + stride[1] * (width - 1) + 1
        maps = maps + planes[:, tap, top : bottom : stride[0], left : right : stride[1]]
    return maps
