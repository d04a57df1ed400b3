"""What studies are of: photos as a classifier sees them, or a data set."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from convscope.data.catalog import Catalog, catalog_of
from convscope.data.listing import Listing
from convscope.data.scan import scan
from convscope.data.sources import SourceOptions, open_source
from convscope.errors import ConvscopeError, UsageError
from convscope.images.frame import Placement
from convscope.images.read import Photo
from convscope.instrument.batches import parts
from convscope.instrument.state import undisturbed
from convscope.instrument.target import Target, class_names
from convscope.models.classes import Classes
from convscope.models.classifier import Classifier, probabilities
from convscope.training.prepare import need_classes
from convscope.types import Images


@dataclass(frozen=True, eq=False)
class Album:
    """Photos as a classifier sees them, one row each.

    ``images``: their canvases. ``known``: each photo's class, None where nobody said. ``placements``: where the canvas
    lies on each photo; none where tensors were given. ``notes``: what has to be said of the choice of photos.
    """

    classifier: Classifier
    images: Images
    names: tuple[str, ...]
    known: tuple[int | None, ...]
    placements: tuple[Placement, ...] = ()
    paths: tuple[Path | None, ...] = ()
    remarks: tuple[str, ...] = ()

    @classmethod
    def of(
        cls,
        classifier: Classifier,
        images: Images,
        seen: Sequence[tuple[Photo, Placement]] = (),
        label: int | str | None = None,
        remarks: Sequence[str] = (),
    ) -> Album:
        """``seen``: the photos behind the images. ``label``: the class of all; by default a photo is of the class that
        its folder is called, if it is called one."""
        classes = class_names(classifier, images)
        photos = [photo for photo, _ in seen]
        names = _apart([photo.name for photo in photos], photos) or tuple(f"image {i}" for i in range(len(images)))
        if label is not None:
            known: list[int | None] = [classes.find(label)] * len(images)
        else:
            known = [_class_of(photo.path, classes) for photo in photos] or [None] * len(images)
        paths = tuple(photo.path for photo in photos)
        places = tuple(place for _, place in seen)
        return cls(classifier, images, names, tuple(known), places, paths, tuple(remarks))

    def __len__(self) -> int:
        return len(self.images)

    @property
    def classes(self) -> Classes:
        return class_names(self.classifier, self.images)

    @cached_property
    def probabilities(self) -> Tensor:
        """Of each class, "b classes"; ConvscopeError if they are none."""
        with undisturbed(self.classifier, grad=False):
            found = [probabilities(self.classifier(self.images[rows])) for rows in parts(len(self))]
        if any(bool(part.isnan().any()) for part in found):
            raise ConvscopeError(f"{self.classifier.name} gave NaN: check its weights, and mean and std")
        return torch.cat(found)

    @cached_property
    def labels(self) -> tuple[int, ...]:
        """Each photo's class: the one that is known, or else the most probable one."""
        best = self.probabilities.argmax(1).tolist()
        return tuple(best[i] if known is None else known for i, known in enumerate(self.known))

    @property
    def target(self) -> Target:
        """The class of each photo."""
        return Target(index=self.labels)

    @property
    def notes(self) -> list[str]:
        missing = [name for name, known in zip(self.names, self.known, strict=True) if known is None]
        told = list(self.remarks)
        if missing:
            of = f"{len(missing)} of {len(self)} photos" if len(missing) < len(self) else "the photos"
            told.append(f"the class of {of} is not known: the most probable one stands for it")
        return told

    def about(self) -> dict[str, Any]:
        """What was studied, in plain types."""
        classes = self.classes
        return {
            "model": self.classifier.name,
            "photos": [
                {"name": name, "class": classes[label], "known": known is not None}
                for name, label, known in zip(self.names, self.labels, self.known, strict=True)
            ],
        }


@dataclass(frozen=True, eq=False)
class DataSet:
    """A labelled data set, and the folder that keeps what a study trains on it, to be gone on with.

    ``source`` and ``options``: as ``convscope.train`` takes them. ``model``: how the model is loaded (``spec``,
    ``weights``, ``options`` and so on). ``classifier``: the model itself; None for a study of architectures.
    ``machine``: ``workers`` and ``device``.
    """

    source: str
    folder: Path
    model: Mapping[str, Any]
    classifier: Classifier | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    machine: Mapping[str, Any] = field(default_factory=dict)
    notes: ClassVar[tuple[str, ...]] = ()  # what is to be said of it depends on what a study takes of it: ``remarks``

    @cached_property
    def listing(self) -> Listing:
        """Its photos before any is opened: classes, labels, the source's own split. UsageError without two classes."""
        found = open_source(self.source, SourceOptions.of(self.options))
        need_classes(found)
        return found

    @cached_property
    def catalog(self) -> Catalog:
        """The photos that can be used: each is decoded once, which of many takes long."""
        found = catalog_of(self.listing, scan(self.listing))
        if not len(found):
            first = found.refused[0]
            raise UsageError(f"{found.source}: no photo can be used, such as {first.name}: {first.reason}")
        need_classes(found)
        return found

    @property
    def remarks(self) -> list[str]:
        """What its reader should know of the photos."""
        found = self.catalog
        told = [*found.remarks]
        if found.refused:
            first = found.refused[0]
            told.append(f"{len(found.refused):,} photos could not be used, such as {first.name} ({first.reason})")
        if missing := int((found.labels < 0).sum()):
            told.append(f"{missing:,} photos have no label and were not used")
        return told

    def about(self) -> dict[str, Any]:
        """What was studied, in plain types."""
        name = self.classifier.name if self.classifier is not None else self.model.get("spec")
        return {"model": name, "data": self.source}


def drawn(count: int, most: int | None, seed: int) -> np.ndarray:
    """Which of ``count`` photos are studied where at most ``most`` are: at random, in their order."""
    if most is None or count <= most:
        return np.arange(count)
    return np.sort(np.random.default_rng(seed).permutation(count)[:most])


def _class_of(path: Path | None, classes: Classes) -> int | None:
    """The class that a photo's folder is called."""
    if path is None:
        return None
    name = path.resolve().parent.name
    if name.strip().isdecimal() and name not in classes.names:
        return None  # a number is nobody's index
    try:
        return classes.find(name)
    except UsageError:
        return None


def _apart(names: list[str], photos: Sequence[Photo]) -> tuple[str, ...]:
    """Names that tell the photos apart: with their folders where files are called the same."""
    if len(set(names)) == len(names):
        return tuple(names)
    longer = [photo.name if photo.path is None else f"{photo.path.parent.name}/{photo.name}" for photo in photos]
    return tuple(longer if len(set(longer)) == len(names) else (f"{i}: {name}" for i, name in enumerate(names)))
