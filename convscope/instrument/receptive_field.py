"""Receptive fields: which pixels a unit can see at all, worked out backwards through the traced operations.

Exact where every operation on the way is understood: the box returned is the smallest that holds every pixel on which
the unit depends. A global operation (pooling to one value, squeeze-and-excite, flattening) makes it the whole input,
an operation not understood makes it unknown; both are said.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from math import ceil, floor
from typing import Any, Literal

import torch

from convscope.instrument.trace import Op, Trace, Value

Status = Literal["exact", "whole", "unknown"]
Span = tuple[int, int]  # first and last index, both inside
Box = tuple[Span, Span]  # rows, columns


@dataclass(frozen=True)
class Field:
    """Receptive field of a layer's units: size and stride (h, w) in input pixels, ignoring the image's border."""

    status: Status
    size: tuple[int, int]
    stride: tuple[int, int] | None


def receptive_field(taken: Trace, value: Value) -> Field:
    """Size and stride of the fields of a layer's units, far from the border."""
    whole = (taken.input.shape[2], taken.input.shape[3])
    rows, cols = (max(0, side // 2 - 1) for side in value.shape[-2:])
    status, here = _walk(taken, value, ((rows, rows), (cols, cols)), clip=False)
    if status != "exact":
        return Field(status, whole, None)
    _, there = _walk(taken, value, ((rows + 1, rows + 1), (cols + 1, cols + 1)), clip=False)
    size = (here[0][1] - here[0][0] + 1, here[1][1] - here[1][0] + 1)
    return Field(status, size, (there[0][0] - here[0][0], there[1][0] - here[1][0]))


def unit_box(taken: Trace, value: Value, row: int, col: int) -> tuple[Status, Box]:
    """The box of input pixels that the unit at (row, col) depends on, cut at the image's border."""
    return _walk(taken, value, ((row, row), (col, col)), clip=True)


class _Whole(Exception):
    pass


class _Unknown(Exception):
    pass


def _walk(taken: Trace, value: Value, box: Box, *, clip: bool) -> tuple[Status, Box]:
    height, width = taken.input.shape[2:]
    everything: Box = ((0, height - 1), (0, width - 1))
    needed: dict[int, Box] = {value.index: box}
    made_by = taken.made_by
    try:
        for i in range(made_by.get(value.index, -1), -1, -1):
            op = taken.ops[i]
            wanted = next((needed[out.index] for out in op.outputs if out.index in needed), None)
            if wanted is None:
                continue
            for source in {v.index: v for v in op.inputs}.values():
                part = _source_box(op, source, wanted)
                if part is None:
                    continue
                if clip:
                    part = _clip(part, source.shape)
                needed[source.index] = _union(needed.get(source.index), part)
    except _Whole:
        return "whole", everything
    except _Unknown:
        return "unknown", everything
    return "exact", needed.get(taken.input.index, ((0, -1), (0, -1)))


def _union(a: Box | None, b: Box) -> Box:
    if a is None:
        return b
    return (min(a[0][0], b[0][0]), max(a[0][1], b[0][1])), (min(a[1][0], b[1][0]), max(a[1][1], b[1][1]))


def _clip(box: Box, shape: tuple[int, ...]) -> Box:
    rows, cols = ((max(lo, 0), min(hi, side - 1)) for (lo, hi), side in zip(box, shape[-2:], strict=True))
    return rows, cols


def _source_box(op: Op, source: Value, box: Box) -> Box | None:
    """The part of ``source`` that ``box`` of the operation's output is made of; None: nothing of it."""
    if op.name in _RULES:
        return _RULES[op.name](op, source, box)
    if torch.Tag.pointwise in op.function.tags or op.name in SAME_PLACE:
        return _pointwise(op, source, box)
    if op.name in _SHAPING:
        return _shaping(op, source, box)
    if len(source.shape) < 4 or op.name in _GLOBAL or min(op.outputs[0].shape[-2:]) == 1:
        raise _Whole
    raise _Unknown


SAME_PLACE = {"native_batch_norm", "_native_batch_norm_legit_no_training", "cudnn_batch_norm", "miopen_batch_norm"}
SAME_PLACE |= {
    "hardswish",
    "hardsigmoid",
    "rrelu_with_noise",
    "log_sigmoid_forward",
}  # elementwise, though not tagged so
SAME_PLACE |= {
    "clone",
    "copy",
    "_to_copy",
    "detach",
    "alias",
    "contiguous",
    "lift_fresh",
    "native_dropout",
    "bernoulli",
}
_SHAPING = {
    "view",
    "_unsafe_view",
    "reshape",
    "unsqueeze",
    "squeeze",
    "transpose",
    "permute",
    "expand",
    "as_strided",
    "t",
}
_GLOBAL = {"addmm", "mm", "bmm", "linear", "_softmax", "native_group_norm", "native_layer_norm", "amax", "max", "sum"}


def _pointwise(op: Op, source: Value, box: Box) -> Box:
    out = op.outputs[0].shape
    if len(out) < 4:  # vectors: everything spatial is behind
        raise _Whole
    if source.shape[-2:] == out[-2:]:
        return box
    if len(source.shape) >= 2 and all(s in (1, o) for s, o in zip(source.shape[-2:], out[-2:], strict=True)):
        # Broadcast: one row or column serves all.
        rows, cols = ((0, 0) if s == 1 else b for s, b in zip(source.shape[-2:], box, strict=True))
        return rows, cols
    raise _Unknown


def _shaping(op: Op, source: Value, box: Box) -> Box:
    """A change of shape that leaves the last two axes alone changes nothing spatial; any other mixes them."""
    out = op.outputs[0].shape
    if len(source.shape) < 3 or len(out) < 3:
        raise _Whole
    if source.shape[-2:] != out[-2:] or op.name == "as_strided":
        raise _Whole if out[-1] == source.shape[1:].__len__() or len(out) < 4 else _Unknown
    if op.name in ("transpose", "permute"):
        ndim = len(source.shape)
        order = list(range(ndim))
        if op.name == "permute":
            order = [int(d) % ndim for d in op.args[1]]
        else:
            a, b = (int(d) % ndim for d in op.args[1:3])
            order[a], order[b] = order[b], order[a]
        if order[-2:] != [ndim - 2, ndim - 1]:
            raise _Unknown
    return box


def pair(value: Any, default: int = 1) -> tuple[int, int]:
    """The last two of an operation's per-axis settings, which may be one number, a list or empty."""
    numbers = [int(v) for v in value] if isinstance(value, (list, tuple)) else [int(value)]
    if not numbers:
        return default, default
    return (numbers[-2], numbers[-1]) if len(numbers) > 1 else (numbers[0], numbers[0])


def argument(op: Op, position: int, name: str, default: Any) -> Any:
    """An operation's argument, given by position or name, or left at its default."""
    return op.args[position] if len(op.args) > position else op.kwargs.get(name, default)


def _window(box: Box, kernel: Span, stride: Span, padding: Span, dilation: Span) -> Box:
    rows, cols = (
        (lo * s - p, hi * s - p + d * (k - 1))
        for (lo, hi), k, s, p, d in zip(box, kernel, stride, padding, dilation, strict=True)
    )
    return rows, cols


def _convolution(op: Op, source: Value, box: Box) -> Box | None:
    image, weight = op.args[:2]
    if image != source:
        raise _Unknown  # a weight that is computed from the image
    stride, padding, dilation = (pair(op.args[i]) for i in (3, 4, 5))
    kernel = (int(weight.shape[-2]), int(weight.shape[-1]))
    if not op.args[6]:
        return _window(box, kernel, stride, padding, dilation)
    rows, cols = (
        (ceil(Fraction(lo + p - d * (k - 1), s)), floor(Fraction(hi + p, s)))
        for (lo, hi), k, s, p, d in zip(box, kernel, stride, padding, dilation, strict=True)
    )
    return rows, cols


def _pool(op: Op, _: Value, box: Box) -> Box:
    kernel = pair(op.args[1])
    stride = pair(argument(op, 2, "stride", []) or list(kernel))
    dilation = pair(argument(op, 4, "dilation", 1)) if op.name.startswith("max") else (1, 1)
    return _window(box, kernel, stride, pair(argument(op, 3, "padding", 0)), dilation)


def _adaptive_pool(op: Op, source: Value, box: Box) -> Box:
    out = op.outputs[0].shape[-2:]
    if max(out) == 1:
        raise _Whole
    rows, cols = (
        (lo * side // parts, -(-(hi + 1) * side // parts) - 1)
        for (lo, hi), side, parts in zip(box, source.shape[-2:], out, strict=True)
    )
    return rows, cols


def _pad(op: Op, _: Value, box: Box) -> Box:
    amounts = [*map(int, op.args[1]), 0, 0]
    left, top = amounts[0], amounts[2]
    return (box[0][0] - top, box[0][1] - top), (box[1][0] - left, box[1][1] - left)


def _mirrored(op: Op, source: Value, box: Box) -> Box:
    """Reflection and replication: indices outside come back inside."""
    inner = _pad(op, source, box)
    fold = _reflect if op.name.startswith("reflection") else _replicate
    rows, cols = (
        (min(found), max(found))
        for found in (
            [fold(i, side) for i in range(lo, hi + 1)] for (lo, hi), side in zip(inner, source.shape[-2:], strict=True)
        )
    )
    return rows, cols


def _reflect(index: int, side: int) -> int:
    return -index if index < 0 else 2 * (side - 1) - index if index >= side else index


def _replicate(index: int, side: int) -> int:
    return min(max(index, 0), side - 1)


def _cat(op: Op, source: Value, box: Box) -> Box | None:
    parts = op.args[0]
    axis = int(argument(op, 1, "dim", 0)) % len(source.shape)
    spatial = axis - (len(source.shape) - 2)
    if spatial < 0:
        return box
    start, found = 0, None
    for part in parts:
        side = int(part.shape[axis])
        lo, hi = max(box[spatial][0] - start, 0), min(box[spatial][1] - start, side - 1)
        if part == source and lo <= hi:
            spans = list(box)
            spans[spatial] = (lo, hi)
            found = _union(found, (spans[0], spans[1]))
        start += side
    return found


def _slice(op: Op, source: Value, box: Box) -> Box:
    axis = int(argument(op, 1, "dim", 0)) % len(source.shape)
    spatial = axis - (len(source.shape) - 2)
    if spatial < 0:
        return box
    start = int(argument(op, 2, "start", 0) or 0)
    start += source.shape[axis] if start < 0 else 0
    step = int(argument(op, 4, "step", 1))
    spans = list(box)
    spans[spatial] = (start + box[spatial][0] * step, start + box[spatial][1] * step)
    return spans[0], spans[1]


def _upsample(op: Op, source: Value, box: Box) -> Box:
    spans = []
    for (lo, hi), side, out in zip(box, source.shape[-2:], op.outputs[0].shape[-2:], strict=True):
        scale = Fraction(side, out)
        if op.name == "upsample_nearest2d":
            spans.append((floor(lo * scale), floor(hi * scale)))
        elif op.name == "upsample_bilinear2d" and not op.args[2]:
            first = max((lo + Fraction(1, 2)) * scale - Fraction(1, 2), Fraction(0))
            last = max((hi + Fraction(1, 2)) * scale - Fraction(1, 2), Fraction(0))
            spans.append((floor(first), ceil(last)))
        else:
            raise _Unknown
    return _clip((spans[0], spans[1]), source.shape)


def _reduced(op: Op, source: Value, box: Box) -> Box:
    """A mean, sum or maximum over channels alone keeps the place; over rows or columns it is global."""
    axes = op.args[1] if len(op.args) > 1 else None
    axes = [axes] if isinstance(axes, int) else axes
    kept = len(op.outputs[0].shape) == len(source.shape)
    if axes and kept and all(int(a) % len(source.shape) < len(source.shape) - 2 for a in axes):
        return box
    raise _Whole


_RULES: dict[str, Callable[[Op, Value, Box], Box | None]] = {
    "convolution": _convolution,
    "max_pool2d_with_indices": _pool,
    "avg_pool2d": _pool,
    "avg_pool3d": _pool,
    "_adaptive_avg_pool2d": _adaptive_pool,
    "adaptive_max_pool2d": _adaptive_pool,
    "constant_pad_nd": _pad,
    "reflection_pad2d": _mirrored,
    "replication_pad2d": _mirrored,
    "cat": _cat,
    "slice": _slice,
    "upsample_nearest2d": _upsample,
    "upsample_bilinear2d": _upsample,
    "mean": _reduced,
    "sum": _reduced,
    "amax": _reduced,
}
