"""Augmentation: photos turned, moved and recoloured at random, the same way wherever and beside whatever they come."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields, replace
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Float64, UInt8, UInt64
from torch import Tensor

from convscope.data.mixing import GOLDEN, mixed
from convscope.errors import UsageError, unknown

# What is drawn for an image, each in a place of its own: one transform more or less does not change the others' draws.
# New ones go to the end, so that old runs can be repeated.
SLOTS = (
    *("flip", "vertical_flip", "rotation", "shift_rows", "shift_cols", "shear", "zoom_rows", "zoom_cols"),
    *("brightness", "contrast", "saturation", "hue"),
    *("erase", "erase_area", "erase_aspect", "erase_top", "erase_left"),
    *("crop_area", "crop_aspect", "crop_top", "crop_left"),
)
LIMITS = {  # what each figure is, and the most it may be
    "flip": ("a probability", 1.0),
    "vertical_flip": ("a probability", 1.0),
    "rotation": ("degrees", 180.0),
    "shift": ("a share of the height and the width", 1.0),
    "shear": ("a tangent", 2.0),
    "zoom": ("a share", 0.9),
    "brightness": ("a share", 10.0),
    "contrast": ("a share", 10.0),
    "saturation": ("a share", 10.0),
    "hue": ("turns of the colour circle", 0.5),
    "erase": ("a probability", 1.0),
    "crop": ("the least share of the photo's area", 1.0),
}
FILLS = {"nearest": "border", "reflect": "reflection", "zeros": "zeros"}  # grid_sample's names
BARE = {"flip": 0.5, "vertical_flip": 0.5}  # in text these need no figure
LUMINANCE = (0.2989, 0.587, 0.114)  # torchvision's
ERASED = (0.02, 0.2)  # shares of the area
ERASED_ASPECT = (1 / 2, 2.0)
CROP_ASPECT = (3 / 4, 4 / 3)
GREY = 128
AT_ONCE = 2**18  # pixel values worked on at once: outside of a core's cache grid_sample takes up to three times as long
HINT = "none, light, standard, strong, or transforms as in rotation=40,flip"

Draws = dict[str, np.ndarray]  # by slot, float64 "b"


def _figure(name: str, given: Any) -> float:
    meaning, most = LIMITS[name]
    try:
        value = math.nan if isinstance(given, bool) else float(given)
    except (TypeError, ValueError):
        value = math.nan
    if not 0 <= value <= most:
        raise UsageError(f"augmentation: {name} is {meaning}, from 0 to {most:g}: got {given!r}")
    return value


def _filling(name: str) -> str:
    if name not in FILLS:
        raise unknown("fill", name, FILLS)
    return name


@dataclass(frozen=True)
class Augmentation:
    """Random changes to photos that leave their class what it is; all off by default.

    Digits and text must not be flipped (a mirrored 2 is none, b becomes d), nor anything else where left and right
    are the point. In this order:

    - ``brightness``, ``contrast``, ``saturation``: factors uniform in [1 - v, 1 + v], not below 0; ``hue``: turns of
      the colour circle, uniform in ±. As torchvision's ColorJitter, always in this order. A grey photo has neither
      saturation nor hue.
    - ``flip``, ``vertical_flip``: probability of a mirror image, left for right or upside down.
    - ``zoom``: each axis by its own factor, uniform in [1 - z, 1 + z]. ``shear``: each row slides sideways by up to
      so many of its distances from the centre: the tangent of the angle, uniform in ± (.2 is 11 degrees; elsewhere a
      figure without a unit may be radians or degrees). ``rotation``: degrees, uniform in ±. ``shift``: share of the
      height and of the width, each uniform in ±. All about the centre, in pixels, in one resampling.
    - ``fill``: what comes in from outside: the edge's colour ("nearest"), the mirrored photo ("reflect"), black
      ("zeros").
    - ``erase``: probability that a box of 2 to 20 % of the area becomes mid grey.

    ``crop`` comes before all of these and is not done by ``apply``: ``box`` says which part of the photo is framed.
    Its share of the area is uniform in [crop, 1], its aspect log-uniform in [3/4, 4/3] of the canvas's.
    """

    flip: float = 0.0
    vertical_flip: float = 0.0
    rotation: float = 0.0
    shift: float = 0.0
    shear: float = 0.0
    zoom: float = 0.0
    fill: Literal["nearest", "reflect", "zeros"] = "nearest"
    brightness: float = 0.0
    contrast: float = 0.0
    saturation: float = 0.0
    hue: float = 0.0
    erase: float = 0.0
    crop: float = 0.0

    def __post_init__(self) -> None:
        for name in LIMITS:
            object.__setattr__(self, name, _figure(name, getattr(self, name)))
        _filling(self.fill)

    def __str__(self) -> str:
        """What is on, in words that ``augmentation`` reads."""
        changed = [(f.name, getattr(self, f.name)) for f in fields(self) if getattr(self, f.name) != f.default]
        return ",".join(f"{name}={str(value).removesuffix('.0')}" for name, value in changed) or "none"

    @property
    def active(self) -> bool:
        """Whether anything is on."""
        return any(getattr(self, name) for name in LIMITS)

    @property
    def on_canvas(self) -> bool:
        """Whether ``apply`` does anything."""
        return any(getattr(self, name) for name in LIMITS if name != "crop")

    def apply(
        self, images: UInt8[Tensor, "b c h w"], keys: UInt64[np.ndarray, " b"], *, seed: int, epoch: int
    ) -> UInt8[Tensor, "b c h w"]:
        """Augmented images (1 or 3 channels, on the CPU). What becomes of one depends on its pixels, its key, the seed
        and the epoch, to the bit: not on what else is in the batch, nor on how many threads or workers there are."""
        done = images.clone(memory_format=torch.contiguous_format)
        if not self.on_canvas or not done.numel():
            return done
        draws = _draws(keys, seed, epoch)
        for name, axis in (("flip", -1), ("vertical_flip", -2)):
            for i in np.flatnonzero(draws[name] < getattr(self, name)):
                done[i] = done[i].flip(axis)
        if self._in_float:
            step = max(1, AT_ONCE // done[0].numel())
            for start in range(0, len(done), step):
                part = slice(start, start + step)
                changed = self._changed(done[part].float(), {slot: drawn[part] for slot, drawn in draws.items()})
                done[part] = changed.round_().short()  # straight to bytes is not vectorised: four times as slow
        for i in np.flatnonzero(draws["erase"] < self.erase):
            top, left, bottom, right = _erased(done.shape[2], done.shape[3], {s: float(d[i]) for s, d in draws.items()})
            done[i, :, top:bottom, left:right] = GREY
        return done

    def box(
        self, key: int, height: int, width: int, canvas: tuple[int, int], *, seed: int, epoch: int
    ) -> tuple[float, float, float, float] | None:
        """The part of a photo to be framed: top, left, bottom, right in its pixels; None where crop is off.

        A box that is wider or higher than the photo is made smaller, its aspect kept.
        """
        if not self.crop:
            return None
        draw = {slot: float(drawn[0]) for slot, drawn in _draws(np.array([key], np.uint64), seed, epoch).items()}
        aspect = canvas[1] / canvas[0] * _log_between(CROP_ASPECT, draw["crop_aspect"])
        area = _between((self.crop, 1), draw["crop_area"]) * height * width
        rows, cols = _sides(area, aspect, height, width)
        top, left = draw["crop_top"] * (height - rows), draw["crop_left"] * (width - cols)
        return top, left, min(top + rows, height), min(left + cols, width)

    @property
    def _moves(self) -> bool:
        return any((self.rotation, self.shift, self.shear, self.zoom))

    @property
    def _in_float(self) -> bool:
        return self._moves or any((self.brightness, self.contrast, self.saturation, self.hue))

    def _changed(self, pixels: Float[Tensor, "n c h w"], draws: Draws) -> Float[Tensor, "n c h w"]:
        """Colour, then movement: what comes in from outside is not recoloured. May work in place; values 0 to 255.

        Only operations that round every element alike, wherever it lies in memory (no fused multiply-add, of which the
        vectorised middle and the scalar end of a tensor differ), so that a batch gives what its images give alone.
        """
        if self.brightness:
            pixels.mul_(_factors(self.brightness, draws["brightness"])).clamp_(max=255)
        if self.contrast:
            factors = _factors(self.contrast, draws["contrast"])
            middle = _mean(_grey(pixels)) * (1 - factors)
            pixels.mul_(factors).add_(middle).clamp_(0, 255)
        if self.saturation and pixels.shape[1] == 3:
            factors = _factors(self.saturation, draws["saturation"])
            grey = _grey(pixels) * (1 - factors)
            pixels.mul_(factors).add_(grey).clamp_(0, 255)
        if self.hue and pixels.shape[1] == 3:
            pixels = _turn_hue(pixels, _each(_around(self.hue, draws["hue"])))
        return self._moved(pixels, draws) if self._moves else pixels

    def _moved(self, pixels: Float[Tensor, "n c h w"], draws: Draws) -> Float[Tensor, "n c h w"]:
        height, width = pixels.shape[2:]
        shares = {
            "rotation": _around(self.rotation, draws["rotation"]),
            "shift_rows": _around(self.shift * height, draws["shift_rows"]),
            "shift_cols": _around(self.shift * width, draws["shift_cols"]),
            "shear": _around(self.shear, draws["shear"]),
            "zoom_rows": 1 + _around(self.zoom, draws["zoom_rows"]),
            "zoom_cols": 1 + _around(self.zoom, draws["zoom_cols"]),
        }
        places = np.array([_source(*map(float, one)) for one in zip(*shares.values(), strict=True)])
        return _sampled(pixels, places, FILLS[self.fill])


PRESETS = {
    "none": Augmentation(),
    "light": Augmentation(flip=0.5, shift=0.1, zoom=0.1),
    "standard": Augmentation(flip=0.5, rotation=10, shift=0.1, zoom=0.2, brightness=0.2, contrast=0.2, saturation=0.2),
    "strong": Augmentation(  # the movements are those of the classic cats and dogs
        flip=0.5,
        rotation=40,
        shift=0.2,
        shear=0.2,
        zoom=0.2,
        brightness=0.4,
        contrast=0.4,
        saturation=0.4,
        hue=0.05,
        erase=0.25,
    ),
}


def augmentation(text: str) -> Augmentation:
    """What a user wrote: a preset ("none", "light", "standard", "strong"), transforms by name ("rotation=40,flip"), or
    a preset and changes to it ("standard,rotation=0"). ``flip`` alone is a probability of a half."""
    first, *others = (word.strip() for word in text.split(","))
    preset, words = (PRESETS[first], others) if first in PRESETS else (PRESETS["none"], [first, *others])
    changes: dict[str, Any] = {}
    for word in words:
        name, equals, value = (part.strip() for part in word.partition("="))
        if name in PRESETS:
            raise UsageError(f"augmentation {text!r}: the preset {name} stands first, and alone")
        if name not in LIMITS and name != "fill":
            raise unknown("augmentation", name, [*PRESETS, *LIMITS, "fill"], HINT)
        if name in changes:
            raise UsageError(f"augmentation {text!r}: {name} is given twice")
        if not equals and name not in BARE:
            what = f"one of {', '.join(FILLS)}" if name == "fill" else LIMITS[name][0]
            raise UsageError(f"augmentation {text!r}: {name} needs a value, {what}: {name}=...")
        if name == "fill":
            changes[name] = _filling(value)
        else:
            changes[name] = _figure(name, value) if equals else BARE[name]
    return replace(preset, **changes)


# Chance


def uniform(seed: int, epoch: int, keys: UInt64[np.ndarray, " b"], count: int) -> Float64[np.ndarray, "b count"]:
    """Numbers in [0, 1) that are a function of seed, epoch, key and position: a row for each key, ``count`` positions.

    A counter-based generator: the outputs of splitmix64 from a state into which seed, epoch and key are hashed by the
    same step. No state is kept, and the generators of torch and numpy are not touched.
    """
    words = [np.array([int(word) % 2**64], np.uint64) for word in (seed, epoch)]
    state = np.zeros(1, np.uint64)
    for word in (*words, np.asarray(keys, np.uint64)):
        state = mixed(state ^ word)
    places = np.arange(count, dtype=np.uint64) * GOLDEN
    return (mixed(state[:, None] + places) >> np.uint64(11)) * 2.0**-53


def _draws(keys: np.ndarray, seed: int, epoch: int) -> Draws:
    return dict(zip(SLOTS, uniform(seed, epoch, keys, len(SLOTS)).T, strict=True))


def _around(most: float, drawn: np.ndarray) -> np.ndarray:
    """Uniform in ± most."""
    return most * (2 * drawn - 1)


def _between(ends: tuple[float, float], drawn: float) -> float:
    return ends[0] + (ends[1] - ends[0]) * drawn


def _log_between(ends: tuple[float, float], drawn: float) -> float:
    return math.exp(_between((math.log(ends[0]), math.log(ends[1])), drawn))


def _sides(area: float, aspect: float, height: float, width: float) -> tuple[float, float]:
    """Rows and columns of a box of this area and aspect (columns by rows), or of the largest one that fits."""
    rows = min(math.sqrt(area / aspect), height, width / aspect)
    return rows, min(rows * aspect, width)


def _erased(height: int, width: int, draw: dict[str, float]) -> tuple[int, int, int, int]:
    area = _between(ERASED, draw["erase_area"]) * height * width
    sides = _sides(area, _log_between(ERASED_ASPECT, draw["erase_aspect"]), height, width)
    rows, cols = (max(1, round(side)) for side in sides)
    top, left = int(draw["erase_top"] * (height - rows + 1)), int(draw["erase_left"] * (width - cols + 1))
    return top, left, top + rows, left + cols


# Colour, of pixels "n c h w" from 0 to 255


def _each(values: np.ndarray) -> Tensor:
    """A number for each image, as float32 "n 1 1 1"."""
    return torch.from_numpy(values.astype(np.float32))[:, None, None, None]


def _factors(most: float, drawn: np.ndarray) -> Tensor:
    least = max(0.0, 1 - most)
    return _each(least + (1 + most - least) * drawn)


def _grey(pixels: Tensor) -> Tensor:
    """Luminance "n 1 h w"."""
    if pixels.shape[1] == 1:
        return pixels
    red, green, blue = (pixels[:, i : i + 1] * weight for i, weight in enumerate(LUMINANCE))
    return red.add_(green).add_(blue)


def _mean(grey: Tensor) -> Tensor:
    """Mean of each image, "n 1 1 1". Summed in whole 256ths: a sum of floats depends on how it is shared out."""
    sums = (grey * 256).int().sum((2, 3), keepdim=True)
    return (sums.double() / (256 * grey.shape[2] * grey.shape[3])).float()


def _turn_hue(pixels: Tensor, turns: Tensor) -> Tensor:
    """Hue turned by ``turns`` "n 1 1 1" of the colour circle, value and saturation (of HSV) kept.

    With the largest and the smallest channel, hi and lo, of a hue, a channel is lo + (hi - lo) * clamp(2 - 6 d), where
    d is the hue's distance on the circle from the channel's own pure colour.
    """
    red, green, blue = (pixels[:, i : i + 1] for i in range(3))
    high, low = torch.maximum(torch.maximum(red, green), blue), torch.minimum(torch.minimum(red, green), blue)
    chroma = high - low
    # Multiplied by 0 or 1, which is several times as quick as torch.where.
    most_red = torch.eq(red, high, out=torch.empty_like(high))
    most_green = torch.eq(green, high, out=torch.empty_like(high)).mul_(1 - most_red)
    most_blue = 1 - most_red - most_green
    sixths = most_red * (green - blue) + most_green * (blue - red) + most_blue * (red - green)
    sixths = sixths.div_(chroma.clamp(min=1e-6)).add_(most_green.mul_(2)).add_(most_blue.mul_(4))
    places = sixths.div_(6).add_(turns) - torch.tensor([0, 1 / 3, 2 / 3])[None, :, None, None]
    distance = places.sub_(places.round()).abs_()
    return distance.mul_(-6).add_(2).clamp_(0, 1).mul_(chroma).add_(low)


# Movement


def _source(
    degrees: float, down: float, right: float, shear: float, zoom_rows: float, zoom_cols: float
) -> tuple[float, float, float, float, float, float]:
    """Where in the photo a place on the canvas comes from: row = a r + b c + e, col = f r + g c + h.

    Returns a, b, e, f, g, h, for pixels counted from the centre. The photo is zoomed, sheared, turned (anticlockwise)
    and shifted, in this order; what is needed here is the inverse.
    """
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    row = (cos / zoom_rows, sin / zoom_rows)
    col = ((-sin - shear * cos) / zoom_cols, (cos - shear * sin) / zoom_cols)
    return *row, -(row[0] * down + row[1] * right), *col, -(col[0] * down + col[1] * right)


def _sampled(pixels: Tensor, places: np.ndarray, outside: str) -> Tensor:
    """Pixels at the ``places`` (a row of ``_source`` for each image), bilinear.

    The grid is affine_grid's, made of sums of what depends on the column and what depends on the row: exact alike in
    any batch, which affine_grid's matrix product need not be, and fifty times as quick.
    """
    height, width = pixels.shape[2:]
    scale = np.array([2 / width, 2 / height])[:, None]  # grid_sample's coordinates: col first, from -1 to 1
    rows, cols = (np.arange(side) - (side - 1) / 2 for side in (height, width))
    places = places.reshape(-1, 2, 3)[:, ::-1]
    along = (places[:, :, 1:2] * cols + places[:, :, 2:3]) * scale
    downwards = places[:, :, 0:1] * rows * scale
    across, down = (torch.from_numpy(part.astype(np.float32)) for part in (along, downwards))
    grid = (across[:, :, None, :] + down[:, :, :, None]).permute(0, 2, 3, 1)
    return F.grid_sample(pixels, grid, mode="bilinear", padding_mode=outside, align_corners=False)
