"""Boxes of changed values, and what each kind of operation makes of them: the rules of incremental inference."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor

from convscope.instrument.receptive_field import argument, keeps_place, pair
from convscope.instrument.trace import Op, Value

Span: TypeAlias = tuple[int, int]

MOSTLY = 0.7  # of a map: beyond this share of its area, gathering boxes costs more than it saves


@dataclass(frozen=True)
class Box:
    """Variants of a value: ``data`` "n c h w" at each variant's own (row, col); outside of it the value is clean."""

    data: Tensor
    places: Sequence[Span]

    @property
    def size(self) -> Span:
        return self.data.shape[2], self.data.shape[3]


class CleanMaps(dict[int, Tensor]):
    """Every value of the clean image's pass, by its index."""

    def gather(self, value: Value, box: Box | None, places: Sequence[Span], size: Span, fill: float = 0.0) -> Tensor:
        """Windows of a value, "n c *size" at ``places``, which may reach beyond its border into ``fill``."""
        clean = self[value.index]
        height, width = clean.shape[-2:]
        top = max(0, -min(row for row, _ in places))
        left = max(0, -min(col for _, col in places))
        bottom = max(0, max(row for row, _ in places) + size[0] - height)
        right = max(0, max(col for _, col in places) + size[1] - width)
        if top or left or bottom or right:
            clean = F.pad(clean, (left, right, top, bottom), value=fill)
        windows = clean.new_empty(len(places), clean.shape[1], *size)
        for i, (row, col) in enumerate(places):
            windows[i] = clean[0, :, row + top : row + top + size[0], col + left : col + left + size[1]]
            if box is not None:
                _paste(windows[i], (row, col), box.data[i], box.places[i])
        return windows


def _paste(window: Tensor, at: Span, data: Tensor, place: Span) -> None:
    """Put what overlaps of ``data`` (at ``place``) into ``window`` (at ``at``); both "c h w" on the same map."""
    spans = []
    for start, length, origin, extent in zip(at, window.shape[1:], place, data.shape[1:], strict=True):
        low, high = max(start, origin), min(start + length, origin + extent)
        if low >= high:
            return
        spans.append((slice(low - start, high - start), slice(low - origin, high - origin)))
    (rows, from_rows), (cols, from_cols) = spans
    window[:, rows, cols] = data[:, from_rows, from_cols]


def _slide(
    clean: CleanMaps, op: Op, box: Box, geometry: tuple[Span, Span, Span, Span], fill: float
) -> tuple[Tensor, list[Span]] | None:
    """The windows of the input that an operation of sliding windows needs, and where its output's box lies."""
    out = op.outputs[0].shape[-2:]
    kernel, stride, padding, dilation = geometry
    reach = [d * (k - 1) for k, d in zip(kernel, dilation, strict=True)]
    size = [min(o, (n - 1 + r) // s + 1) for n, o, r, s in zip(box.size, out, reach, stride, strict=True)]
    if size[0] * size[1] > MOSTLY * out[0] * out[1]:
        return None
    # The first output whose window reaches the changed box: ceil((start + padding - reach) / stride), inside the map.
    places = [
        tuple(
            min(max(-(-(at + p - r) // s), 0), o - n)
            for at, p, r, s, o, n in zip(place, padding, reach, stride, out, size, strict=True)
        )
        for place in box.places
    ]
    starts = [tuple(at * s - p for at, s, p in zip(place, stride, padding, strict=True)) for place in places]
    needed = [(n - 1) * s + r + 1 for n, s, r in zip(size, stride, reach, strict=True)]
    windows = clean.gather(op.inputs[0], box, [(a, b) for a, b in starts], (needed[0], needed[1]), fill)
    return windows, [(a, b) for a, b in places]


def _convolution(clean: CleanMaps, op: Op, boxes: dict[int, Box]) -> Box | None:
    image, weight, bias, stride, padding, dilation, transposed, _, groups = op.args
    if transposed or not isinstance(weight, Tensor) or len(op.inputs) != 1:
        return None
    kernel = (int(weight.shape[-2]), int(weight.shape[-1]))
    found = _slide(clean, op, boxes[image.index], (kernel, pair(stride), pair(padding), pair(dilation)), 0.0)
    if found is None:
        return None
    windows, places = found
    return Box(op.function(windows, weight, bias, stride, [0, 0], dilation, False, [0, 0], groups), places)


def _max_pool(clean: CleanMaps, op: Op, boxes: dict[int, Box]) -> Box | None:
    kernel = pair(op.args[1])
    stride = pair(argument(op, 2, "stride", []) or list(kernel))
    padding, dilation = pair(argument(op, 3, "padding", 0)), pair(argument(op, 4, "dilation", 1))
    found = _slide(clean, op, boxes[op.inputs[0].index], (kernel, stride, padding, dilation), -torch.inf)
    if found is None:
        return None
    return Box(op.function(found[0], kernel, stride, [0, 0], dilation)[0], found[1])


def _avg_pool(clean: CleanMaps, op: Op, boxes: dict[int, Box]) -> Box | None:
    kernel = pair(op.args[1])
    stride = pair(argument(op, 2, "stride", []) or list(kernel))
    padding = pair(argument(op, 3, "padding", 0))
    plain = not argument(op, 4, "ceil_mode", False) and argument(op, 6, "divisor_override", None) is None
    if not plain or (max(padding) > 0 and not argument(op, 5, "count_include_pad", True)):
        return None  # the divisor changes at the border
    found = _slide(clean, op, boxes[op.inputs[0].index], (kernel, stride, padding, (1, 1)), 0.0)
    return None if found is None else Box(op.function(found[0], kernel, stride, [0, 0]), found[1])


def _pad(clean: CleanMaps, op: Op, boxes: dict[int, Box]) -> Box | None:
    amounts = [*map(int, op.args[1]), 0, 0]
    if min(amounts) < 0 or len(op.args[1]) > 4:
        return None
    box = boxes[op.inputs[0].index]
    return Box(box.data, [(row + amounts[2], col + amounts[0]) for row, col in box.places])


def _aligned(clean: CleanMaps, op: Op, boxes: dict[int, Box]) -> tuple[Callable[[Value], Tensor], list[Span]] | None:
    """Every map among the operation's inputs, cut to one box that holds all that changed."""
    out = op.outputs[0].shape[-2:]
    if any(len(v.shape) != 4 for v in op.inputs if v.index in boxes):
        return None
    if any(tuple(v.shape[-2:]) not in (tuple(out), (1, 1)) for v in op.inputs):
        return None
    first, *others = boxes.values()
    if all(box.places == first.places and box.size == first.size for box in others):
        places, size = list(first.places), first.size
    else:
        each = list(zip(*(box.places for box in boxes.values()), strict=True))
        lows = [(min(p[0] for p in at), min(p[1] for p in at)) for at in each]
        ends = [
            [tuple(a + n for a, n in zip(p, b.size, strict=True)) for p, b in zip(at, boxes.values(), strict=True)]
            for at in each
        ]
        spans = [
            tuple(max(e[axis] for e in end) - low[axis] for axis in (0, 1)) for low, end in zip(lows, ends, strict=True)
        ]
        size = max(s[0] for s in spans), max(s[1] for s in spans)
        places = [(min(row, out[0] - size[0]), min(col, out[1] - size[1])) for row, col in lows]
    if size[0] * size[1] > MOSTLY * out[0] * out[1]:
        return None

    def cut(value: Value) -> Tensor:
        box = boxes.get(value.index)
        if box is not None and box.places == places and box.size == size:
            return box.data
        whole = clean[value.index]
        flat = whole.ndim < 4 or tuple(whole.shape[-2:]) == (1, 1)
        return whole if flat else clean.gather(value, box, places, size)

    return cut, places


def _pointwise(clean: CleanMaps, op: Op, boxes: dict[int, Box]) -> Box | None:
    aligned = _aligned(clean, op, boxes)
    if aligned is None or any(tuple(v.shape[-2:]) == (1, 1) for v in op.inputs if v.index in boxes):
        return None
    cut, places = aligned
    if any(leaf.ndim >= 2 and max(leaf.shape[-2:]) > 1 for leaf in op.constants):
        return None  # a weight that differs from place to place
    return Box(op.again(cut)[0], places)


def _cat(clean: CleanMaps, op: Op, boxes: dict[int, Box]) -> Box | None:
    if int(argument(op, 1, "dim", 0)) % 4 != 1 or not all(isinstance(part, Value) for part in op.args[0]):
        return None
    aligned = _aligned(clean, op, boxes)
    if aligned is None:
        return None
    cut, places = aligned
    count = len(places)
    return Box(torch.cat([cut(part).expand(count, -1, -1, -1) for part in op.args[0]], 1), places)


_RULES: dict[str, Callable[[CleanMaps, Op, dict[int, Box]], Box | None]] = {
    "convolution": _convolution,
    "max_pool2d_with_indices": _max_pool,
    "avg_pool2d": _avg_pool,
    "constant_pad_nd": _pad,
    "cat": _cat,
}


def changed_box(clean: CleanMaps, op: Op, boxes: dict[int, Box]) -> Box | None:
    """The box of an operation's output, where it is small enough and the operation is understood."""
    rule = _RULES.get(op.name)
    if rule is None and keeps_place(op):
        rule = _pointwise
    return rule(clean, op, boxes) if rule is not None else None
