"""How a photo becomes a network's canvas, and the way back: resize, crop and their inverse."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from convscope.errors import ImageError, UsageError

FILTERS = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}
MAX_RESIZED = 2**26  # pixels; a photo of one row, enlarged to cover a canvas, has no end


def canvas_of(size: int | Sequence[int]) -> tuple[int, int]:
    """A user's ``size``, one side or (height, width), as (height, width)."""
    try:
        sides = [operator.index(side) for side in (size if isinstance(size, Sequence) else (size, size))]
    except TypeError:
        sides = []
    if len(sides) != 2 or min(sides) < 1:
        raise UsageError(f"a size is one side or (height, width), in pixels: got {size!r}")
    return sides[0], sides[1]


@dataclass(frozen=True)
class Placement:
    """Where a photo of ``original`` (h, w) came to lie: resized to ``resized``, then cut to ``canvas`` at top, left."""

    original: tuple[int, int]
    resized: tuple[int, int]
    top: int
    left: int
    canvas: tuple[int, int]

    @property
    def seen(self) -> tuple[int, int, int, int]:
        """The part of the original that the network sees: top, left, bottom, right in the original's pixels."""
        top, bottom = self._span(0, self.top)
        left, right = self._span(1, self.left)
        return top, left, bottom, right

    def _span(self, axis: int, start: int) -> tuple[int, int]:
        """First pixel of the original that is seen along an axis, and the first after it that is not."""
        scale = self.original[axis] / self.resized[axis]
        first = round(start * scale)
        return first, max(round((start + self.canvas[axis]) * scale), first + 1)  # of two pixels one is left

    def on_photo(self, box: tuple[int, int, int, int]) -> tuple[int, int, int, int]:
        """A box of the canvas (top, left, bottom, right) in the original's pixels."""
        top, left, bottom, right = (
            round((side + (self.top, self.left)[i % 2]) * self.original[i % 2] / self.resized[i % 2])
            for i, side in enumerate(box)
        )
        return top, left, bottom, right

    def on_canvas(self, box: Sequence[float]) -> tuple[int, int, int, int] | None:
        """A box of the original (top, left, bottom, right in its pixels) on the canvas; None where it is not seen."""
        top, left, bottom, right = (
            min(max(round(side * self.resized[i % 2] / self.original[i % 2]) - (self.top, self.left)[i % 2], 0), end)
            for i, (side, end) in enumerate(zip(box, self.canvas * 2, strict=True))
        )
        return (top, left, bottom, right) if top < bottom and left < right else None

    def to_photo(self, maps: Tensor) -> Tensor:
        """Maps "... h w" on the canvas -> "... H W" on the original; what the network did not see is zero."""
        if maps.shape[-2:] != self.canvas:
            raise UsageError(f"maps of {tuple(maps.shape[-2:])} do not lie on the canvas of {self.canvas}")
        flat = maps.detach().reshape(1, -1, *self.canvas).float()
        # Back onto the resized photo first: only there is the crop's border on whole pixels. The margin is filled with
        # the map's edge, so that it does not fade towards what was cut away.
        below, beside = (self.resized[i] - (self.top, self.left)[i] - self.canvas[i] for i in (0, 1))
        resized = F.pad(flat, (self.left, beside, self.top, below), mode="replicate")
        whole = F.interpolate(resized, self.original, mode="bilinear", antialias=True)
        top, left, bottom, right = self.seen
        full = torch.zeros_like(whole)
        full[..., top:bottom, left:right] = whole[..., top:bottom, left:right]
        return full.reshape(*maps.shape[:-2], *self.original)


@dataclass(frozen=True)
class Framing:
    """Resize policy of a classifier.

    ``size``: the canvas (h, w), or None to take photos as large as they are. ``short``: the side, scaled from the
    canvas's shorter one, that the photo is made to cover before the centre is cut out; None squashes the photo to the
    canvas without keeping its aspect. ``squash``: the photo is squashed to what ``short`` says, instead of covering it.
    """

    size: tuple[int, int] | None = None
    short: int | None = None
    interpolation: str = "bicubic"
    squash: bool = False

    def __post_init__(self) -> None:
        if self.interpolation not in FILTERS:
            raise UsageError(f"interpolation {self.interpolation!r} is not one of {', '.join(FILTERS)}")
        if self.size is not None and min(self.size) < 1:
            raise UsageError(f"size must be positive, got {self.size[0]}x{self.size[1]}")
        if self.size is not None and self.short is not None and self.short < min(self.size):
            raise UsageError(
                f"the photo is resized to {self.short}, which does not cover {self.size[0]}x{self.size[1]}"
            )

    @classmethod
    def covering(cls, canvas: tuple[int, int], crop: float | None, interpolation: str) -> Framing:
        """For a photo that covers the canvas, which is the share ``crop`` of the covered length; None squashes it."""
        if crop is not None and not 0 < crop <= 1:
            raise UsageError(f"crop is the share of the photo that is kept, above 0 and at most 1: got {crop}")
        return cls(canvas, None if crop is None else int(min(canvas) / crop), interpolation)

    def place(self, height: int, width: int) -> Placement:
        """Where a photo of this height and width lies. Roundings are those of torchvision's Resize and CenterCrop."""
        if self.size is None:
            return Placement((height, width), (height, width), 0, 0, (height, width))
        if self.short is None:
            return Placement((height, width), self.size, 0, 0, self.size)
        rows, cols = (side * self.short // min(self.size) for side in self.size)  # the box to cover
        if self.squash:
            pass
        elif rows * width <= cols * height:
            rows = int(cols * height / width)
        else:
            cols = int(rows * width / height)
        rows, cols = max(rows, self.size[0]), max(cols, self.size[1])
        top, left = round((rows - self.size[0]) / 2), round((cols - self.size[1]) / 2)
        return Placement((height, width), (rows, cols), top, left, self.size)

    def apply(self, photo: Image.Image, channels: int = 3) -> tuple[Tensor, Placement]:
        """A photo (RGB or grey) -> pixels "c h w" in [0, 1] (float32) and where they lie."""
        return self.canvas(photo, channels).float() / 255, self.place(photo.height, photo.width)

    def canvas(
        self, photo: Image.Image, channels: int = 3, part: tuple[float, float, float, float] | None = None
    ) -> Tensor:
        """A photo -> its pixels "c h w" as bytes, in 0 to 255.

        ``part``: what of the photo fills the canvas instead (top, left, bottom, right in its pixels).
        """
        if channels not in (1, 3):
            raise UsageError(f"a photo has 1 or 3 channels and the model takes {channels}: give it a tensor instead")
        placed = self.place(photo.height, photo.width)
        if placed.resized != placed.original and placed.resized[0] * placed.resized[1] > MAX_RESIZED:
            raise ImageError(
                f"a photo of {photo.width}x{photo.height} is too long and narrow to be enlarged: crop it first"
            )
        mode = "L" if channels == 1 else "RGB"
        photo = photo if photo.mode == mode else photo.convert(mode)
        if part is not None:
            top, left, bottom, right = part
            photo = photo.resize(placed.canvas[::-1], FILTERS[self.interpolation], box=(left, top, right, bottom))
        else:
            if placed.resized != placed.original:
                photo = photo.resize(placed.resized[::-1], FILTERS[self.interpolation])
            if placed.resized != placed.canvas:
                box = (placed.left, placed.top, placed.left + placed.canvas[1], placed.top + placed.canvas[0])
                photo = photo.crop(box)
        pixels = np.array(photo, dtype=np.uint8)
        return torch.from_numpy(pixels.reshape(*placed.canvas, channels)).permute(2, 0, 1)


def to_image(pixels: Tensor) -> Image.Image:
    """Pixels "c h w" in [0, 1] -> an RGB image."""
    array = (pixels.detach().float().clamp(0, 1) * 255).round().byte().permute(1, 2, 0).cpu().numpy()
    return Image.fromarray(array.squeeze(-1) if array.shape[-1] == 1 else array).convert("RGB")
