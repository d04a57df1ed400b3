"""Which layers a network has: aliases and globs resolved, and the table that ``convscope layers`` prints."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from torch import Tensor, nn

from convscope.errors import UsageError, unknown
from convscope.instrument.address import LOGITS, Address, matching, modules_by_path, parse_address
from convscope.instrument.receptive_field import Field, receptive_field
from convscope.instrument.trace import Event, Op, Trace, Value, is_convolution, trace

ENDS = ("@first", "@penultimate")
RESHAPED = {"view", "_unsafe_view", "reshape", "squeeze", "unsqueeze", "alias", "detach", "clone"}  # the same numbers
MATRIX = {
    *("addmm", "mm", "linear", "matmul", "bmm", "addmv", "mv", "baddbmm"),
    *("_trilinear", "_cdist_forward", "_euclidean_dist"),
}
POINTWISE = {
    *("native_batch_norm", "_native_batch_norm_legit_no_training", "cudnn_batch_norm", "batch_norm"),
    *("relu", "hardtanh", "clamp", "clamp_min", "threshold", "silu", "gelu", "leaky_relu", "elu", "hardswish", "celu"),
    *("tanh", "sigmoid", "prelu", "_prelu_kernel", "mish", "softplus", "native_group_norm", "native_layer_norm"),
}


def resolve(
    model: nn.Module, layer: str | Address, image: Tensor, *, through: nn.Module | None = None
) -> list[Address]:
    """The layers that an address, alias or glob means for images like ``image`` "b c h w", in order of execution.

    A glob and ``@stages`` select layers with spatial maps only; a layer named outright is taken as named.
    """
    address = parse_address(layer) if isinstance(layer, str) else layer
    if address.layer.startswith("@"):
        if address.call != 1:
            raise UsageError(f"{address}: an alias has no calls to count, write {address.layer}")
        found = _alias(address.layer, trace(model, image, through=through))
    elif address.selects_many:
        spatial = [e.address.key for e in trace(model, image, through=through).events if is_spatial(e)]
        found = [parse_address(key) for key in matching(address.key, spatial)]
    else:
        found = [_known(model, address, image, through)]
    return [replace(f, units=address.units, position=address.position) for f in found]


def resolve_one(model: nn.Module, layer: str | Address, image: Tensor, *, through: nn.Module | None = None) -> Address:
    """As ``resolve``, for what must be one layer."""
    found = resolve(model, layer, image, through=through)
    if len(found) > 1:
        raise UsageError(f"{layer} selects {len(found)} layers, one is needed: {', '.join(f.key for f in found[:6])}")
    return found[0]


def _known(model: nn.Module, address: Address, image: Tensor, through: nn.Module | None) -> Address:
    paths = modules_by_path(model)
    if address.path not in paths and address.path != "":
        raise unknown("layer", address.path, paths, "`convscope layers MODEL` lists them")
    if address.function is not None:
        taken = trace(model, image, through=through)
        if taken.event(address.key) is None:
            raise unknown("function call", address.key, [e.address.key for e in taken.events if e.address.function])
    return address


def is_spatial(event: Event) -> bool:
    return event.value is not None and len(event.value.shape) == 4


def _alias(name: str, taken: Trace) -> list[Address]:
    if name == LOGITS:
        raise UsageError("@logits is the output, not a layer with maps")
    if name in ENDS:
        return [_end(name, taken).address]
    stages = _stages(taken)
    if not stages:
        why = "scripted code cannot be looked into" if any(map(is_convolution, taken.ops)) else "it has no convolution"
        raise UsageError(f"{name}: no spatial maps are seen in the network: {why}")
    if name == "@last_conv":
        return [stages[-1].address]
    if name == "@stages":
        return [event.address for event in stages]
    if name.startswith("@stage:"):
        index = int(name.removeprefix("@stage:"))
        if not -len(stages) <= index < len(stages):
            raise UsageError(f"{name}: the network has {len(stages)} stages, 0 to {len(stages) - 1}")
        return [stages[index].address]
    raise unknown("alias", name, ["@first", "@last_conv", "@penultimate", "@stages", "@stage:-1", "@logits"])


def _end(name: str, taken: Trace) -> Event:
    """``@first``: the first convolution's maps after what is done to them in place: BatchNorm and activation.
    ``@penultimate``: what the last weights, those that make the logits, are given."""
    weighted = [op for op in taken.ops if is_convolution(op) or (op.name in MATRIX and _weights(op))]
    leading = taken.leading_to(taken.output) if taken.output is not None else set[int]()
    weighted = [op for op in weighted if op.outputs[0].index in leading]
    if name == "@first":
        first = next(filter(is_convolution, weighted), None)
        found = [] if first is None else _successors(taken, first.outputs[0])
    else:
        given = _reshaped_from(taken, _given_to_the_last(taken, weighted)) if weighted else set[int]()
        found = [event for event in taken.events if event.value is not None and event.value.index in given]
        found = [event for event in found if event.value and event.value.shape[0] == taken.input.shape[0]]
    if not found:
        if name == "@first" and not any(map(is_convolution, taken.ops)):
            raise UsageError("@first: the network has no convolution; name a layer")
        raise UsageError(f"{name}: no module and no function call gives it; name a layer")
    # Several modules may hand on the same value: a module rather than a function, and the outermost.
    last = max(found, key=lambda event: event.done)
    same = found if name == "@penultimate" else [event for event in found if event.value == last.value]
    return next((event for event in reversed(same) if not event.address.function), last)


def _weights(op: Op) -> bool:
    """Whether it multiplies by weights, and not by something else that was computed."""
    return any(constant.ndim > 1 for constant in op.constants)


def _given_to_the_last(taken: Trace, weighted: Sequence[Op]) -> Value:
    """What the last weights are given, where they alone make the logits of it."""
    last = weighted[-1]
    reached = {taken.output.index} if taken.output is not None else set[int]()
    for op in reversed(taken.ops):
        if op is last or not any(out.index in reached for out in op.outputs):
            continue
        if any(op is one for one in weighted):
            raise UsageError("@penultimate: more than the last weights make the logits; name a layer")
        reached.update(source.index for source in op.inputs)
    if len({value.index for value in last.inputs}) > 1:
        raise UsageError("@penultimate: the last weights are given more than one thing; name a layer")
    return last.inputs[0]


def _reshaped_from(taken: Trace, value: Value) -> set[int]:
    """A value, and those that hold the same numbers in another shape."""
    found = {value.index}
    while (made := taken.made_by.get(value.index)) is not None and taken.ops[made].name in RESHAPED:
        value = taken.ops[made].inputs[0]
        found.add(value.index)
    return found - {taken.input.index}


def _successors(taken: Trace, value: Value) -> list[Event]:
    """The layers that give a convolution's maps, normalised and activated, before anything else is made of them."""
    heirs = {value.index}
    for op in taken.ops:
        own = [source.index in heirs for source in op.inputs]
        if (op.name in POINTWISE and any(own)) or (op.name == "mul" and all(own)):  # a swish multiplies by its gate
            heirs.update(out.index for out in op.outputs if out.shape == value.shape)
    return [event for event in taken.events if event.value is not None and event.value.index in heirs]


def _stages(taken: Trace) -> list[Event]:
    """The last map of each resolution at which a convolution works, after its activation and residual sum.

    A map counts if the output depends on it and if it is made of a convolution's output of the same size: one that is
    pooled, or unpooled by chance to that size, is not its successor.
    """
    leading = taken.leading_to(taken.output) if taken.output is not None else None
    heirs: dict[tuple[int, ...], set[int]] = {}
    for op in taken.ops:
        for out in op.outputs:
            size = out.shape[2:]
            if len(out.shape) != 4:
                continue
            if is_convolution(op) or any(value.index in heirs.get(size, ()) for value in op.inputs):
                heirs.setdefault(size, set()).add(out.index)
    last: dict[tuple[int, ...], Event] = {}
    for event in taken.events:
        if event.value is None or (leading is not None and event.value.index not in leading):
            continue
        size = event.value.shape[2:]
        if event.value.index in heirs.get(size, ()):
            before = last.get(size)
            # Several modules may hand on the same value: the outermost is named, but a module rather than a function.
            if before is None or before.value != event.value or not event.address.function:
                last[size] = event
    stages = sorted(last.values(), key=lambda event: event.done)
    # Maps of one pixel beside larger ones are the gates of squeeze-and-excite, not a stage.
    return [event for event in stages if event.value is not None and min(event.value.shape[2:]) > 1] or stages


@dataclass(frozen=True)
class LayerRow:
    """One line of the layer table. ``shape`` is that of one image's output."""

    address: str
    kind: str
    shape: tuple[int, ...] | None
    parameters: int
    field: Field | None


def layer_table(
    model: nn.Module, image: Tensor, *, through: nn.Module | None = None, functions: bool = False
) -> list[LayerRow]:
    """Every module that ran (with ``functions``: every function call too), in order, with its receptive field."""
    taken = trace(model, image, through=through)
    rows = []
    fields: dict[Value, Field] = {}  # containers hand on what their last layer gave
    for event in taken.events:
        if event.address.function and not functions:
            continue
        field = None
        if event.value is not None and is_spatial(event):
            field = fields[event.value] = fields.get(event.value) or receptive_field(taken, event.value)
        shape = event.value.shape[1:] if event.value is not None else None
        rows.append(LayerRow(event.address.key, event.kind, shape, event.parameters, field))
    return rows
