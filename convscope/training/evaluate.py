"""How good a classifier is on labelled photos."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from convscope.data.catalog import Catalog, catalog, digest
from convscope.data.listing import TEST, VAL, Refused
from convscope.data.loading import Loader, Photos, pixels_of, workers_for
from convscope.data.sources import SourceOptions
from convscope.data.split import read_split
from convscope.errors import UsageError, some
from convscope.images.frame import Framing
from convscope.instrument.target import class_names
from convscope.models.classifier import Classifier, probabilities
from convscope.models.run import CONFIG
from convscope.parallel import on_own_device
from convscope.training.config import resolve_config, sections_of
from convscope.training.learned import seen_by
from convscope.training.metrics import Metrics, measure
from convscope.training.outputs import outputs
from convscope.training.prepare import Pixels, read_catalog

AT_ONCE = 32
COVERED = 256 / 224  # how much larger than the canvas a photo is made for ten crops of it, where the model does not say


@dataclass(frozen=True)
class Evaluation:
    """Figures, what was left out of them, and what else there is to know.

    ``rows``: those of the catalog's photos that were measured; ``right``: whether each was told right.
    """

    metrics: Metrics
    catalog: Catalog
    refused: tuple[Refused, ...]
    remarks: tuple[str, ...]
    rows: np.ndarray
    right: np.ndarray
    leads: bool = True  # of several processes one speaks

    def __repr__(self) -> str:
        return f"<accuracy {self.metrics.accuracy:.1%} on {self.metrics.count:,} photos of {self.catalog.source}>"


def evaluate(
    classifier: Classifier,
    found: Catalog,
    rows: np.ndarray | None = None,
    *,
    ten_crop: bool = False,
    background: str | None = None,
    workers: int | None = None,
) -> Evaluation:
    """Figures of a classifier on the photos of a catalog (of these ``rows``) that have a label.

    Photos' classes are matched to the classifier's by name. ``ten_crop``: the mean prediction of the four corners and
    the centre, each also mirrored (Krizhevsky et al. 2012). Started by torchrun, the processes share the photos, each
    counted once, and the figures are those of one process.
    """
    rows = np.flatnonzero(found.labels >= 0) if rows is None else rows
    labels = labels_of(classifier, found, rows)
    framing = classifier.framing
    forward: nn.Module = Pixels(classifier)
    if framing.size is None:
        raise UsageError(f"{classifier.name} takes photos of any size, which cannot be one batch: give --size")
    network = classifier.network
    if ten_crop:
        forward, framing = TenCrops(classifier, framing.size), _larger(framing)
    photos = Photos(found, framing, classifier.channels, background=background or classifier.background)
    loader = Loader(photos, workers_for(photos, workers))
    modes = [(module, module.training) for module in network.modules()]
    try:
        with on_own_device(classifier, classifier.device) as accelerator:
            kept, logits, lost = outputs(forward, network, loader, rows, AT_ONCE, accelerator, "photos")
            leads = accelerator.is_main_process
    finally:
        loader.close()
        for module, training in modes:
            module.training = training
    if not len(kept):
        raise UsageError(f"{found.source}: there is no photo with a label that could be read")
    place = {row: i for i, row in enumerate(rows.tolist())}
    own = labels[[place[row] for row in kept.tolist()]]
    right = logits.argmax(1).cpu().numpy() == own
    assert classifier.classes is not None
    names = [found.store.names[row] for row in kept.tolist()]
    metrics = measure(logits, torch.from_numpy(own), classifier.classes.names, names)
    return Evaluation(metrics, found, (*found.refused, *lost), found.remarks, kept, right, leads)


def evaluate_source(
    classifier: Classifier,
    source: str | Path | None,
    run: Path | None,
    options: SourceOptions,
    *,
    unseen: bool = False,
    **more: Any,
) -> Evaluation:
    """Figures on a source of photos, or by default on those that ``run`` kept to be tested on.

    ``unseen``: leave out what the run has learned from, by the photos' contents. ``more``: ten_crop, background and
    workers.
    """
    if unseen and (run is None or source is None):
        raise UsageError("only a run knows what it has learned from; of its own photos it takes those kept for testing")
    if source is None:
        if run is None:
            raise UsageError("say which photos: a folder with one for each class; only a run has photos of its own")
        own = own_photos(run)
        found = evaluate(classifier, own.catalog, own.rows, **more)
        remarks = [f"the run's own {own.which} photos", *own.remarks, *found.remarks]
        if seen := int(seen_by(run, own.catalog.hashes[own.rows]).sum()):
            remarks.append(
                f"{seen:,} of them had been learned from, by an earlier run or as copies: the figures flatter"
            )
        return replace(found, remarks=tuple(remarks))
    photos = catalog(source, options)
    learned = seen_by(run, photos.hashes) if run is not None else np.zeros(len(photos), bool)
    if unseen and learned.all():
        raise UsageError(f"{photos.source}: {run} has learned from all of its photos")
    rows = np.flatnonzero((photos.labels >= 0) & ~learned) if unseen else None
    found = evaluate(classifier, photos, rows, **more)
    remarks = list(found.remarks)
    if (photos.given >= 0).any():
        remarks.append("train, val and test photos are measured together; name one of the folders for it alone")
    if seen := int(learned.sum()):  # wherever they are now
        what = "are left out" if unseen else "its figures on them say little (--unseen leaves them out)"
        remarks.append(f"{seen:,} of these photos trained the model: {what}")
    return replace(found, remarks=tuple(remarks))


def labels_of(classifier: Classifier, found: Catalog, rows: np.ndarray) -> np.ndarray:
    """The photos' labels as indices of the classifier's classes."""
    if not len(rows):
        raise UsageError(f"{found.source}: no photo has a label, so there is nothing to compare with")
    classes = class_names(classifier)
    index = np.full(len(found.classes), -1, np.int64)
    strange, taken = [], dict[int, str]()
    names = classes.names
    # A number is an index where nobody's classes are numbers: what the owner of folders calls 0 is not the first class.
    numbered = found.kind != "folder" and not any(name.strip().isdecimal() for name in names)
    for label in np.unique(found.labels[rows]).tolist():
        name = found.classes[label]
        if name.strip().isdecimal() and not numbered and name not in names:
            strange.append(name)
            continue
        try:
            place = classes.find(name)  # by name, synset or synonym
        except UsageError:
            strange.append(name)
            continue
        if place in taken:
            raise UsageError(
                f"{found.source}: {_classes([taken[place], name])} one class of {classifier.name}, {names[place]!r}; "
                "evaluate them apart, or put them together"
            )
        index[label], taken[place] = place, name
    if strange:
        known = ", ".join(names[:8]) + (", ..." if len(names) > 8 else "")
        raise UsageError(
            f"{found.source}: {_classes(strange)} not among the {len(names)} of {classifier.name} ({known}); rename "
            "the folders or labels to those names, or leave these photos out"
        )
    return index[found.labels[rows]]


def _classes(names: Sequence[str]) -> str:
    named = some([repr(name) for name in names], 4)
    return f"class {named} is" if len(names) == 1 else f"classes {named} are"


class TenCrops(nn.Module):
    """The mean prediction over ten crops of canvases that are larger than the network's, as logarithms."""

    def __init__(self, classifier: Classifier, size: tuple[int, int]) -> None:
        super().__init__()
        self.classifier, self.size = classifier, size

    def forward(self, images: Tensor) -> Tensor:
        (height, width), (rows, cols) = images.shape[-2:], self.size
        below, beside = height - rows, width - cols
        corners = ((0, 0), (0, beside), (below, 0), (below, beside), (round(below / 2), round(beside / 2)))
        total: Tensor | None = None
        for top, left in corners:
            crop = pixels_of(images[..., top : top + rows, left : left + cols])
            for version in (crop, crop.flip(-1)):
                found = probabilities(self.classifier(version)).double()
                total = found if total is None else total + found
        assert total is not None
        return (total / 10).clamp(min=1e-300).log()


def _larger(framing: Framing) -> Framing:
    """What ten crops are cut from: as much of the photo as the model is brought to see before its own crop."""
    assert framing.size is not None
    short = framing.short if framing.short and framing.short > min(framing.size) else None
    scale = short / min(framing.size) if short else COVERED
    size = (round(framing.size[0] * scale), round(framing.size[1] * scale))
    if framing.short is None or framing.squash:
        return Framing(size, None, framing.interpolation)
    return Framing(size, min(size), framing.interpolation)


def found_there(source: str) -> bool:
    """Whether a source that is a path is there; a set by name always is."""
    return not Path(source).is_absolute() or Path(source).exists() or any(mark in source for mark in "*?{[")


@dataclass(frozen=True)
class Own:
    """The photos that a run kept to be tested on: its test photos, or its validation photos where it has none."""

    catalog: Catalog
    rows: np.ndarray
    which: str
    remarks: tuple[str, ...]


def own_photos(run: Path) -> Own:
    """The photos that a run kept to be tested on, as they are now."""
    if not (run / "split.csv").exists():
        raise UsageError(f"{run} has no photos of its own: name some")
    data = resolve_config({"data": sections_of(run / CONFIG).get("data")}, {}).data
    if not found_there(data.source):
        raise UsageError(
            f"the photos of {run} were at {data.source} and are not there any more: name where they are now; "
            "those that it has learned from are left out by --unseen"
        )
    found = read_catalog(data)
    names, _, of = read_split(run / "split.csv")
    place = {name: i for i, name in enumerate(found.store.names)}
    for which, word in ((TEST, "test"), (VAL, "validation")):
        kept = [name for name, split in zip(names, of.tolist(), strict=True) if split == which]
        if not kept:
            continue
        rows = np.array([place[name] for name in kept if name in place], np.int64)
        gone = [name for name in kept if name not in place]
        if not len(rows):
            raise UsageError(f"{found.source}: the run's {len(kept):,} {word} photos are gone, such as {gone[0]}")
        remarks = []
        if gone:
            remarks.append(f"{len(gone):,} of the run's {len(kept):,} {word} photos are gone, such as {gone[0]}")
        elif data.digest is not None and data.digest != digest(found):
            remarks.append("the photos are not quite those that the run began with: some came, went or changed")
        return Own(found, rows, word, tuple(remarks))
    raise UsageError(f"{run} kept no photos to test on: name some")
