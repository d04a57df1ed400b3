"""What stands in for "nothing there": the named fills of occluders and baselines."""

from __future__ import annotations

import torch
from torchvision.transforms.v2.functional import gaussian_blur

from convscope.errors import UsageError
from convscope.types import Images

_LEVELS = {"black": 0.0, "grey": 0.5, "white": 1.0}
FILLS = (*_LEVELS, "mean", "blur")
FILL_HELP = "what stands for nothing: black, grey, white, the image's mean colour, or the image blurred"


def fill_like(images: Images, fill: str) -> Images:
    """Images of the same shape that hold the fill."""
    if fill in _LEVELS:
        return torch.full_like(images, _LEVELS[fill])
    if fill == "mean":
        return images.mean((2, 3), keepdim=True).expand_as(images)
    if fill == "blur":
        sigma = max(min(images.shape[-2:]) / 16, 0.5)
        radius = min(int(3 * sigma), min(images.shape[-2:]) - 1)
        return gaussian_blur(images, [2 * radius + 1] * 2, [sigma, sigma])
    raise UsageError(f"fill {fill!r} is not one of {', '.join(FILLS)}")
