"""Maps that know nothing of a network: what every explanation has to be better than."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from convscope.types import Images, Maps

BLIND = ("random", "centre", "edges")
BLOB = 0.25  # of a side: the centre's standard deviation


def blind_maps(images: Images, photos: Sequence[str], seed: int) -> dict[str, Maps]:
    """The maps "b h w" of photos by name: noise, a blob in the middle, and where the photo has edges.

    ``photos``: their names, by which each has its own noise, whatever else is studied.
    """
    height, width = images.shape[-2:]
    noise = [torch.rand(height, width, generator=generator_of(seed, photo)) for photo in photos]
    found = (torch.stack(noise).to(images), centre(height, width).to(images).expand(len(images), -1, -1), edges(images))
    return dict(zip(BLIND, found, strict=True))


def generator_of(seed: int, photo: str) -> torch.Generator:
    """Of what is drawn for a photo, on the CPU for any device alike."""
    own = np.random.SeedSequence([seed, *photo.encode("utf-8", "surrogateescape")]).generate_state(1, np.uint64)[0]
    return torch.Generator().manual_seed(int(own) % 2**63)


def centre(height: int, width: int) -> Tensor:
    """A Gaussian blob "h w" in the middle, whose standard deviation is a quarter of each side."""
    rows, cols = (
        (-(((torch.arange(side, dtype=torch.float64) - (side - 1) / 2) / (BLOB * side)) ** 2) / 2).exp()
        for side in (height, width)
    )
    return rows[:, None] * cols


def edges(images: Images) -> Maps:
    """The magnitude of Sobel's gradient of the grey photos, edges held."""
    grey = F.pad(images.mean(1, keepdim=True), (1, 1, 1, 1), mode="replicate")
    down = grey.new_tensor([[1.0, 2.0, 1.0], [0.0, 0.0, 0.0], [-1.0, -2.0, -1.0]])
    both = F.conv2d(grey, torch.stack([down, down.T])[:, None])
    return both.square().sum(1).sqrt()
