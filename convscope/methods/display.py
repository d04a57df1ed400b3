"""How explanations are drawn: which colours and which sheet a kind of result gets."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageDraw, ImageOps
from torch import Tensor
from torchvision.transforms.v2.functional import gaussian_blur

from convscope.images import colour
from convscope.images.colour import Box
from convscope.images.frame import Placement, to_image
from convscope.images.sheet import contact_sheet
from convscope.images.sheet import save_each as save_tiles
from convscope.methods.registry import Traits

if TYPE_CHECKING:
    from convscope.methods.explanation import Explanation

SMOOTHING = 0.01  # of the canvas: single pixels are lost on a photo
SLICES = 32  # input channels of a deep filter that are drawn
CLOSE = 0.5  # of the canvas's height and width: what keeps inside is shown by itself, enlarged
ENERGY = 0.95  # of the squares: what is enough of a projection that covers nearly everything
CLOSE_UP = 224  # its longest side, about
FRAME = (255, 214, 10)  # seen on dark and on bright photos


def reading(traits: Traits) -> str:
    """How a result's colours are read, in a line."""
    if traits.kind == "pixels":
        alone = "dark is zero" if traits.sign == "positive" else "grey is zero"
        return f"Alone, {alone}; over the photo, the brighter, the more a pixel matters."
    if traits.sign == "signed":
        return "Red speaks for the target, blue against it; the photo is shown in grey."
    return "The brighter, the more a place matters."


def picture(raw: Tensor, traits: Traits) -> Image.Image:
    """One row in the colours of its kind."""
    if not bool(raw.isfinite().all()):
        return _blank(raw)
    if traits.kind == "pixels":
        if traits.sign == "positive":
            return Image.fromarray(colour.heat(raw.abs().sum(0), limit=colour.robust_limit(raw.abs().sum(0)) or None))
        return Image.fromarray(colour.pixels(raw))
    if traits.kind == "features":
        return merged(raw)
    if traits.sign == "signed":
        return Image.fromarray(colour.signed(raw))
    return Image.fromarray(colour.heat(shown(raw, traits)))


def shown(raw: Tensor, traits: Traits) -> Tensor:
    """A row as one map "h w" to lay over a photo: pixel attributions by their magnitude, slightly smoothed."""
    if traits.kind == "pixels":
        magnitude = raw.abs().sum(0).float()
        sigma = SMOOTHING * min(magnitude.shape)
        radius = min(math.ceil(3 * sigma), min(magnitude.shape) - 1)
        return gaussian_blur(magnitude[None], [2 * radius + 1] * 2, [sigma, sigma])[0]
    return raw - raw.min() if traits.sign == "relative" else raw


def small_field(raw: Tensor) -> Box | None:
    """The box of pixel attributions "c h w" that are not zero, where it is a small part of the canvas.

    Nothing outside a unit's receptive field reaches the pixels, so for an early layer this is all there is to see.
    """
    places = raw.any(0).nonzero()
    if not len(places) or not bool(raw.isfinite().all()):
        return None
    (top, left), (bottom, right) = places.amin(0).tolist(), (places.amax(0) + 1).tolist()
    if bottom - top > CLOSE * raw.shape[1] or right - left > CLOSE * raw.shape[2]:
        return None
    return top, left, bottom, right


def energy_box(raw: Tensor) -> Box:
    """The box that holds 95 % of the energy, the squares, of pixel attributions "c h w"; all where there are none."""
    energy = raw.double().square().sum(0)
    total = energy.sum()
    if not (total.isfinite() and total > 0):
        return 0, 0, energy.shape[0], energy.shape[1]
    spans = []
    for axis in (1, 0):
        share = (energy.sum(axis) / total).cumsum(0)
        outside = (1 - ENERGY) / 4  # at most, beyond each of the four sides
        spans.append((int((share <= outside).sum()), len(share) - int((1 - share <= outside).sum()) + 1))
    (top, bottom), (left, right) = spans
    return top, left, bottom, right


def closeup(raw: Tensor, canvas: Tensor, field: Box) -> tuple[Image.Image, Image.Image]:
    """The field's pixel attributions and the field on the canvas, both enlarged."""
    top, left, bottom, right = field
    box = (slice(None), slice(top, bottom), slice(left, right))
    return _enlarged(Image.fromarray(colour.pixels(raw[box]))), _enlarged(to_image(canvas[box]))


def framed(picture: Image.Image, field: Box, placement: Placement | None) -> Image.Image:
    """The picture of a whole photo with a frame round the part where a field of the canvas lies."""
    if placement is not None:
        field = placement.on_photo(field)
    top, left, bottom, right = field
    pen, stroke = ImageDraw.Draw(picture), max(1, round(max(picture.size) / 300))
    for width, ink in ((2 * stroke, "black"), (stroke, FRAME)):
        pen.rectangle((left - width, top - width, right - 1 + width, bottom - 1 + width), outline=ink, width=width)
    return picture


def _enlarged(picture: Image.Image) -> Image.Image:
    """A small picture with its pixels as squares."""
    return ImageOps.scale(picture, max(1, CLOSE_UP // max(picture.size)), Image.Resampling.NEAREST)


def _blank(raw: Tensor) -> Image.Image:
    """What stands for a map that is not finite."""
    height, width = raw.shape[-2:]
    tile = np.zeros((height, width, 3), np.uint8)
    tile[(np.add.outer(np.arange(height), np.arange(width)) // 4) % 2 == 0] = (200, 0, 120)
    return Image.fromarray(tile)


def _finite(raw: Tensor, draw: Callable[[Tensor], np.ndarray]) -> Image.Image:
    """``draw(raw)``, or what stands for it where it is not finite."""
    return Image.fromarray(draw(raw)) if bool(raw.isfinite().all()) else _blank(raw)


def over(photo: Image.Image, values: Tensor, *, signed: bool, alpha: float, placement: Placement | None) -> Image.Image:
    """A map on the canvas, over the photo."""
    if not bool(values.isfinite().all()):
        return _blank(values).resize(photo.size)
    seen = None
    # The scale is the canvas's: what the way to the photo smooths away must not change it.
    limit = colour.robust_limit(values)
    if placement is not None:
        values, seen = placement.to_photo(values), placement.seen
        height, width = placement.original
        seen = None if seen == (0, 0, height, width) else seen
    draw = colour.overlay_signed if signed else colour.overlay
    return Image.fromarray(draw(photo, values, alpha=alpha, limit=limit if limit > 0 else None, seen=seen))


def feature_tiles(maps: Tensor, squash: bool) -> list[Image.Image]:
    """Each of one image's maps "k h w" as a grey picture."""
    share = colour.squash if squash else colour.stretch
    return [_finite(m, lambda values: np.rint(share(values) * 255).astype(np.uint8)) for m in maps]


def feature_sheet(raw: Tensor, units: Sequence[int], *, title: str, columns: int, squash: bool = False) -> Image.Image:
    """Every channel of every image's maps, one by one; dead ones are marked."""
    tiles, labels, dead = [], [], []
    for maps in raw:
        tiles += feature_tiles(maps, squash)
        labels += [str(unit) for unit in units]
        dead += [not alive for alive in maps.flatten(1).any(1).tolist()]
    title += ": {} units of {}x{}".format(len(units), *raw.shape[-2:])
    if any(dead) and len(raw) == 1:
        title += f", {sum(dead)} dead on this photo (zero everywhere)"
    return contact_sheet(tiles, labels, columns=columns, dead=dead, title=title)


def filter_sheet(raw: Tensor, units: Sequence[int], *, title: str, columns: int | None) -> Image.Image:
    """Filters: in colour or grey where they see pixels, else a row of slices each, a filter's slices on one scale."""
    count, inputs, height, width = raw.shape
    title = f"{title}: {count} filters of {inputs}x{height}x{width}"
    if inputs in (1, 3):
        tiles = [_finite(weights, lambda w: colour.pixels(w, limit=float(w.abs().max()) or None)) for weights in raw]
        return contact_sheet(tiles, [str(u) for u in units], columns=columns or 16, title=title)
    title += ", red above zero and blue below"
    shown = min(inputs, SLICES)
    if shown < inputs:
        title += f", the first {shown} inputs"
    tiles, labels = [], []
    for unit, weights in zip(units, raw, strict=True):
        limit = float(weights.nan_to_num(0, 0, 0).abs().max()) or None
        tiles += [_finite(weights[i], partial(colour.signed, limit=limit)) for i in range(shown)]
        labels += [f"{unit}/{i}" for i in range(shown)]
    return contact_sheet(tiles, labels, columns=columns or shown, title=title)


def merged(maps: Tensor) -> Image.Image:
    """All maps of a layer as one, enlarged where it is small."""
    return _enlarged(_finite(maps, lambda values: colour.grey(colour.merge(values), limit=1)))


def sheet(tiles: Sequence[Image.Image], labels: Sequence[str], *, title: str, columns: int) -> Image.Image:
    """Pictures beside one another."""
    side = max(max(tile.size) for tile in tiles)
    return contact_sheet(tiles, labels, columns=columns, tile=min(max(side, 160), 320), title=title)


def save_each(found: Explanation, folder: Path, row: int, *, size: int | None, squash: bool) -> list[Path]:
    """Every part of a result as a file of its own."""
    kind = found.traits.kind
    if kind == "features":
        names = [f"unit-{u:04d}" for u in found.units]
        return save_tiles(feature_tiles(found.raw[row], squash), names, folder, size=size)
    if kind == "weights":
        tiles = [
            filter_sheet(w[None], [u], title=f"filter {u}", columns=None)
            for u, w in zip(found.units, found.raw, strict=True)
        ]
        return save_tiles(tiles, [f"filter-{u:04d}" for u in found.units], folder, size=size)
    values = shown(found.raw[row], found.traits)
    grey = _finite(values.clamp_min(0), colour.grey)
    pictures = {"grey": grey, "heat": found.picture(row), "overlay": found.overlay(row)}
    if (close := found.closeup(row)) is not None:
        pictures |= {"closeup": close[0], "closeup-photo": close[1]}
    return save_tiles(list(pictures.values()), list(pictures), folder, size=size)
