"""record: the outputs of named layers, safe from what follows in place, and no more of the forward pass than needed."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from types import TracebackType
from typing import Any

import torch
from torch import Tensor, nn

from convscope.errors import UsageError
from convscope.instrument.address import Address, find_module, parse_address
from convscope.instrument.calls import CallWatch, takes_hooks


class _Done(BaseException):
    """Ends a forward pass for its ``owner``; a BaseException, so that a user's ``except Exception`` lets it pass."""

    def __init__(self, owner: record) -> None:
        super().__init__()
        self.owner = owner


class record(Mapping[str, Any]):
    """Keep what layers put out during the forward passes made inside ``with record(model, layers) as kept``.

    ``kept[layer]`` is the output as the layer made it, whatever is done to it in place later. Of several forward passes
    the last is kept, and only those of the thread that entered.

    ``grad``: the original is kept and a clone goes on downstream, so that gradients reach it; the graph begins at the
    first of the layers where nothing before requires any.
    ``stop``: end the forward pass after the last layer asked for; code after it inside the ``with`` is skipped.
    ``reduce``: keep ``reduce(output)`` instead, taken inside the hook; nothing is copied. By layer, or one for all.
    ``replace``: hand ``replace(output)`` on instead of the output, and keep that.
    """

    def __init__(
        self,
        model: nn.Module,
        layers: Sequence[str | Address],
        *,
        grad: bool = False,
        stop: bool = False,
        reduce: Callable[[Tensor], Any] | Mapping[str, Callable[[Tensor], Any]] | None = None,
        replace: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        addresses = [parse_address(layer) if isinstance(layer, str) else layer for layer in layers]
        if not addresses:
            raise UsageError("record needs at least one layer")
        self.model = model
        self.wanted = {address.key: address for address in addresses}
        self.modules = {key: find_module(model, address.path) for key, address in self.wanted.items()}
        scripted = [key or "the network" for key, m in {**self.modules, "": model}.items() if not takes_hooks(m)]
        if scripted:
            raise UsageError(f"{scripted[0]} is scripted code, which calls no hooks: use the plain module")
        self.grad, self.stop, self.reduce, self.replace = grad, stop, reduce, replace
        self.kept: dict[str, Any] = {}

    def __enter__(self) -> record:
        self.kept.clear()
        self._thread = threading.get_ident()
        self._calls: Counter[int] = Counter()
        self._seen: set[str] = set()
        self._versions: dict[str, int] = {}
        with ExitStack() as stack:
            callers = {a.path: self.modules[k] for k, a in self.wanted.items() if a.function is not None}
            self._watch = CallWatch(self.model, callers.items(), self._after_call)
            # The root's start marks a new forward pass: calls are counted afresh, earlier outputs are let go.
            stack.enter_context(self.model.register_forward_pre_hook(self._begin))
            hooked = {id(self.modules[k]): self.modules[k] for k, a in self.wanted.items() if a.function is None}
            for module in hooked.values():
                stack.enter_context(module.register_forward_hook(self._after_module))
            if callers:
                stack.enter_context(self._watch)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> bool:
        self._stack.close()
        return isinstance(error, _Done) and error.owner is self

    def _begin(self, *_: Any) -> None:
        if threading.get_ident() != self._thread:
            return
        self._calls.clear()
        self._seen.clear()
        self.kept.clear()
        self._watch.restart()

    def _after_module(self, module: nn.Module, _: Any, output: Any) -> Any:
        if threading.get_ident() != self._thread:
            return output
        self._calls[id(module)] += 1
        call = self._calls[id(module)]
        for key, address in self.wanted.items():
            if address.function is None and address.call == call and self.modules[key] is module:
                output = self._keep(key, output)
        return self._hand_on(output)

    def _after_call(self, path: str, name: str, count: int, output: Tensor) -> Tensor:
        key = Address(f"{path}/{name}", count).key
        return self._hand_on(self._keep(key, output)) if key in self.wanted else output

    def _keep(self, key: str, output: Any) -> Tensor:
        if not isinstance(output, Tensor):
            raise UsageError(f"layer {key} gives {type(output).__name__}, not one tensor: name a layer inside it")
        self._seen.add(key)
        if self.reduce is not None:
            self.kept[key] = (self.reduce[key] if isinstance(self.reduce, Mapping) else self.reduce)(output)
            return output
        if self.replace is not None:
            output = self.replace(output)
        if self.grad and not output.requires_grad:
            output = output.detach().requires_grad_()
        if not self.grad and self.replace is None:
            self.kept[key] = output.detach().clone()
            return output
        self.kept[key] = output if self.grad else output.detach()
        self._versions[key] = output._version
        if self.stop and len(self._seen) == len(self.wanted):
            return output  # nothing comes after it
        if not self.grad:
            return output.clone()
        with torch.enable_grad():  # also where the network itself switches gradients off
            return output.clone()

    def _hand_on(self, output: Any) -> Any:
        if self.stop and len(self._seen) == len(self.wanted):
            raise _Done(self)
        return output

    def __getitem__(self, layer: str | Address) -> Any:
        key = _key(layer)
        if key in self.kept:
            if key in self._versions and self.kept[key]._version != self._versions[key]:
                raise UsageError(f"layer {key} hands on its own input, and the network writes into that: name another")
            return self.kept[key]
        if key in self.wanted:
            raise UsageError(f"layer {key} did not run in the forward pass" + self._hint(key))
        raise KeyError(key)

    def _hint(self, key: str) -> str:
        if isinstance(self.modules[key], torch.jit.ScriptModule) or "_orig_mod" in key:
            return ": it is inside traced or compiled code, which calls no hooks; use the plain module"
        return f": it has fewer than {self.wanted[key].call} calls" if self.wanted[key].call > 1 else ""

    def __contains__(self, layer: object) -> bool:
        return isinstance(layer, (str, Address)) and _key(layer) in self.kept

    def __iter__(self) -> Iterator[str]:
        return iter(self.kept)

    def __len__(self) -> int:
        return len(self.kept)


def _key(layer: str | Address) -> str:
    return layer.key if isinstance(layer, Address) else parse_address(layer).key
