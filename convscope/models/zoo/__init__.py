"""The zoo: networks offered by name, one file each. This module is their registry and the only list of them."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeVar

from torch import Tensor, nn

Build = TypeVar("Build", bound=Callable[..., nn.Module])


@dataclass(frozen=True)
class Architecture:
    """A network by name, and how photos are brought to it."""

    name: str
    build: Callable[..., nn.Module]  # keyword options: num_classes, size where it matters, and the network's own
    size: int | tuple[int, int]  # the input it is meant for: side, or (height, width)
    channels: int  # 1 or 3
    summary: str  # first line of build's docstring
    mean: tuple[float, ...] | None = None  # normalisation inside the classifier; None = pixels as they are
    std: tuple[float, ...] | None = None
    crop: float | None = 1.0  # share of the short side kept by the centre crop; None = squash, aspect not kept
    interpolation: str = "bicubic"  # 'bilinear' | 'bicubic' | 'nearest'
    pretrained: Callable[[], Mapping[str, Tensor]] | None = None  # trained state of the default build, found offline
    class_names: str | None = None  # the known list of names that this state was trained on: "imagenet"


ARCHITECTURES: dict[str, Architecture] = {}


def architecture(
    name: str,
    *,
    size: int | tuple[int, int],
    channels: int = 3,
    mean: tuple[float, ...] | None = None,
    std: tuple[float, ...] | None = None,
    crop: float | None = 1.0,
    interpolation: str = "bicubic",
    pretrained: Callable[[], Mapping[str, Tensor]] | None = None,
    class_names: str | None = None,
) -> Callable[[Build], Build]:
    """Offer the decorated factory (or ``nn.Module`` class) under ``name``; see :class:`Architecture`."""

    def offer(build: Build) -> Build:
        if name in ARCHITECTURES:
            raise ValueError(f"two architectures are called {name!r}")
        summary = (inspect.getdoc(build) or "").partition("\n")[0]
        ARCHITECTURES[name] = Architecture(
            name, build, size, channels, summary, mean, std, crop, interpolation, pretrained, class_names
        )
        return build

    return offer


for _module in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_module.name}")
