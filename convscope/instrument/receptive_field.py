"""Receptive fields: which pixels a unit can see at all, worked out backwards through the traced operations.

Exact where every operation on the way is understood: the box returned is the smallest that holds every pixel on which
the units at a place depend. Channels are not told apart, and rows and columns are followed one by one, so that it can
be larger, never smaller, where branches of unequal reach are split again by channel or shifted against each other. A
global operation (pooling to one value, squeeze-and-excite, flattening) makes it the whole input, an operation not
understood makes it unknown; both are said.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise
from math import ceil, floor
from typing import Any, Literal, TypeAlias

import torch

from convscope.instrument.trace import Op, Trace, Value

Status = Literal["exact", "whole", "unknown"]
Span = tuple[int, int]  # first and last index, both inside
Box = tuple[Span, Span]  # rows, columns


@dataclass(frozen=True)
class Field:
    """Receptive field of a layer's units: size and stride (h, w) in input pixels, ignoring the image's border.

    After upsampling, neighbouring units may see fields of different sizes: the largest is given, and no stride.
    ``start``: the first row and column that unit 0, 0 would see; below zero where its field begins outside the image.
    """

    status: Status
    size: tuple[int, int]
    stride: tuple[int, int] | None
    start: tuple[int, int] | None = None


def receptive_field(taken: Trace, value: Value) -> Field:
    """Size and stride of the fields of a layer's units, far from the border."""
    row, col = (max(0, side // 2 - 1) for side in value.shape[-2:])
    neighbours = [[[row + i] for i in range(3)], [[col + i] for i in range(3)]]
    status, needed = _walk(taken, value, neighbours, clip=False)
    if status != "exact":
        return Field(status, (taken.input.shape[2], taken.input.shape[3]), None)
    (height, down), (width, right) = map(_size_and_step, needed)
    if not (down and right):
        return Field(status, (height, width), None)
    top, left = needed[0][0][0] - row * down, needed[1][0][0] - col * right
    return Field(status, (height, width), (down, right), (top, left))


def _size_and_step(spans: Sequence[Indices]) -> tuple[int, int]:
    """Along one axis: the largest field of neighbouring units, and the step between them; 0 where it varies."""
    sizes = {span[-1] - span[0] + 1 if span else 0 for span in spans}
    steps = {after[0] - before[0] for before, after in pairwise(spans) if before and after}
    return max(sizes), max(steps) if len(sizes) == len(steps) == 1 else 0


def unit_box(taken: Trace, value: Value, row: int, col: int) -> tuple[Status, Box]:
    """The box of input pixels that the unit at (row, col) depends on, cut at the image's border."""
    status, needed = _walk(taken, value, [[[row]], [[col]]], clip=True)
    if status != "exact":
        return status, ((0, taken.input.shape[2] - 1), (0, taken.input.shape[3] - 1))
    rows, cols = ((indices[0], indices[-1]) if indices else (0, -1) for (indices,) in needed)
    return status, (rows, cols)


class _Whole(Exception):
    pass


class _Unknown(Exception):
    pass


Reach: TypeAlias = Callable[[int], Collection[int]]  # along one axis: the indices of the source that an output needs
Indices: TypeAlias = Sequence[int]  # ascending; of an interval, where nothing is clipped, its ends are enough
Needed: TypeAlias = Sequence[Sequence[Indices]]  # for rows and columns, what each of several units needs


def _walk(taken: Trace, value: Value, units: Needed, *, clip: bool) -> tuple[Status, Needed]:
    """What units of a value need of the input: every row and column, or without ``clip`` the first and last alone."""
    nothing: Needed = [[[]] * len(units[0])] * 2
    needed = {value.index: units}
    try:
        for op in reversed(taken.ops[: taken.made_by.get(value.index, -1) + 1]):
            for out in op.outputs:
                if out.index not in needed:
                    continue
                for source in {v.index: v for v in op.inputs}.values():
                    reaches = _reaches(op, source, out, clip)
                    if reaches is None:
                        continue
                    found = needed[out.index]
                    if reaches != _PLACE:
                        found = [
                            [_inside(indices, reach, side) if clip else _ends(indices, reach) for indices in axis]
                            for axis, reach, side in zip(found, reaches, source.shape[-2:], strict=True)
                        ]
                    before = needed.get(source.index, nothing)
                    needed[source.index] = found if before == found else _union(before, found, clip)
    except _Whole:
        return "whole", nothing
    except _Unknown:
        return "unknown", nothing
    return "exact", needed.get(taken.input.index, nothing)


def _inside(indices: Indices, reach: Reach, side: int) -> Indices:
    return indices if reach is _same else sorted({i for index in indices for i in reach(index) if 0 <= i < side})


def _ends(indices: Indices, reach: Reach) -> Indices:
    if reach is _same or not indices:
        return indices
    inner = range(indices[0], indices[-1] + 1)
    first = next((found for index in inner if (found := reach(index))), ())
    last = next((found for index in reversed(inner) if (found := reach(index))), ())
    return [min(first), max(last)] if first else []


def _union(a: Needed, b: Needed, clip: bool) -> Needed:
    """What is needed along either way; a way that needs no row needs no column either."""
    merged = [list(axis) for axis in a]
    for unit, (rows, cols) in enumerate(zip(*b, strict=True)):
        if rows and cols:
            for axis, more in zip(merged, (rows, cols), strict=True):
                have = axis[unit] or more
                axis[unit] = sorted({*have, *more}) if clip else [min(have[0], more[0]), max(have[-1], more[-1])]
    return merged


def _reaches(op: Op, source: Value, out: Value, clip: bool) -> tuple[Reach, Reach] | None:
    """For rows and columns, what ``out`` needs of ``source``; None: nothing of it."""
    if op.aliasing and out is not op.outputs[0]:
        raise _Unknown  # another value, changed by what was written into a view
    if op.name in _VALUELESS:
        return None
    if op.name in _RULES:
        return _RULES[op.name](op, source, out)
    if op.name in _MIRRORED:
        return (_mirrored if clip else _pad)(op, source, out)
    if op.name in _ALONG_AXES:
        return _along_axes(op, source, out)
    if keeps_place(op):
        return _pointwise(op, source, out)
    if op.name in _SHAPING:
        return _shaping(op, source, out)
    mixed = (
        op.name in _NORMS or op.name == "native_group_norm" or (op.name == "native_layer_norm" and len(op.args[1]) > 1)
    )
    raise _Whole if mixed or _is_vector(source) or _is_vector(out) else _Unknown


def _is_vector(value: Value) -> bool:
    """Numbers of the whole image: of the traced batch of one, a row or maps of one pixel."""
    one_row = len(value.shape) < 3 and value.shape[:1] in ((), (1,))
    return one_row or (len(value.shape) > 2 and max(value.shape[-2:]) == 1)


def keeps_place(op: Op) -> bool:
    """Whether an operation's output depends at every place on its inputs at that place alone."""
    if op.name in _NORMS:
        return not takes_statistics(op)
    return torch.Tag.pointwise in op.function.tags or op.name in _ELEMENTWISE


def takes_statistics(op: Op) -> bool:
    """Whether an operation normalises by statistics of its whole input, which are global and of all images at once."""
    return op.name in _NORMS and bool(op.args[5])


_NORMS = {"native_batch_norm", "cudnn_batch_norm", "miopen_batch_norm", "_native_batch_norm_legit"}
_ELEMENTWISE = {  # though not tagged so
    *("_native_batch_norm_legit_no_training", "native_dropout", "bernoulli"),
    *("hardswish", "hardsigmoid", "rrelu_with_noise", "log_sigmoid_forward", "_prelu_kernel"),
    *("clone", "copy", "_to_copy", "detach", "alias", "contiguous", "lift_fresh", "expand"),
}
_VALUELESS = {f"{name}_like" for name in ("zeros", "ones", "full", "empty", "rand", "randn")}
_VALUELESS |= {f"new_{name}" for name in ("zeros", "ones", "full", "empty", "empty_strided")}
_SHAPING = {"view", "_unsafe_view", "reshape", "unsqueeze", "squeeze", "transpose", "permute", "as_strided", "t"}
_MIRRORED = {"reflection_pad2d", "replication_pad2d"}
_ALONG_AXES = {"mean", "sum", "amax", "amin", "max", "min", "prod", "std", "var", "logsumexp", "linalg_vector_norm"}
_ALONG_AXES |= {"_softmax", "_log_softmax", "index_select"}


def _same(index: int) -> Collection[int]:
    return (index,)


_PLACE: tuple[Reach, Reach] = (_same, _same)


def _first(_: int) -> Collection[int]:
    return (0,)


def _pointwise(op: Op, source: Value, out: Value) -> tuple[Reach, Reach]:
    if len(source.shape) < 3 or len(out.shape) < 3:
        raise _Whole if _is_vector(source) else _Unknown
    sides = list(zip(source.shape[-2:], out.shape[-2:], strict=True))
    if any(side not in (1, other) for side, other in sides):
        raise _Unknown
    rows, cols = (_same if side == other else _first for side, other in sides)  # broadcast: one serves all
    return rows, cols


def _shaping(op: Op, source: Value, out: Value) -> tuple[Reach, Reach]:
    """A change of shape that leaves the last two axes alone changes nothing spatial; any other mixes them."""
    if len(source.shape) < 3 or len(out.shape) < 3:
        raise _Whole if _is_vector(source) or _is_vector(out) else _Unknown
    moved = op.name == "as_strided"
    if op.name in ("transpose", "permute"):
        ndim = len(source.shape)
        axes = [int(axis) % ndim for axis in (op.args[1] if op.name == "permute" else op.args[1:3])]
        moved = axes[-2:] != [ndim - 2, ndim - 1] if op.name == "permute" else max(axes) >= ndim - 2
    if moved or source.shape[-2:] != out.shape[-2:]:
        raise _Whole if _is_vector(out) else _Unknown
    return _PLACE


def pair(value: Any, default: int = 1) -> tuple[int, int]:
    """The last two of an operation's per-axis settings, which may be one number, a list or empty."""
    numbers = [int(v) for v in value] if isinstance(value, (list, tuple)) else [int(value)]
    if not numbers:
        return default, default
    return (numbers[-2], numbers[-1]) if len(numbers) > 1 else (numbers[0], numbers[0])


def argument(op: Op, position: int, name: str, default: Any) -> Any:
    """An operation's argument, given by position or name, or left at its default."""
    return op.args[position] if len(op.args) > position else op.kwargs.get(name, default)


def _window(kernel: int, stride: int, padding: int, dilation: int) -> Reach:
    def reach(index: int) -> Collection[int]:
        start = index * stride - padding
        return range(start, start + dilation * (kernel - 1) + 1, dilation)

    return reach


def _spread(kernel: int, stride: int, padding: int, dilation: int) -> Reach:
    """A transposed convolution: the inputs that a tap of the filter brings to this output."""

    def reach(index: int) -> Collection[int]:
        taps = range(index + padding, index + padding - dilation * kernel, -dilation)
        return [tap // stride for tap in taps if tap % stride == 0]

    return reach


def _convolution(op: Op, source: Value, _: Value) -> tuple[Reach, Reach]:
    image, weight = op.args[:2]
    if image != source or len(weight.shape) < 4:
        raise _Unknown  # a weight that is computed from the image; one dimension
    settings = (pair(list(weight.shape)), *(pair(op.args[i]) for i in (3, 4, 5)))
    rows, cols = ((_spread if op.args[6] else _window)(*axis) for axis in zip(*settings, strict=True))
    return rows, cols


def _pool(op: Op, _: Value, __: Value) -> tuple[Reach, Reach]:
    kernel = pair(op.args[1])
    stride = pair(argument(op, 2, "stride", []) or list(kernel))
    dilation = pair(argument(op, 4, "dilation", 1)) if op.name.startswith("max") else (1, 1)
    padding = pair(argument(op, 3, "padding", 0))
    rows, cols = (_window(*axis) for axis in zip(kernel, stride, padding, dilation, strict=True))
    return rows, cols


def _adaptive_pool(_: Op, source: Value, out: Value) -> tuple[Reach, Reach]:
    if max(out.shape[-2:]) == 1:
        raise _Whole

    def reaches(side: int, parts: int) -> Reach:
        return lambda index: range(index * side // parts, -(-(index + 1) * side // parts))

    return reaches(source.shape[-2], out.shape[-2]), reaches(source.shape[-1], out.shape[-1])


def _shift(by: int, step: int = 1) -> Reach:
    return lambda index: (index * step + by,)


def _pad(op: Op, _: Value, __: Value) -> tuple[Reach, Reach]:
    amounts = [*map(int, op.args[1]), 0, 0]
    return _shift(-amounts[2]), _shift(-amounts[0])


def _mirrored(op: Op, source: Value, _: Value) -> tuple[Reach, Reach]:
    """Reflection and replication: indices outside come back inside."""

    def fold(side: int, before: int) -> Reach:
        if op.name.startswith("replication"):
            return lambda index: (min(max(index - before, 0), side - 1),)
        return lambda index: (side - 1 - abs(side - 1 - abs(index - before)),)

    return fold(source.shape[-2], int(op.args[1][2])), fold(source.shape[-1], int(op.args[1][0]))


def _part(start: int, side: int) -> Reach:
    return lambda index: (index - start,) if start <= index < start + side else ()


def _on_axis(axis: int, ndim: int, reach: Reach) -> tuple[Reach, Reach]:
    """A reach along one axis: of rows or columns, or of another, which changes nothing spatial."""
    spatial = axis % ndim - (ndim - 2)
    return (reach if spatial == 0 else _same), (reach if spatial == 1 else _same)


def _cat(op: Op, source: Value, _: Value) -> tuple[Reach, Reach]:
    axis = int(argument(op, 1, "dim", 0)) % len(source.shape)
    if axis < len(source.shape) - 2:
        return _PLACE
    starts, end = [], 0
    for part in op.args[0]:
        starts += [end] if part == source else []
        end += int(part.shape[axis])
    parts = [_part(start, source.shape[axis]) for start in starts]
    return _on_axis(axis, len(source.shape), lambda index: [i for part in parts for i in part(index)])


def _split(op: Op, source: Value, out: Value) -> tuple[Reach, Reach]:
    axis = int(argument(op, 2, "dim", 0))
    before = op.outputs[: op.outputs.index(out)]
    return _on_axis(axis, len(source.shape), _shift(sum(part.shape[axis] for part in before)))


def _slice(op: Op, source: Value, _: Value) -> tuple[Reach, Reach]:
    axis = int(argument(op, 1, "dim", 0))
    start = int(argument(op, 2, "start", 0) or 0)
    start = max(start + source.shape[axis], 0) if start < 0 else start
    return _on_axis(axis, len(source.shape), _shift(start, int(argument(op, 4, "step", 1))))


def _index(op: Op, source: Value, out: Value) -> tuple[Reach, Reach]:
    """Channels picked by number; rows and columns picked so are not followed."""
    if len(op.args[1]) > len(source.shape) - 2:
        raise _Unknown
    return _pointwise(op, source, out)


def _upsample(op: Op, source: Value, out: Value) -> tuple[Reach, Reach]:
    smooth = op.name == "upsample_bilinear2d"
    corners = smooth and bool(op.args[2])
    given = (*op.args[3 if smooth else 2 :], None, None)[:2]

    def reaches(side: int, size: int, factor: float | None) -> Reach:
        scale = Fraction(side, size) if factor is None or side * factor == size else 1 / Fraction(factor)
        if corners:
            scale = Fraction(side - 1, max(size - 1, 1))
        offset = Fraction(0) if corners or not smooth else (scale - 1) / 2

        def reach(index: int) -> Collection[int]:
            at = index * scale + offset
            return (floor(at), min(ceil(at), side - 1)) if smooth else (floor(at),)

        return reach

    rows, cols = (reaches(*axis) for axis in zip(source.shape[-2:], out.shape[-2:], given, strict=True))
    return rows, cols


def _along_axes(op: Op, source: Value, out: Value) -> tuple[Reach, Reach]:
    """What works along channels alone keeps the place; along rows or columns it is global."""
    names = [part.name for part in op.function._schema.arguments]
    axes = argument(op, names.index("dim"), "dim", None) if "dim" in names else None
    axes = [axes] if isinstance(axes, int) else axes
    if not axes or any(int(axis) % len(source.shape) >= len(source.shape) - 2 for axis in axes):
        raise _Whole
    return _pointwise(op, source, out)


_RULES: dict[str, Callable[[Op, Value, Value], tuple[Reach, Reach]]] = {
    "convolution": _convolution,
    "max_pool2d_with_indices": _pool,
    "avg_pool2d": _pool,
    "avg_pool3d": _pool,
    "_adaptive_avg_pool2d": _adaptive_pool,
    "adaptive_max_pool2d": _adaptive_pool,
    "constant_pad_nd": _pad,
    "cat": _cat,
    "split": _split,
    "split_with_sizes": _split,
    "slice": _slice,
    "index": _index,
    "upsample_nearest2d": _upsample,
    "upsample_bilinear2d": _upsample,
}
