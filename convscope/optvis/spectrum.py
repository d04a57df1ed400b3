"""What natural photos have in common: how strong each frequency is, and which colours go together."""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from importlib.resources import files

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from convscope.errors import UsageError

SIDE = 256  # of the pictures that spectra are taken of

# Columns: brightness, blue against yellow, green against magenta; the root of the covariance of ImageNet's pixels, as
# published with lucid (Apache-2.0), scaled so that the largest column has length 1.
_COLOURS = ((0.26, 0.09, 0.02), (0.27, 0.00, -0.05), (0.27, -0.09, 0.03))


@lru_cache(maxsize=1)
def _matrix() -> Tensor:
    matrix = torch.tensor(_COLOURS, dtype=torch.float64)
    return matrix / matrix.norm(dim=0).max()


def coloured(planes: Tensor) -> Tensor:
    """Decorrelated planes "b 3 h w" to colours, before the sigmoid; other numbers of channels stay."""
    return _times(planes, _matrix()) if planes.shape[1] == 3 else planes


def decorrelated(colours: Tensor) -> Tensor:
    """The way back of ``coloured``."""
    return _times(colours, torch.linalg.inv(_matrix())) if colours.shape[1] == 3 else colours


def _times(planes: Tensor, matrix: Tensor) -> Tensor:
    """Each pixel's vector times the matrix, the same for any batch."""
    a, b, c = planes.unbind(1)
    return torch.stack([x * a + y * b + z * c for x, y, z in matrix.tolist()], 1)


def frequencies(height: int, width: int) -> Tensor:
    """Cycles a pixel of each coefficient of ``rfft2``, "h w//2+1"."""
    rows, cols = torch.fft.fftfreq(height, dtype=torch.float64), torch.fft.rfftfreq(width, dtype=torch.float64)
    return (rows[:, None] ** 2 + cols**2).sqrt()


def of_photos(photos: Iterable[Image.Image], channels: int = 3) -> Tensor:
    """The mean magnitudes of photos' Fourier transforms, "c 256 129", of their decorrelated colours before a sigmoid.

    Of each photo the largest squares at both ends and in the middle are taken, and their mirror images.
    """
    total, count = torch.zeros(channels, SIDE, SIDE // 2 + 1, dtype=torch.float64), 0
    for photo in photos:
        image = photo.convert("RGB" if channels == 3 else "L")
        side = min(image.size)
        for share in (0.0, 0.5, 1.0):
            left, top = (round(share * (length - side)) for length in image.size)
            box = (left, top, left + side, top + side)
            pixels = np.asarray(image.resize((SIDE, SIDE), Image.Resampling.BICUBIC, box), np.float64) / 255
            values = torch.from_numpy(pixels).reshape(SIDE, SIDE, -1).permute(2, 0, 1)[None]
            planes = decorrelated(values.clamp(0.02, 0.98).logit())[0]
            found = torch.fft.rfft2(planes, norm="ortho").abs()
            turned = torch.roll(found.flip(1), 1, 1)  # a mirrored photo's: row -k for row k
            total += (found + turned) / 2
            count += 1
    if not count:
        raise UsageError("a spectrum needs at least one photo")
    return (total / count).float()


@lru_cache(maxsize=1)
def bundled() -> Tensor:
    """Magnitudes of public photos, made by ``docs/natural_spectrum.py``: "3 256 129"."""
    from safetensors.torch import load

    return load(files("convscope.optvis").joinpath("spectrum.safetensors").read_bytes())["magnitudes"].float()


@lru_cache(maxsize=8)
def resized(magnitudes: Tensor, height: int, width: int) -> Tensor:
    """Magnitudes of pictures of another size: what is k periods a picture stays so, beyond the last it falls as 1/f.

    A picture that is not square is part of a square one.
    """
    side = max(height, width)
    rows = torch.fft.fftfreq(height, dtype=torch.float64)[:, None].expand(-1, width // 2 + 1) * side
    cols = torch.fft.rfftfreq(width, dtype=torch.float64).expand(height, -1) * side
    beyond = torch.maximum(rows.abs(), cols).div(SIDE // 2).clamp_min(1)
    planes = torch.fft.fftshift(magnitudes.double(), dim=1)  # rows -128 to 127, columns 0 to 128
    grid = torch.stack([cols / beyond / (SIDE // 4) - 1, (rows / beyond + SIDE // 2) / (SIDE - 1) * 2 - 1], -1)
    found = F.grid_sample(planes[None], grid[None], "bilinear", "border", align_corners=True)[0]
    return found / beyond * (side / SIDE)
