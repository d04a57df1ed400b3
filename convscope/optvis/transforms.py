"""Transforms: small changes that a picture must survive, fresh for every picture at every step.

What moves the picture (pad, jitter, scale, rotate, box_crop) is put together into one map and sampled once; sizes are
shares of the picture's. Seen a little differently each time, a picture cannot become one that works at one place only
(Olah et al. 2017).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from math import inf, radians
from typing import Literal, TypeAlias

import numpy as np
import torch
import torch.nn.functional as F

from convscope.errors import UsageError
from convscope.optvis.draws import Draws, placed
from convscope.types import Images

Size: TypeAlias = tuple[int, int]
Fill: TypeAlias = Literal["reflect", "grey"]


@dataclass(frozen=True)
class Focus:
    """The part of a picture that counts, where it is not all of it: moves are about its ``middle`` (row, col), in
    pixels from the picture's, and are shares of its ``size``.
    """

    middle: tuple[float, float]
    size: Size


@dataclass(frozen=True)
class Window:
    """What is seen of pictures: ``matrix`` "b 3 3" takes places of the window into the picture, both in pixels from
    the middle, as (col, row, 1). ``reach``: what shares of a move are of. ``fill``: what lies outside of the picture.
    """

    picture: Size
    size: Size
    matrix: np.ndarray
    reach: Size
    fill: Fill = "reflect"

    def moved(self, columns: np.ndarray | float, rows: np.ndarray | float) -> Window:
        """Looking so many pixels further right and down."""
        return self._then(_matrix(len(self.matrix), ((1, 0, columns), (0, 1, rows))))

    def scaled(self, factor: np.ndarray | float) -> Window:
        """What is seen, so many times as large."""
        return self._then(_matrix(len(self.matrix), ((1 / factor, 0, 0), (0, 1 / factor, 0))))

    def turned(self, angle: np.ndarray) -> Window:
        """What is seen, turned by an angle in radians, clockwise."""
        cos, sin = np.cos(angle), np.sin(angle)
        return self._then(_matrix(len(self.matrix), ((cos, sin, 0), (-sin, cos, 0))))

    def _then(self, matrix: np.ndarray) -> Window:
        return replace(self, matrix=self.matrix @ matrix)

    def sampled(self, images: Images) -> Images:
        """The pictures through the window, bilinearly."""
        (height, width), (rows, cols) = self.picture, self.size
        to_share = torch.from_numpy((np.diag([2 / width, 2 / height, 1]) @ self.matrix)[:, :2])
        along, down, shift = placed(to_share, images)[:, None, None].unbind(-1)
        x, y = (placed(torch.arange(side, dtype=torch.float64) - (side - 1) / 2, images) for side in (cols, rows))
        grid = x[:, None] * along + (y[:, None, None] * down + shift)
        images = images.contiguous(memory_format=torch.channels_last)  # which is sampled at half the cost
        if self.fill == "reflect":
            return F.grid_sample(images, grid, "bilinear", "reflection", align_corners=False)
        return F.grid_sample(images - 0.5, grid, "bilinear", "zeros", align_corners=False) + 0.5


def _matrix(count: int, rows: Sequence[Sequence[np.ndarray | float]]) -> np.ndarray:
    found = np.zeros((count, 3, 3))
    found[:, 2, 2] = 1
    for i, row in enumerate(rows):
        for j, value in enumerate(row):
            found[:, i, j] = value
    return found


@dataclass(frozen=True)
class Transform:
    """One change: of what is seen (``move``) or of the pixels themselves (``paint``). Both are told which share of the
    steps is over.
    """

    name: str
    move: Callable[[Window, Draws, float], Window] | None = None
    paint: Callable[[Images, Draws, float], Images] | None = None

    def __repr__(self) -> str:
        return self.name


def transformed(
    images: Images, transforms: Sequence[Transform], draws: Draws, done: float = 0.0, focus: Focus | None = None
) -> Images:
    """Pictures as the network is to see them. ``done``: the share of the steps that are over, in [0, 1]."""
    row, col = (0.0, 0.0) if focus is None else focus.middle
    window: Window | None = None
    for transform in transforms:
        if transform.move is not None:
            window = transform.move(window or _whole(images, focus).moved(col, row), draws, done)
        elif transform.paint is not None:
            if window is not None:
                images, window = window.moved(-col, -row).sampled(images), None
            images = transform.paint(images, draws, done)
    return images if window is None else window.moved(-col, -row).sampled(images)


def _whole(images: Images, focus: Focus | None) -> Window:
    size = (images.shape[2], images.shape[3])
    return Window(size, size, np.broadcast_to(np.eye(3), (len(images), 3, 3)), size if focus is None else focus.size)


def pad(share: float, fill: Fill = "reflect") -> Transform:
    """A border all round, so wide a share of the picture: its mirror image, or mid-grey."""
    _within("pad", 0, 1, share)
    if fill not in ("reflect", "grey"):
        raise UsageError(f"pad: fill is {fill!r}, not reflect or grey")

    def move(window: Window, draws: Draws, done: float) -> Window:
        height, width = (side + 2 * round(side * share) for side in window.size)
        return replace(window, size=(height, width), fill=fill)

    return Transform(f"pad({share:g}, {fill})", move)


def jitter(share: float) -> Transform:
    """Moved by up to so large a share of the picture, each way and by whole pixels."""
    _within("jitter", 0, 1, share)

    def move(window: Window, draws: Draws, done: float) -> Window:
        height, width = (np.floor(side * share) for side in window.reach)
        cols, rows = (np.floor(draws.uniform(-most, most + 1)) for most in (width, height))
        return window.moved(cols, rows)

    return Transform(f"jitter({share:g})", move)


def scale(least: float, most: float) -> Transform:
    """Enlarged by a factor between the two about the middle; what is seen keeps its size."""
    _within("scale", 0, inf, least, most)
    if least <= 0:
        raise UsageError(f"scale: a factor is positive, got {least:g}")
    _at_least("scale", most, least)
    return Transform(
        f"scale({least:g}, {most:g})", lambda window, draws, done: window.scaled(draws.uniform(least, most))
    )


def rotate(degrees: float) -> Transform:
    """Turned about the middle by an angle of up to so many degrees, either way."""
    _within("rotate", 0, 180, degrees)
    most = radians(degrees)
    return Transform(f"rotate({degrees:g})", lambda window, draws, done: window.turned(draws.uniform(-most, most)))


def box_crop(first: float = 0.9, last: float = 0.5, spread: float = 0.08, size: Size | None = None) -> Transform:
    """A box of the picture, enlarged to its size: the side goes from the share ``first`` to ``last`` over the steps,
    give or take 5 %, and its middle is spread about the picture's (Fel et al. 2023, whose boxes shrink from .5 to .05
    of 512 pixels; of a canvas of the network's own size so small a part holds nothing it could know).
    """
    _within("box_crop", 0.01, 1, first, last)
    _within("box_crop", 0, 1, spread)
    _at_least("box_crop", first, last)

    def move(window: Window, draws: Draws, done: float) -> Window:
        height, width = window.reach
        side = np.clip(first + (last - first) * done + 0.05 * draws.normal(), 0.05, 1)
        cols, rows = (np.clip(spread * draws.normal(), -(1 - side) / 2, (1 - side) / 2) for _ in range(2))
        rows_seen, cols_seen = size or window.size
        seen = replace(window, size=(rows_seen, cols_seen)).moved(cols * width, rows * height)
        return seen.scaled(cols_seen / (side * window.picture[1]))

    seen_at = "" if size is None else f", {size[0]}x{size[1]}"
    return Transform(f"box_crop({first:g}, {last:g}, {spread:g}{seen_at})", move)


def noise(std: float, last: float | None = None) -> Transform:
    """Normal noise on every pixel, of a standard deviation that goes to ``last`` over the steps."""
    _within("noise", 0, inf, *((std,) if last is None else (std, last)))
    end = std if last is None else last

    def paint(images: Images, draws: Draws, done: float) -> Images:
        return images + placed(draws.field(images.shape[1:]), images) * (std + (end - std) * done)

    return Transform(f"noise({std:g})" if last is None else f"noise({std:g}, {last:g})", paint=paint)


def _within(name: str, low: float, high: float, *values: float) -> None:
    if not all(low <= value <= high and value < inf for value in values):
        raise UsageError(f"{name}({', '.join(f'{value:g}' for value in values)}) is outside of {low:g} to {high:g}")


def _at_least(name: str, value: float, least: float) -> None:
    if value < least:
        raise UsageError(f"{name}: {value:g} must be at least {least:g}")
