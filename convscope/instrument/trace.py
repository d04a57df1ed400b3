"""A trace: every operation of one forward pass, and which layer gave which value.

Taken below autograd, where a network is a short list of plain operations whatever its Python looked like. Layer tables,
aliases, receptive fields, memory estimates and incremental inference are all read off it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter, tree_map_only
from torch.utils.weak import WeakTensorKeyDictionary

from convscope.instrument.address import Address
from convscope.instrument.calls import CallWatch, takes_hooks
from convscope.instrument.state import undisturbed

_TAKEN: WeakKeyDictionary[nn.Module, dict[Any, Trace]] = WeakKeyDictionary()


@dataclass(frozen=True)
class Value:
    """A tensor that an operation made. Value 0 is the input."""

    index: int
    shape: tuple[int, ...]
    bytes: int


@dataclass(frozen=True)
class Op:
    """One operation; tensors made on the way stand in ``args`` as Values, weights and constants as tensors."""

    function: Any
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    outputs: tuple[Value, ...]
    inputs: tuple[Value, ...]
    in_place: bool  # wrote into its input
    aliasing: bool  # wrote into a view, so that another value changed as well

    @property
    def name(self) -> str:
        return str(self.function.overloadpacket.__name__).removesuffix("_")


@dataclass(frozen=True)
class Event:
    """A layer ran: a module's ``forward`` or a function call. ``done``: operations finished by then."""

    address: Address
    kind: str  # the module's class or the function's name
    value: Value | None  # None: not a single tensor
    module: nn.Module | None
    done: int


@dataclass
class Trace:
    """What one forward pass did, in order."""

    input: Value
    output: Value | None = None
    ops: list[Op] = field(default_factory=list)
    events: list[Event] = field(default_factory=list)

    def event(self, key: str) -> Event | None:
        return next((event for event in self.events if event.address.key == key), None)

    @cached_property
    def made_by(self) -> dict[int, int]:
        """Value -> the operation that made it."""
        return {value.index: i for i, op in enumerate(self.ops) for value in op.outputs}

    @property
    def held_bytes(self) -> int:
        """What one sample's backward pass holds at most: every value."""
        return sum(value.bytes for op in self.ops if not op.in_place for value in op.outputs)

    @property
    def peak_bytes(self) -> int:
        """The most bytes that values take at one time in a forward pass without gradients."""
        last = {value.index: i for i, op in enumerate(self.ops) for value in (*op.inputs, *op.outputs)}
        ends: dict[int, int] = {}
        alive = peak = self.input.bytes
        for i, op in enumerate(self.ops):
            alive += 0 if op.in_place else sum(value.bytes for value in op.outputs)
            peak = max(peak, alive)
            for value in {v.index: v for v in (*op.inputs, *op.outputs)}.values():
                if last[value.index] == i and value.index not in ends:
                    ends[value.index] = i
                    alive -= value.bytes
        return peak


def trace(model: nn.Module, image: Tensor, *, through: nn.Module | None = None) -> Trace:
    """Trace one forward pass of ``model``'s layers on the first of ``image`` "b c h w"; kept while the model lives.

    ``through`` is what is called when the model stands inside it (a Classifier, which normalises); its own operations
    are in the trace, its layers are not.
    """
    image = image[:1]
    caller = through or model
    parts = (*caller.modules(), *caller.parameters(), *caller.buffers())
    key = (tuple(image.shape), image.dtype, image.device, tuple(map(id, parts)))
    taken = _TAKEN.setdefault(model, {})
    if key not in taken:
        if len(taken) >= 16:
            taken.clear()
        taken[key] = _take(model, image, caller)
    return taken[key]


def _take(model: nn.Module, image: Tensor, caller: nn.Module) -> Trace:
    image = image.detach().clone()
    tape = _Tape(image)
    watch = CallWatch(_composites(model), tape.after_call)
    handles = [
        module.register_forward_hook(partial(tape.after_module, path))
        for path, module in model.named_modules()
        if path and takes_hooks(module)
    ]
    try:
        with undisturbed(caller, grad=False), tape, watch:
            output = caller(image)
    finally:
        for handle in handles:
            handle.remove()
    tape.trace.output = tape.value(output)
    return tape.trace


def _composites(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Modules whose forward is the user's own: the root, and what is made of parts but is no plain container."""
    for path, module in model.named_modules():
        if path == "" or (any(True for _ in module.children()) and not type(module).__module__.startswith("torch.nn")):
            yield path, module


class _Tape(TorchDispatchMode):
    def __init__(self, image: Tensor) -> None:
        super().__init__()
        self.values: WeakTensorKeyDictionary = WeakTensorKeyDictionary()
        self.count = 0
        self.trace = Trace(self._new(image))
        self.calls: Counter[str] = Counter()

    def _new(self, tensor: Tensor) -> Value:
        value = Value(self.count, tuple(tensor.shape), tensor.numel() * tensor.element_size())
        self.count += 1
        self.values[tensor] = value
        return value

    def value(self, tensor: Any) -> Value | None:
        return self.values.get(tensor) if isinstance(tensor, Tensor) else None

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        known = [v for leaf in tree_iter((args, kwargs)) if (v := self.value(leaf)) is not None]
        put = partial(_put, self.values)
        kept_args, kept_kwargs = tree_map_only(Tensor, put, (args, kwargs))
        output = func(*args, **kwargs)
        if known:
            in_place = func._schema.is_mutable and bool(args) and output is args[0]
            aliasing = func._schema.is_mutable and (not in_place or args[0]._is_view())
            made = tuple(self._new(leaf) for leaf in tree_iter(output) if isinstance(leaf, Tensor))
            self.trace.ops.append(Op(func, kept_args, kept_kwargs, made, tuple(known), in_place, aliasing))
        return output

    def after_module(self, path: str, module: nn.Module, _: Any, output: Any) -> None:
        self.calls[path] += 1
        address = Address(path, self.calls[path])
        self._event(address, type(module).__name__, output, module)

    def after_call(self, path: str, name: str, count: int, output: Tensor) -> None:
        self._event(Address(f"{path}/{name}", count), name, output, None)

    def _event(self, address: Address, kind: str, output: Any, module: nn.Module | None) -> None:
        self.trace.events.append(Event(address, kind, self.value(output), module, len(self.trace.ops)))


def _put(values: WeakTensorKeyDictionary, tensor: Tensor) -> Any:
    return values.get(tensor, tensor)


def is_convolution(op: Op) -> bool:
    return op.function.overloadpacket is torch.ops.aten.convolution
