"""The photo that excites each unit most, found in one pass over any number of photos."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TypeAlias

import torch
from torch import Tensor

from convscope.atlas.snapshots import Place
from convscope.errors import ConvscopeError, UsageError
from convscope.instrument.address import Address, parse_address
from convscope.instrument.batches import parts
from convscope.instrument.record import record
from convscope.instrument.target import first_argmax, peaks
from convscope.models.classifier import Classifier
from convscope.types import Images

Batch: TypeAlias = tuple[Sequence[str], Images]
Photos: TypeAlias = Images | Callable[[], Iterable[Batch]]
SLACK = 1e-3  # of pixels out of [0, 1], which resampling leaves


@dataclass(eq=False)
class Strongest:
    """A unit and the photo "c h w" it responds to most: its name and its number in the pass."""

    unit: int
    value: float = -math.inf
    name: str = ""
    index: int = -1
    photo: Tensor | None = None

    @property
    def canvas(self) -> Tensor:
        assert self.photo is not None
        return self.photo


def strongest_photos(
    classifier: Classifier, units: Mapping[str, Sequence[int]], batches: Iterable[Batch]
) -> dict[str, list[Strongest]]:
    """For each unit of each layer the photo with the highest spatial maximum, the first of equal ones.

    A pass ends at the last of the layers. Memory is that of a batch and of one photo a unit. Call it ``undisturbed``.
    """
    best = {layer: [Strongest(unit) for unit in own] for layer, own in units.items()}
    layers = [parse_address(layer) for layer in best]
    seen = 0
    for names, pixels in batches:
        with record(classifier.network, layers, stop=True, reduce=peaks) as kept:
            classifier(pixels)
        for layer, found in best.items():
            own = kept[layer][:, [one.unit for one in found]]
            if not bool(own.isfinite().all()):
                raise ConvscopeError(f"layer {layer} gives NaN or infinity: the training has diverged")
            tops, rows = own.amax(0).tolist(), first_argmax(own.T).tolist()
            for one, value, row in zip(found, tops, rows, strict=True):
                if value > one.value:
                    one.value, one.name, one.index = value, str(names[row]), seen + row
                    one.photo = pixels[row].clone()  # a copy lets the batch go
        seen += len(pixels)
    if not seen:
        raise UsageError("photos holds no photos")
    return best


def neurons(classifier: Classifier, images: Images, layer: Address, units: Sequence[int]) -> list[tuple[float, Place]]:
    """Each image's unit: its spatial maximum and where that is, the first in reading order. Call it ``undisturbed``."""
    found: list[tuple[float, Place]] = []
    for rows in parts(len(images)):
        with record(classifier.network, [layer], stop=True, reduce=partial(_own, units=list(units[rows]))) as kept:
            classifier(images[rows])
        maps: Tensor = kept[layer]
        flat = maps.reshape(len(maps), -1)
        places = [divmod(at, maps.shape[-1]) if maps.ndim == 3 else None for at in first_argmax(flat).tolist()]
        found += zip(flat.amax(1).tolist(), places, strict=True)
    return found


def _own(maps: Tensor, units: list[int]) -> Tensor:
    return maps[torch.arange(len(maps)), units]


def batches_of(photos: Photos | None, classifier: Classifier) -> Iterator[Batch]:
    """Photos in batches, checked and on the classifier's device: of a function as it gives them, of a tensor a few.

    A tensor's photos are called by their numbers.
    """
    if photos is None:
        raise UsageError("photos= is missing, a tensor or a function: the batches of the training are not kept")
    if isinstance(photos, Tensor):
        photos = partial(_cut, photos)
    elif not callable(photos):
        raise UsageError(
            'photos is a tensor of pixels "b c h w", or a function that gives batches of (names, pixels), not '
            f"{type(photos).__name__}"
        )
    for names, pixels in photos():
        pixels = checked(pixels, classifier)
        if len(names) != len(pixels):
            raise UsageError(f"a batch of photos has {len(names)} names for {len(pixels)} images")
        yield names, pixels.to(classifier.device)


def _cut(photos: Images) -> Iterator[Batch]:
    for rows in parts(len(photos)):
        part = photos[rows]
        yield [f"photo {rows.start + i}" for i in range(len(part))], part


def checked(images: Tensor, classifier: Classifier) -> Images:
    """Images as the classifier takes them: floats "b c h w" in [0, 1], before any normalisation."""
    channels = classifier.channels
    if not isinstance(images, Tensor) or images.ndim != 4 or images.shape[1] != channels or not images.numel():
        got = tuple(images.shape) if isinstance(images, Tensor) else type(images).__name__
        raise UsageError(f'photos are a tensor "b {channels} h w" for this model, got {got}')
    if not images.is_floating_point():
        raise UsageError(f"photos are floats in [0, 1], got {images.dtype}: divide by 255 first")
    low, high = images.detach().aminmax()
    if not (low >= -SLACK and high <= 1 + SLACK):
        raise UsageError(
            f"photos are pixels in [0, 1], got {float(low):.3g} to {float(high):.3g}: pass them before normalisation, "
            "and the model as a Scope or Classifier that has mean and std"
        )
    return images.detach()
