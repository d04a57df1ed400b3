"""Model specifiers: one string names any model. Each source registers its prefix; there is no other list.

    timm:NAME  torchvision:NAME[@WEIGHTS]  hf-hub:ORG/NAME  convscope:NAME  run:DIR  file.py:Factory  pkg.mod:factory

``@random`` after a name asks for an untrained network; without it a model has its trained weights or loading fails.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from torch import nn

from convscope.errors import UsageError, unknown
from convscope.images.frame import Framing
from convscope.models.checkpoint import load_state, read_state
from convscope.models.classes import Classes, read_classes
from convscope.models.classifier import Classifier

TRAINED, RANDOM = "trained", "random"


@dataclass(frozen=True)
class Request:
    """What a source is asked for. ``weights``: "trained", "random", or the name of a weights entry."""

    name: str
    weights: str = TRAINED
    options: Mapping[str, Any] = field(default_factory=dict)

    def build(self, factory: Callable[..., Any]) -> Any:
        """Call a factory with the options; options that it does not take are the user's to mend."""
        try:
            return factory(**self.options)
        except TypeError as error:
            if error.__traceback__ is not None and error.__traceback__.tb_next is None:
                raise UsageError(f"{self.name}: {str(error).split('() ', 1)[-1]}") from None
            raise


@dataclass(frozen=True)
class Found:
    """What a source gives: a network and how it wants its pixels."""

    network: nn.Module
    classes: Classes | None = None
    mean: Sequence[float] | None = None
    std: Sequence[float] | None = None
    framing: Framing = field(default_factory=Framing)
    channels: int | None = None


SOURCES: dict[str, Callable[[Request], Found]] = {}


def source(prefix: str) -> Callable[[Callable[[Request], Found]], Callable[[Request], Found]]:
    """Register what loads ``prefix:...``."""

    def register(function: Callable[[Request], Found]) -> Callable[[Request], Found]:
        SOURCES[prefix] = function
        return function

    return register


def parse(spec: str) -> tuple[str, str, str]:
    """A specifier -> prefix, name, weights."""
    if re.match(r".+\.py:\w", spec):
        file, _, factory = spec.rpartition(":")
        factory, _, weights = factory.partition("@")
        return "file", f"{file}:{factory}", weights or TRAINED
    prefix, colon, name = spec.partition(":")
    if not colon or not name:
        hint = "write SOURCE:NAME, such as convscope:efficientnet_lite0, torchvision:vgg16, net.py:Net or run:FOLDER"
        raise UsageError(f"model {spec!r} does not say where it comes from: {hint}")
    if prefix == "run":
        return prefix, name, TRAINED
    name, _, weights = name.partition("@")
    if (prefix not in SOURCES and "." in prefix) or (prefix not in SOURCES and name.isidentifier()):
        return "module", f"{prefix}:{name}", weights or TRAINED
    if prefix not in SOURCES:
        raise unknown("model source", prefix, SOURCES)
    return prefix, name, weights or TRAINED


def load_classifier(
    spec: str,
    *,
    weights: str | Path | None = None,
    classes: str | Path | Sequence[str] | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    size: int | tuple[int, int] | None = None,
    options: Mapping[str, Any] | None = None,
    structure_only: bool = False,
) -> Classifier:
    """A Classifier from a specifier.

    ``weights``: a checkpoint file to load into it. ``classes``: names, or a file of them. ``mean``, ``std``, ``size``:
    override what the source says. ``options``: passed to the architecture or factory. ``structure_only``: the weights
    do not matter (a table of layers), so none are fetched.
    """
    import convscope.models.sources  # noqa: F401  (registers them)

    prefix, name, wanted = parse(spec)
    if weights is not None and wanted not in (TRAINED, RANDOM):
        raise UsageError(f"{spec} names weights and --weights names others: give one of them")
    if weights is not None or structure_only:
        wanted = RANDOM
    state = read_state(weights) if weights is not None else None
    named = _classes(classes)
    options = dict(options or {})
    found = SOURCES[prefix](Request(name, wanted, options))
    if state is not None:
        load_state(found.network, state, str(weights))
    if size is not None:
        found = replace(found, framing=resized(found.framing, size))
    return Classifier(
        found.network.eval(),
        named or found.classes,
        mean=mean if mean is not None else found.mean,
        std=std if std is not None else found.std,
        framing=found.framing,
        channels=found.channels,
        name=spec,
    )


def resized(framing: Framing, size: int | tuple[int, int]) -> Framing:
    """The same policy at another canvas: the share of the photo that is cut away stays as it is."""
    canvas = (size, size) if isinstance(size, int) else (int(size[0]), int(size[1]))
    if framing.size is None or framing.short is None:
        return replace(framing, size=canvas)
    return replace(framing, size=canvas, short=round(framing.short * min(canvas) / min(framing.size)))


def _classes(classes: str | Path | Sequence[str] | None) -> Classes | None:
    if classes is None:
        return None
    if isinstance(classes, (str, Path)):
        return read_classes(classes)
    return Classes(tuple(str(name) for name in classes))
