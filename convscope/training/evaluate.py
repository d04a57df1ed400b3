"""How good a classifier is on labelled photos."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from convscope.data.catalog import Catalog
from convscope.data.listing import Refused
from convscope.data.loading import Loader, Photos, workers_for
from convscope.data.split import read_split
from convscope.errors import UsageError
from convscope.images.frame import Framing
from convscope.models.classifier import Classifier, probabilities
from convscope.training.fit import outputs
from convscope.training.learned import seen_by
from convscope.training.metrics import Metrics, measure
from convscope.training.parallel import accelerated
from convscope.training.prepare import Pixels

AT_ONCE = 32
COVERED = 256 / 224  # how much larger than the canvas a photo is made for ten crops of it, where the model does not say


@dataclass(frozen=True)
class Evaluation:
    """Figures, and what was left out of them."""

    metrics: Metrics
    refused: tuple[Refused, ...]
    remarks: tuple[str, ...]
    leads: bool = True  # of several processes one speaks


def evaluate(
    classifier: Classifier,
    found: Catalog,
    rows: np.ndarray | None = None,
    *,
    ten_crop: bool = False,
    background: str = "white",
    workers: int | None = None,
) -> Evaluation:
    """Figures of a classifier on the photos of a catalog (of these ``rows``) that have a label.

    Photos' classes are matched to the classifier's by name. ``ten_crop``: the mean prediction of the four corners and
    the centre, each also mirrored (Krizhevsky et al. 2012). Started by torchrun, the processes share the photos, each
    counted once, and the figures are those of one process.
    """
    rows = np.flatnonzero(found.labels >= 0) if rows is None else rows
    labels = _labels(classifier, found, rows)
    framing = classifier.framing
    forward: nn.Module = Pixels(classifier)
    if framing.size is None:
        raise UsageError(f"{classifier.name} takes photos of any size, which cannot be one batch: give --size")
    network = classifier.network
    if ten_crop:
        forward, framing = TenCrops(classifier, framing.size), _larger(framing)
    photos = Photos(found, framing, classifier.channels, background=background)
    loader = Loader(photos, workers_for(photos, workers))
    modes = [(module, module.training) for module in network.modules()]
    try:
        with accelerated(classifier.device, "fp32") as accelerator:
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
    assert classifier.classes is not None
    names = [found.store.names[row] for row in kept.tolist()]
    metrics = measure(logits, torch.from_numpy(own), classifier.classes.names, names)
    return Evaluation(metrics, (*found.refused, *lost), found.remarks, leads)


def _labels(classifier: Classifier, found: Catalog, rows: np.ndarray) -> np.ndarray:
    """The photos' labels as indices of the classifier's classes."""
    if not len(rows):
        raise UsageError(f"{found.source}: no photo has a label, so there is nothing to compare with")
    if classifier.classes is None:
        with torch.no_grad():
            height, width = classifier.framing.size or (224, 224)
            classifier(torch.full((1, classifier.channels, height, width), 0.5, device=classifier.device))
    assert classifier.classes is not None
    index = np.full(len(found.classes), -1, np.int64)
    strange = []
    for label in np.unique(found.labels[rows]).tolist():
        name = found.classes[label]
        if name.isdecimal() and found.kind == "folder" and name not in classifier.classes.names:
            strange.append(name)  # what its owner calls 0 is not the first class
            continue
        try:
            index[label] = classifier.classes.find(name)  # by name, synset or synonym; a number may be an index
        except UsageError:
            strange.append(name)
    if strange:
        names = classifier.classes.names
        known = ", ".join(names[:8]) + (", ..." if len(names) > 8 else "")
        raise UsageError(
            f"{found.source}: {_classes(strange)} not among the {len(names)} of {classifier.name} ({known}); rename "
            "the folders or labels to those names, or leave these photos out"
        )
    return index[found.labels[rows]]


def _classes(names: Sequence[str]) -> str:
    some = ", ".join(repr(name) for name in names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")
    return f"class {some} is" if len(names) == 1 else f"classes {some} are"


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
            crop = images[..., top : top + rows, left : left + cols].float() / 255
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


def own_split(run: Path, found: Catalog, which: int) -> np.ndarray:
    """The rows of a catalog that a run put into one of its splits."""
    names, _, of = read_split(run / "split.csv")
    wanted = {name for name, split in zip(names, of.tolist(), strict=True) if split == which}
    return np.array([i for i, name in enumerate(found.store.names) if name in wanted], np.int64)


def trained_on(run: Path, found: Catalog) -> int:
    """How many photos of a catalog a run has learned from, by their content: wherever they are now."""
    return int(seen_by(run, found.hashes).sum())
