"""What a user gives as photos: one or several, as paths, PIL images, arrays or tensors."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TypeAlias

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from convscope.errors import ConvscopeError, UsageError
from convscope.images.frame import Framing, Placement, to_image
from convscope.images.read import Photo, find_photos, read_photo
from convscope.types import Images

Source: TypeAlias = str | Path | Image.Image | np.ndarray | Tensor | Photo
Photos: TypeAlias = Source | Sequence[Source]


def several(photos: Photos | None) -> list[Source]:
    if photos is None:
        return []
    if isinstance(photos, (str, Path, Image.Image, np.ndarray, Photo)):
        return [photos]
    if not isinstance(photos, Iterable):
        raise UsageError(f"photos are paths, PIL images, arrays or tensors, not {type(photos).__name__}")
    return list(photos)


def checked(images: Tensor, channels: int) -> Images:
    if images.ndim == 3:
        images = images[None]
    if images.ndim != 4 or images.shape[1] != channels or images.numel() == 0:
        raise UsageError(f'a tensor of images is "b {channels} h w" for this model, got {tuple(images.shape)}')
    if not images.is_floating_point():
        raise UsageError(f"a tensor of images holds floats in [0, 1], got {images.dtype}; divide by 255 first")
    if not bool(images.isfinite().all()):
        raise ConvscopeError("the images hold NaN or infinity")
    low, high = float(images.min()), float(images.max())
    if low < -1e-3 or high > 1 + 1e-3:
        raise UsageError(
            f"a tensor of images holds pixels in [0, 1], got {low:.3g} to {high:.3g}: pass them before normalisation, "
            "which the classifier does itself"
        )
    return images.detach()


def joined(canvases: list[Tensor], names: list[str]) -> Images:
    sizes = {tuple(canvas.shape[-2:]): name for canvas, name in zip(canvases, names, strict=True)}
    if len(sizes) > 1:
        some = ", ".join(f"{name} {h}x{w}" for (h, w), name in list(sizes.items())[:3])
        raise UsageError(f"photos of different sizes ({some}) cannot be one batch: give the model a size")
    return torch.cat(canvases)


def canvases(
    photos: Photos, framing: Framing, channels: int, background: str
) -> tuple[Images, list[tuple[Photo, Placement]]]:
    """Photos as a network takes them, and where its canvas lies on each. A tensor is taken as it is, without photos."""
    if isinstance(photos, Tensor):
        return checked(photos, channels), []
    photos = several(photos)
    if photos and all(isinstance(photo, Tensor) for photo in photos):
        parts = [checked(photo, channels) for photo in photos if isinstance(photo, Tensor)]
        return joined(parts, [f"tensor {i}" for i in range(len(parts))]), []
    found, seen = [], []
    for photo in read_photos(photos, channels, background):
        pixels, placement = framing.apply(photo.image, channels)
        found.append(pixels[None])
        seen.append((photo, placement))
    if not found:
        raise UsageError("no photos were given")
    return joined(found, [photo.name for photo, _ in seen]), seen


def read_photos(photos: Sequence[Source], channels: int, background: str) -> Iterator[Photo]:
    """Every photo that is meant, read."""
    for number, photo in enumerate(photos, start=1):
        if isinstance(photo, (str, Path)):
            for path in find_photos([photo]):
                yield read_photo(path, background=background)
        elif isinstance(photo, Tensor):
            yield from (Photo(to_image(p), f"tensor {number}", None) for p in checked(photo, channels))
        else:
            name = None if isinstance(photo, Photo) else f"photo {number}"
            yield read_photo(photo, background=background, name=name)
