"""How a photo becomes a network's canvas, and the way back: resize, crop and their inverse."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from convscope.errors import UsageError

FILTERS = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}


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
        (height, width), (rows, cols) = self.original, self.resized
        return (
            round(self.top * height / rows),
            round(self.left * width / cols),
            round((self.top + self.canvas[0]) * height / rows),
            round((self.left + self.canvas[1]) * width / cols),
        )

    def to_photo(self, maps: Tensor) -> Tensor:
        """Maps "... h w" on the canvas -> "... H W" on the original; what the network did not see is zero."""
        top, left, bottom, right = self.seen
        flat = maps.detach().reshape(1, -1, *maps.shape[-2:]).float()
        inner = torch.nn.functional.interpolate(flat, (bottom - top, right - left), mode="bilinear", antialias=True)
        full = inner.new_zeros(1, inner.shape[1], *self.original)
        full[..., top:bottom, left:right] = inner
        return full.reshape(*maps.shape[:-2], *self.original)


@dataclass(frozen=True)
class Framing:
    """Resize policy of a classifier.

    ``size``: the canvas (h, w), or None to take photos as large as they are. ``short``: the side, scaled from the
    canvas's shorter one, that the photo is made to cover before the centre is cut out; None squashes the photo to the
    canvas without keeping its aspect.
    """

    size: tuple[int, int] | None = None
    short: int | None = None
    interpolation: str = "bicubic"

    def __post_init__(self) -> None:
        if self.interpolation not in FILTERS:
            raise UsageError(f"interpolation {self.interpolation!r} is not one of {', '.join(FILTERS)}")
        if self.size is not None and min(self.size) < 1:
            raise UsageError(f"size must be positive, got {self.size[0]}x{self.size[1]}")
        if self.size is not None and self.short is not None and self.short < min(self.size):
            raise UsageError(f"the photo is resized to {self.short}, which does not cover the canvas of {self.size}")

    def place(self, height: int, width: int) -> Placement:
        """Where a photo of this height and width lies. Roundings are those of torchvision's Resize and CenterCrop."""
        if self.size is None:
            return Placement((height, width), (height, width), 0, 0, (height, width))
        if self.short is None:
            return Placement((height, width), self.size, 0, 0, self.size)
        rows, cols = (side * self.short // min(self.size) for side in self.size)  # the box to cover
        if rows * width <= cols * height:
            rows = int(cols * height / width)
        else:
            cols = int(rows * width / height)
        rows, cols = max(rows, self.size[0]), max(cols, self.size[1])
        top, left = round((rows - self.size[0]) / 2), round((cols - self.size[1]) / 2)
        return Placement((height, width), (rows, cols), top, left, self.size)

    def apply(self, photo: Image.Image, channels: int = 3) -> tuple[Tensor, Placement]:
        """A photo -> pixels "c h w" in [0, 1] (float32) and where they lie."""
        placed = self.place(photo.height, photo.width)
        photo = photo.convert("L" if channels == 1 else "RGB")
        if placed.resized != placed.original:
            photo = photo.resize(placed.resized[::-1], FILTERS[self.interpolation])
        box = (placed.left, placed.top, placed.left + placed.canvas[1], placed.top + placed.canvas[0])
        pixels = np.asarray(photo.crop(box), dtype=np.uint8).copy()
        return torch.from_numpy(pixels.reshape(*placed.canvas, channels)).permute(2, 0, 1).float() / 255, placed


def to_image(pixels: Tensor) -> Image.Image:
    """Pixels "c h w" in [0, 1] -> an RGB image."""
    array = (pixels.detach().float().clamp(0, 1) * 255).round().byte().permute(1, 2, 0).cpu().numpy()
    return Image.fromarray(array.squeeze(-1) if array.shape[-1] == 1 else array).convert("RGB")
