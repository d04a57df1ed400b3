"""A trace: every operation of one forward pass, and which layer gave which value.

Taken below autograd, where a network is a short list of plain operations whatever its Python looked like. Layer tables,
aliases, receptive fields, memory estimates and incremental inference are all read off it.
"""

from __future__ import annotations

import weakref
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from itertools import accumulate
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.nn.parameter import is_lazy
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter, tree_map_only
from torch.utils.weak import WeakTensorKeyDictionary

from convscope.instrument.address import Address, parse_address
from convscope.instrument.calls import CallWatch, takes_hooks
from convscope.instrument.state import undisturbed

_TAKEN: WeakKeyDictionary[nn.Module, _Taken] = WeakKeyDictionary()


@dataclass(frozen=True)
class Value:
    """A tensor that an operation made. Value 0 is the input. Views and what is written in place share ``memory``."""

    index: int
    shape: tuple[int, ...]
    bytes: int
    memory: int


@dataclass(frozen=True)
class Op:
    """One operation; tensors made on the way stand in ``args`` as Values, weights and constants as tensors.

    An operation that writes into a view changes what it is a view of: that is among the ``outputs``, at their end.
    """

    function: Any
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    outputs: tuple[Value, ...]
    inputs: tuple[Value, ...]
    in_place: bool  # wrote into its input
    aliasing: bool  # wrote into memory that another tensor shares

    @cached_property
    def name(self) -> str:
        return str(self.function.overloadpacket.__name__).removesuffix("_")

    @cached_property
    def constants(self) -> list[Tensor]:
        """Weights and other tensors that no operation made."""
        return [leaf for leaf in tree_iter((self.args, self.kwargs)) if isinstance(leaf, Tensor)]

    def again(self, tensor_of: Callable[[Value], Tensor], args: tuple[Any, ...] | None = None) -> list[Tensor]:
        """Do it once more, with other tensors for its values: what came out, as in ``outputs``.

        ``args``: instead of its own.
        """
        kwargs = {name: _filled(value, tensor_of) for name, value in self.kwargs.items()}
        output = self.function(*_filled(self.args if args is None else args, tensor_of), **kwargs)
        return [output] if isinstance(output, Tensor) else [leaf for leaf in output if isinstance(leaf, Tensor)]


@dataclass(frozen=True)
class Event:
    """A layer ran: a module's ``forward`` or a function call. ``done``: operations finished by then."""

    address: Address
    kind: str  # the module's class or the function's name
    value: Value | None  # None: not a single tensor
    parameters: int
    done: int


@dataclass
class Trace:
    """What one forward pass did, in order."""

    input: Value
    output: Value | None = None
    ops: list[Op] = field(default_factory=list)
    events: list[Event] = field(default_factory=list)
    names: dict[str, str] = field(default_factory=dict)  # every path -> the first path of the same module

    def event(self, key: str) -> Event | None:
        """The layer of that key, under any of its names."""
        address = parse_address(key)
        layer = self.names.get(address.path, address.path) + address.layer[len(address.path) :]
        key = replace(address, layer=layer).key
        return next((event for event in self.events if event.address.key == key), None)

    @cached_property
    def made_by(self) -> dict[int, int]:
        """Value -> the operation that made it."""
        return {value.index: i for i, op in enumerate(self.ops) for value in op.outputs}

    def leading_to(self, value: Value) -> set[int]:
        """The values that a value was made of, and itself."""
        found = {value.index}
        for op in reversed(self.ops):
            if any(out.index in found for out in op.outputs):
                found.update(source.index for source in op.inputs)
        return found

    @property
    def held_bytes(self) -> int:
        """What all values of one sample's pass take."""
        return sum(self._sizes.values())

    @property
    def peak_bytes(self) -> int:
        """The most bytes that values take at one time in a forward pass without gradients, the input throughout."""
        first: dict[int, int] = {}
        last: dict[int, int] = {}
        for i, op in enumerate(self.ops):
            for value in (*op.inputs, *op.outputs):
                first.setdefault(value.memory, i)
                last[value.memory] = i
        change = Counter({-1: self.input.bytes})
        for memory, size in self._sizes.items():
            change[first[memory]] += size
            change[last[memory] + 1] -= size
        return max(accumulate(change[i] for i in range(-1, len(self.ops))))

    @property
    def _sizes(self) -> dict[int, int]:
        """Bytes of each piece of memory that operations made: what was seen of it first is all of it."""
        found = {value.memory: value.bytes for op in reversed(self.ops) for value in reversed(op.outputs)}
        return {memory: size for memory, size in found.items() if memory != self.input.memory}


def trace(model: nn.Module, image: Tensor, *, through: nn.Module | None = None) -> Trace:
    """Trace one forward pass of ``model``'s layers on the first of ``image`` "b c h w"; kept while the model lives.

    ``through`` is what is called when the model stands inside it (a Classifier, which normalises); its own operations
    are in the trace, its layers are not.
    """
    image = image[:1]
    caller = through or model
    taken = _TAKEN.get(model)
    if taken is None or not taken.made_of(caller):
        taken = _TAKEN[model] = _Taken(caller)
    key = (tuple(image.shape), image.dtype, image.device)
    if key not in taken.traces:
        if len(taken.traces) >= 16:
            taken.traces.clear()
        taken.traces[key] = _take(model, image, caller)
    return taken.traces[key]


class _Taken:
    """The traces of a model as it was: they are void once one of its parts is another or a weight has changed.

    Weights stand in a trace themselves, but what a network computes of them (weight norm, standardised weights) stands
    there as it was.
    """

    def __init__(self, caller: nn.Module) -> None:
        self.parts = [(weakref.ref(part), *_kind(part)) for part in _parts(caller)]
        self.traces: dict[Any, Trace] = {}

    def made_of(self, caller: nn.Module) -> bool:
        parts = list(_parts(caller))
        return len(parts) == len(self.parts) and all(
            was() is part and kind == list(_kind(part)) for part, (was, *kind) in zip(parts, self.parts, strict=True)
        )


def _parts(caller: nn.Module) -> Iterator[nn.Module | Tensor]:
    yield from caller.modules()
    yield from caller.parameters()
    yield from caller.buffers()


def _kind(part: nn.Module | Tensor) -> tuple[Any, ...]:
    if not isinstance(part, Tensor):
        return ()
    if is_lazy(part):
        return ("lazy",)
    return part.shape, part.dtype, part.device, 0 if part.is_inference() else part._version


def _take(model: nn.Module, image: Tensor, caller: nn.Module) -> Trace:
    image = image.detach().clone()
    tape = _Tape(image)
    first: dict[nn.Module, str] = {}
    for path, module in model.named_modules(remove_duplicate=False):
        tape.trace.names[path] = first.setdefault(module, path)
    watch = CallWatch(model, _composites(model), tape.after_call)
    with undisturbed(caller, grad=False), ExitStack() as hooks:
        for path, module in model.named_modules():
            if path and takes_hooks(module):
                hooks.enter_context(module.register_forward_hook(partial(tape.after_module, path)))
        with tape, watch:
            tape.trace.output = tape.value(caller(image))
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
        self.memories: dict[StorageWeakRef, int] = {}  # a weak reference keeps the address from being used again
        self.count = 0
        self.trace = Trace(self._new(image))
        self.calls: Counter[str] = Counter()

    def _new(self, tensor: Tensor) -> Value:
        memory = self.memories.setdefault(StorageWeakRef(tensor.untyped_storage()), self.count)
        value = Value(self.count, tuple(tensor.shape), tensor.numel() * tensor.element_size(), memory)
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
            writes = func._schema.is_mutable
            in_place = writes and bool(args) and output is args[0]
            others = self._sharing(args[0]) if in_place else []
            made = tuple(self._new(leaf) for leaf in (*tree_iter(output), *others) if isinstance(leaf, Tensor))
            aliasing = writes and (not in_place or bool(others))
            self.trace.ops.append(Op(func, kept_args, kept_kwargs, made, tuple(known), in_place, aliasing))
        return output

    def _sharing(self, written: Tensor) -> list[Tensor]:
        """The other tensors that live in the memory of one: its values so far, and what it is a view of."""
        memory = StorageWeakRef(written.untyped_storage())
        sharing = [t for t in self.values if t is not written and StorageWeakRef(t.untyped_storage()) == memory]
        base = written._base
        if base is not None and all(base is not other for other in sharing):
            sharing.append(base)
        return sharing

    def after_module(self, path: str, module: nn.Module, _: Any, output: Any) -> None:
        self.calls[path] += 1
        address = Address(path, self.calls[path])
        parameters = sum(p.numel() for p in module.parameters()) if address.call == 1 else 0
        self._event(address, type(module).__name__, output, parameters)

    def after_call(self, path: str, name: str, count: int, output: Tensor) -> None:
        self._event(Address(f"{path}/{name}", count), name, output, 0)

    def _event(self, address: Address, kind: str, output: Any, parameters: int) -> None:
        self.trace.events.append(Event(address, kind, self.value(output), parameters, len(self.trace.ops)))


def _filled(arguments: Any, tensor_of: Callable[[Value], Tensor]) -> Any:
    """Arguments with their values as tensors; they nest in lists and tuples alone."""
    if isinstance(arguments, Value):
        return tensor_of(arguments)
    if isinstance(arguments, (list, tuple)):
        return type(arguments)(_filled(part, tensor_of) for part in arguments)
    return arguments


def _put(values: WeakTensorKeyDictionary, tensor: Tensor) -> Any:
    return values.get(tensor, tensor)


def is_convolution(op: Op) -> bool:
    return op.function.overloadpacket is torch.ops.aten.convolution
