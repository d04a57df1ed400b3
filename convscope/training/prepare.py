"""From settings to a task: which photos, which network, what of it learns, and on what it learns."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from convscope.data.augment import augmentation
from convscope.data.catalog import Catalog, catalog
from convscope.data.findings import findings
from convscope.data.listing import SPLITS, Listing
from convscope.data.loading import Batch, Loader, Photos, pixels_of, workers_for
from convscope.data.sources import SourceOptions
from convscope.data.split import Assignment, assigned_by, plan, split
from convscope.errors import UsageError
from convscope.images.frame import canvas_of
from convscope.instrument.state import undisturbed
from convscope.models.classes import Classes
from convscope.models.classifier import Classifier
from convscope.models.ending import Ending
from convscope.models.run import CONFIG
from convscope.training.config import Config, Data, Model, Training, sections_of
from convscope.training.features import LARGEST, Cut, FeatureSet, cut_network, features
from convscope.training.freeze import learning, set_dropout
from convscope.training.optimizers import HEAD, NEW, OPTIMIZERS, TUNE
from convscope.training.start import Start, start

SPLIT_FILE = ".csv"  # a split that ends so is a file, such as a run's split.csv
EPOCHS = {HEAD: 40, TUNE: 10, NEW: 30}


@dataclass(frozen=True)
class Machine:
    """How a run is carried out; up to rounding, what comes of it does not depend on it."""

    device: torch.device | None = None
    workers: int | None = None
    cache: bool = True  # of a frozen base's features
    cache_limit: int = LARGEST


def read_catalog(data: Data) -> Catalog:
    """The photos that the settings name, each of them decoded once."""
    root = Path(data.root) if data.root else None
    classes = tuple(data.classes) if data.classes else None
    options = SourceOptions(columns=data.columns, root=root, group=data.group, classes=classes, download=data.download)
    return catalog(data.source, options)


def divide(found: Catalog, data: Data, seed: int) -> Assignment:
    """Which photos train, validate and test, and what a person should know of it."""
    if not len(found):
        reason = f", such as {found.refused[0].name}: {found.refused[0].reason}" if found.refused else ""
        raise UsageError(f"{found.source}: none of its {len(found.refused)} photos can be used{reason}")
    need_classes(found)
    if data.split is not None and data.split.endswith(SPLIT_FILE):
        return assigned_by(data.split, found.store.names)
    assigned = split(
        found.labels,
        found.classes,
        plan(data.split, data.subset, seed),
        given=found.given,
        groups=found.groups,
        hashes=found.hashes,
    )
    remarks = list(assigned.remarks)
    if data.split is not None and (found.given >= 0).any():
        remarks.append("the source's own split is kept; --split counts for what that leaves open alone")
    remarks += [
        f"{one.count} {one.text}, such as {one.photos[0]}" for one in findings(found) if one.kind == "two classes"
    ]
    return replace(assigned, remarks=tuple(remarks))


def need_classes(found: Catalog | Listing) -> None:
    """UsageError if there are not two classes with photos."""
    labels = found.labels[found.labels >= 0]
    if not len(labels):
        what = "lie in no class folder" if found.kind == "folder" else "have no labels"
        raise UsageError(
            f"{found.source}: its {len(found.labels)} photos {what}, so there is nothing to learn; put the photos of "
            "each class into a folder of its own"
        )
    if (labels == labels[0]).all():
        only = found.classes[labels[0]]
        raise UsageError(
            f"{found.source}: all photos that can be used are of one class, {only!r}; a classifier needs two"
        )


def begin(model: Model, classes: Sequence[str], seed: int) -> Start:
    """The network to train."""
    begun = start(
        model.spec,
        Classes(tuple(classes)),
        weights=model.weights,
        size=canvas_of(model.size) if model.size is not None else None,
        options=model.options,
        mean=model.mean,
        std=model.std,
        head=model.head,
        seed=seed,
    )
    if model.dropout is not None:
        set_dropout(begun.classifier.network, model.dropout)
    return begun


def resolved(config: Config, begun: Start) -> tuple[Config, set[str], str]:
    """The settings with nothing left open, the parameters that learn, and what kind of learning it is."""
    classifier, training = begun.classifier, config.training
    blank = classifier.blank()
    new = {name for name, _ in classifier.network.named_parameters() if name not in begun.loaded}
    asked = training.unfreeze
    if asked is None and begun.run is not None and not new:  # what learned there goes on to learn
        asked = sections_of(begun.run / CONFIG).get("training", {}).get("unfreeze")
    chosen, unfreeze = learning(classifier, blank, begun.loaded, asked, training.freeze, begun.head)
    kind = NEW if not begun.loaded else HEAD if chosen <= new | begun.head else TUNE
    if kind == TUNE and not unfreeze and not training.freeze:
        kind = HEAD  # the last layer alone, of a network that was trained for these classes
    optimizer = OPTIMIZERS[training.optimizer]
    choices: dict[str, Any] = {
        "unfreeze": unfreeze,
        "epochs": training.epochs or EPOCHS[kind],
        "lr": training.lr or optimizer.rates[kind],
        "weight_decay": optimizer.weight_decay if training.weight_decay is None else training.weight_decay,
        "schedule": training.schedule or "cosine",
    }
    if kind == TUNE and training.lr is None and not training.rates:
        # What is new has everything to learn; at the pace of what is trained already it would hold that back.
        heads = dict.fromkeys(name.rpartition(".")[0] for name in sorted(chosen & new))
        choices["rates"] = {path: optimizer.rates[HEAD] for path in heads if path}
    return config.model_copy(update={"training": training.model_copy(update=choices)}), chosen, kind


class Pixels(nn.Module):
    """A classifier on a loader's bytes."""

    def __init__(self, classifier: Classifier) -> None:
        super().__init__()
        self.classifier = classifier
        # To look for a sigmoid at the end means to watch every call; once is enough.
        self.ends_in_logits = not _ends_in_probabilities(classifier)

    def forward(self, images: Tensor) -> Tensor:
        pixels = pixels_of(images)
        if not self.ends_in_logits:
            return self.classifier(pixels)
        given = self.classifier.normalise(pixels, in_place=True)
        return self.classifier.logits(self.classifier.network(given), len(given))


def _ends_in_probabilities(classifier: Classifier) -> bool:
    blank = classifier.blank()
    changed = [False]
    with undisturbed(classifier, grad=False), Ending() as ending:

        def before(output: Tensor) -> Tensor:
            found = ending.before(output)
            changed[0] = found is not output
            return found

        classifier.logits(classifier.network(classifier.normalise(blank)), 1, before)
    return changed[0]


class Tail(nn.Module):
    """What learns, on features of the frozen rest."""

    def __init__(self, cut: Cut) -> None:
        super().__init__()
        self.tail, self._logits = cut.tail, cut.logits

    def forward(self, features: Tensor) -> Tensor:
        return self._logits(features)


@dataclass(frozen=True)
class FromFeatures:
    """Batches of cached features."""

    found: FeatureSet

    def batches(self, wanted: Sequence[np.ndarray], epoch: int = 0) -> Iterator[Batch]:
        return (self.found[rows] for rows in wanted)


@dataclass(frozen=True)
class Sources:
    """``forward`` is trained on ``augmented`` batches and looked at on ``plain`` ones."""

    forward: nn.Module
    augmented: Loader | FromFeatures
    plain: Loader | FromFeatures
    remarks: tuple[str, ...]

    def close(self) -> None:
        for source in (self.augmented, self.plain):
            if isinstance(source, Loader):
                source.close()


def photos_for(classifier: Classifier, found: Catalog, **more: Any) -> Photos:
    """The photos of a catalog as a classifier sees them."""
    return Photos(found, classifier.framing, classifier.channels, background=classifier.background, **more)


def sources(
    begun: Start,
    chosen: set[str],
    photos: Catalog,
    training: Training,
    machine: Machine,
    *,
    first: Callable[[Callable[[], FeatureSet]], FeatureSet] = lambda compute: compute(),
) -> Sources:
    """Features of the frozen base, computed once, where that gives the same; else photos through all of the network.

    ``first``: has one process compute what the others then find in the cache.
    """
    classifier = begun.classifier
    changes = augmentation(training.augment)
    assert classifier.framing.size is not None
    plain = photos_for(classifier, photos, seed=training.seed)
    learns_all = all(name in chosen for name, _ in classifier.network.named_parameters())
    remarks = []
    if not learns_all:
        blank = classifier.blank()
        cut = cut_network(classifier, chosen, blank)
        if changes.active:
            remarks.append(
                "what is frozen could be computed once, but augmentation changes every photo in every epoch: the "
                "network runs from end to end, which takes longer"
            )
        elif cut is None:
            remarks.append(
                "what learns cannot be parted from what is frozen: the network runs from end to end in every epoch"
            )
        elif not machine.cache:
            remarks.append("the frozen base runs in every epoch, as --no-cache asks")
        else:
            found = first(lambda: features(cut, plain, largest=machine.cache_limit, workers=machine.workers))
            if found.computed < len(photos):
                kept = len(photos) - found.computed
                remarks.append(f"features of {kept:,} of {len(photos):,} photos were in the cache")
            source = FromFeatures(found)
            return Sources(Tail(cut), source, source, tuple(remarks))
    pin = classifier.device.type == "cuda"
    base = plain.in_memory()
    augmented = base if not changes.active else replace(base, augmentation=changes)
    if changes.crop:  # canvases in memory are of whole photos
        augmented = replace(augmented, canvases=None, absent=())
    loader = Loader(augmented, workers_for(augmented, machine.workers, beside_gpu=pin), pin=pin)
    if augmented is base:
        return Sources(Pixels(classifier), loader, loader, tuple(remarks))
    return Sources(
        Pixels(classifier), loader, Loader(base, min(2, workers_for(base, machine.workers)), pin=pin), tuple(remarks)
    )


def rows_of(assigned: np.ndarray, which: int) -> np.ndarray:
    return np.flatnonzero(assigned == which)


def counts(found: Catalog, assigned: np.ndarray) -> dict[str, list[int]]:
    """For each split, the photos of each class."""
    return {
        name: np.bincount(found.labels[rows_of(assigned, which)], minlength=len(found.classes)).tolist()
        for which, name in enumerate(SPLITS)
    }
