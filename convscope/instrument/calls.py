"""Function calls made directly in a module's ``forward``: named so that they can be layers like modules are."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils.hooks import RemovableHandle

UNITS = (2, 4)  # dimensions of what has units: numbers, or maps, of each sample


def function_name(function: Callable[..., Any]) -> str:
    """One name for all forms of a function: ``F.relu``, ``torch.relu_``, ``Tensor.relu`` -> relu; ``+=`` -> add."""
    name = getattr(function, "__name__", "")
    bare = name.strip("_")
    if name.startswith("__") and bare[:1] in "ir" and bare[1:] in _OPERATORS:
        return bare[1:]
    return "" if bare == "get" else bare  # an attribute, such as x.T, is no call


_OPERATORS = {"add", "sub", "mul", "truediv", "pow", "matmul"}


def takes_hooks(module: nn.Module) -> bool:
    """Scripted code does not."""
    return not isinstance(module, torch.jit.RecursiveScriptModule)


class CallWatch(TorchFunctionMode):
    """While active, reports ``(path, name, count, output)`` of calls made directly by the ``forward`` of ``callers``.

    Calls inside the ``forward`` of any other module of ``model`` belong to that one. ``report`` may give another tensor
    to hand on. The outermost ``TorchFunctionMode`` sees the user's call itself, not what it is made of.
    """

    def __init__(
        self,
        model: nn.Module,
        callers: Iterable[tuple[str, nn.Module]],
        report: Callable[[str, str, int, Tensor], Tensor | None],
    ) -> None:
        super().__init__()
        self.model = model
        self.paths = {id(module): path for path, module in callers}
        self.report = report
        self.stack: list[str | None] = []
        self.counts: Counter[tuple[str, str]] = Counter()
        self.handles: list[RemovableHandle] = []

    def restart(self) -> None:
        """A new forward pass begins; the last one may have been cut short anywhere."""
        self.stack.clear()
        self.counts.clear()

    def __enter__(self) -> CallWatch:
        self.thread = threading.get_ident()
        for module in self.model.modules():
            self._scope(module, self.paths.get(id(module)))
        super().__enter__()
        return self

    def __exit__(self, *exception: Any) -> None:
        super().__exit__(*exception)
        while self.handles:
            self.handles.pop().remove()

    def _scope(self, module: nn.Module, path: str | None) -> None:
        if not takes_hooks(module):
            return
        self.handles.append(module.register_forward_pre_hook(lambda *_: self._arrive(path)))
        self.handles.append(module.register_forward_hook(lambda *_: self._leave(), always_call=True))

    def _arrive(self, path: str | None) -> None:
        if threading.get_ident() == self.thread:
            self.stack.append(path)

    def _leave(self) -> None:
        if self.stack and threading.get_ident() == self.thread:
            self.stack.pop()

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        output = func(*args, **(kwargs or {}))
        if self.stack and self.stack[-1] is not None and isinstance(output, Tensor) and output.ndim in UNITS:
            path, name = self.stack[-1], function_name(func)
            if name and output.is_floating_point():
                self.counts[path, name] += 1
                handed_on = self.report(path, name, self.counts[path, name], output)
                return output if handed_on is None else handed_on
        return output
