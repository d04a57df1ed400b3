"""Parameterisations: what is optimised, and how it becomes a picture.

One tensor of parameters, whose first dimension is the pictures; ``image`` is differentiable. Ascent in another basis
finds other pictures: natural ones have little energy at high frequencies, and colours that go together.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Protocol, TypeAlias

import torch
from torch import Tensor

from convscope.errors import UsageError
from convscope.optvis import spectrum
from convscope.optvis.draws import Draws, placed
from convscope.types import Images

Shape: TypeAlias = tuple[int, int, int]  # channels, rows, columns


class Parameterization(Protocol):
    """Parameters of pictures, and the pictures "b c h w" that they mean."""

    def start(self, shape: Shape, draws: Draws) -> Tensor:
        """Parameters to begin with, one picture a draw; float64 on the CPU."""
        ...

    def image(self, parameters: Tensor, shape: Shape) -> Images: ...

    def encode(self, images: Images) -> Tensor:
        """The parameters of given pictures, as near as can be."""
        ...


@dataclass(frozen=True)
class Pixel:
    """Pixels themselves, on a scale from 0 to ``top``; the start is ``middle`` plus uniform noise of up to ``noise``.

    ``bounded``: kept within the scale (pixels out of range are set to its ends); else as they come.
    """

    top: float = 255.0
    middle: float = 128.0
    noise: float = 20.0
    bounded: bool = False

    def start(self, shape: Shape, draws: Draws) -> Tensor:
        return self.middle + self.noise * draws.field(shape, uniform=True)

    def image(self, parameters: Tensor, shape: Shape) -> Images:
        images = parameters / self.top
        return images.clamp(0, 1) if self.bounded else images

    def encode(self, images: Images) -> Tensor:
        return images * self.top


# A batch is to be its pictures one by one to the last bit, and so is the way back. What torch.sigmoid, the derivative
# of torch.polar and the transform of a single plane round to depends on what else is in the tensor; here nothing does.


def _planes(coefficients: Tensor, shape: Shape) -> Tensor:
    """From the half of their Fourier transform."""
    alone = coefficients.shape[:2] == (1, 1)
    several = torch.cat([coefficients] * 2) if alone else coefficients
    return torch.fft.irfft2(several, s=shape[1:], norm="ortho")[: len(coefficients)]


def _pixels(planes: Tensor) -> Images:
    """The sigmoid of their colours."""
    return torch.tanh(spectrum.coloured(planes) / 2) / 2 + 0.5


@dataclass(frozen=True)
class Fourier:
    """Coefficients of the Fourier transform of decorrelated colours, those of high frequencies scaled down as 1/f
    (Olah et al. 2017); a sigmoid keeps pixels in (0, 1).

    ``deviation``: of the coefficients to begin with. ``decay``: the power of 1/f.
    """

    deviation: float = 0.01
    decay: float = 1.0

    def start(self, shape: Shape, draws: Draws) -> Tensor:
        channels, height, width = shape
        return self.deviation * draws.field((channels, height, width // 2 + 1, 2))

    def image(self, parameters: Tensor, shape: Shape) -> Images:
        coefficients = torch.view_as_complex(parameters) * self._scale(shape, parameters)
        return _pixels(_planes(coefficients, shape))

    def encode(self, images: Images) -> Tensor:
        planes = spectrum.decorrelated(images.clamp(1e-4, 1 - 1e-4).logit())
        shape = (images.shape[1], images.shape[2], images.shape[3])
        return torch.view_as_real(torch.fft.rfft2(planes, norm="ortho")) / self._scale(shape, images)[..., None]

    def _scale(self, shape: Shape, like: Tensor) -> Tensor:
        return placed(_falling(shape[1], shape[2], self.decay), like)


@lru_cache(maxsize=16)
def _falling(height: int, width: int, decay: float) -> Tensor:
    """1/f^decay; the mean, and what is lower than one period a picture, is scaled as one period."""
    frequencies = spectrum.frequencies(height, width)
    return 0.25 * frequencies.clamp_min(1 / max(height, width)) ** -decay  # a quarter: Olah's constant for the contrast


@dataclass(frozen=True, eq=False)
class Maco:
    """Phases alone, under the magnitudes of natural photos: MACO (Fel et al. 2023). A sigmoid keeps pixels in (0, 1).

    ``magnitudes``: those of photos, as ``spectrum.of_photos`` gives them; by default those that come with convscope.
    """

    magnitudes: Tensor | None = None

    def start(self, shape: Shape, draws: Draws) -> Tensor:
        channels, height, width = shape
        return (draws.field((channels, height, width // 2 + 1), uniform=True) * 2 - 1) * torch.pi

    def image(self, parameters: Tensor, shape: Shape) -> Images:
        magnitudes = self._of(shape, parameters)
        real, imaginary = magnitudes * parameters.cos(), magnitudes * parameters.sin()
        return _pixels(_planes(torch.complex(real, imaginary), shape))

    def encode(self, images: Images) -> Tensor:
        planes = spectrum.decorrelated(images.clamp(1e-4, 1 - 1e-4).logit())
        return torch.fft.rfft2(planes, norm="ortho").angle()

    def _of(self, shape: Shape, like: Tensor) -> Tensor:
        magnitudes = self.magnitudes if self.magnitudes is not None else spectrum.bundled()
        if self.magnitudes is not None and len(magnitudes) != shape[0]:
            raise UsageError(f"the spectrum is of {len(magnitudes)} channels, the pictures have {shape[0]}")
        own = placed(spectrum.resized(magnitudes, shape[1], shape[2]), like)
        if len(own) != shape[0]:
            own = own[:1].expand(shape[0], -1, -1)  # of brightness
        return own.expand(len(like), -1, -1, -1)
