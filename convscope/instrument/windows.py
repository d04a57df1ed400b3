"""Windows: the part of a canvas on which a unit answers, and is explained, exactly as on all of it.

What a unit does not see need not be computed: one of VGG16's conv3_3 sees 40 x 40 of 224 x 224 pixels. A window holds
the receptive field, begins on a whole step of every layer on the way, and where the field reaches over the canvas's
border it ends there, so that padding is met where it was. All windows of a layer are of one size and make batches.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import lcm
from typing import NamedTuple

from convscope.images.colour import Box
from convscope.instrument.receptive_field import receptive_field
from convscope.instrument.trace import Trace, Value

WORTH = 0.8  # of the canvas's pixels: a window of more saves nothing


class Window(NamedTuple):
    """Where a window begins on the canvas, and the unit's row and column on the map that the layer makes of it."""

    top: int
    left: int
    row: int
    col: int


@dataclass(frozen=True)
class Axis:
    """Along rows or columns: canvas, field and window in pixels, the steps of the layer's units and of windows."""

    canvas: int
    field: int
    start: int  # of the field of unit 0
    stride: int
    step: int
    size: int

    def span(self, index: int) -> tuple[int, int]:
        """The field of a unit, also beyond the canvas: its first pixel, and the first after it."""
        start = self.start + index * self.stride
        return start, start + self.field

    def begin(self, index: int) -> int:
        """Where the window of a unit begins."""
        aligned = max(self.start + index * self.stride, 0) // self.step * self.step
        return min(aligned, self.canvas - self.size)


@dataclass(frozen=True)
class Windows:
    """The windows of a layer's units."""

    rows: Axis
    cols: Axis

    @property
    def size(self) -> tuple[int, int]:
        return self.rows.size, self.cols.size

    def at(self, row: int, col: int) -> Window:
        """That of the unit there."""
        top, left = self.rows.begin(row), self.cols.begin(col)
        return Window(top, left, row - top // self.rows.stride, col - left // self.cols.stride)

    def field(self, row: int, col: int) -> Box:
        """The receptive field of the unit there: top, left, bottom, right, also beyond the canvas's border."""
        (top, bottom), (left, right) = self.rows.span(row), self.cols.span(col)
        return top, left, bottom, right


def windows(taken: Trace, value: Value) -> Windows | None:
    """Of the units of a traced layer's ``value``; None where all of the canvas is needed, or what is is not known."""
    if len(value.shape) != 4:
        return None
    field = receptive_field(taken, value)
    steps = _steps(taken, value)
    if field.status != "exact" or field.stride is None or field.start is None or steps is None:
        return None
    sides = taken.input.shape[2:]
    found = [_axis(*of) for of in zip(sides, field.size, field.start, field.stride, steps, strict=True)]
    if None in found:
        return None
    rows, cols = found
    assert rows is not None
    assert cols is not None
    worth = rows.size * cols.size <= WORTH * sides[0] * sides[1]
    return Windows(rows, cols) if worth else None


def _axis(canvas: int, field: int, start: int, stride: int, step: int) -> Axis | None:
    if step % stride:
        return None
    # Fields begin at up to so many pixels after a whole step; a window keeps the canvas's remainder, so that what a
    # stride leaves over at the end, or padding makes up for, is as it was.
    over = max((start + i * stride) % step for i in range(step // stride))
    least = field + over
    size = least + (canvas - least) % step
    return Axis(canvas, field, start, stride, step, min(size, canvas))


def _steps(taken: Trace, value: Value) -> tuple[int, int] | None:
    """The common steps, in pixels, of all maps that the value was made of; None if a map has no such step."""
    leading = taken.leading_to(value)
    maps = {v.shape[-2:]: v for op in taken.ops for v in op.outputs if v.index in leading and len(v.shape) == 4}
    down = right = 1
    for one in maps.values():
        stride = receptive_field(taken, one).stride
        if stride is None:
            return None
        down, right = lcm(down, stride[0]), lcm(right, stride[1])
    return down, right
