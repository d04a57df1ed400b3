"""The patient: a network, and the photos with which it is looked at."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import torch
from torch import Tensor

from convscope.atlas.statistics import Seen
from convscope.data.catalog import Catalog, catalog
from convscope.data.loading import Photos, pixels_of
from convscope.data.sources import SourceOptions
from convscope.errors import ModelError, UsageError
from convscope.instrument.address import Address
from convscope.instrument.batches import parts
from convscope.instrument.layers import resolve_one
from convscope.instrument.record import record
from convscope.instrument.state import undisturbed
from convscope.instrument.target import class_names
from convscope.instrument.trace import Trace, trace
from convscope.models.classes import Classes
from convscope.models.classifier import Classifier, probabilities
from convscope.progress import track
from convscope.studies.diagnosis.bounded import Bounded, at_bound, bounded_layers
from convscope.studies.subject import DataSet, drawn
from convscope.training.evaluate import labels_of

Look: TypeAlias = Callable[[Tensor], Any]

SAME = 1e-5  # of the logits' size: what they differ by at least in a network that sees anything


class Units(NamedTuple):
    """What a layer with bounds did. ``best``: each unit's maximum, "photos units". Shares of all places of all photos,
    "units": ``active``, above the lower bound; ``full``, at a bound that saturates."""

    best: Tensor
    active: Tensor
    full: Tensor


class Passed(NamedTuple):
    """What a pass of all photos gave: logits "photos classes", the bounded layers, and what enters the last weights."""

    logits: Tensor
    units: dict[str, Units]
    features: Tensor | None


@dataclass(frozen=True, eq=False)
class Patient:
    """``images``: canvases "n c h w", bytes or pixels in [0, 1]. ``labels``: each photo's class as an index of the
    classifier's, None where nobody knows. ``method``: what finds the evidence of an answer. ``notes``: what has to be
    said of the photos."""

    classifier: Classifier
    images: Tensor
    names: Sequence[str]
    labels: Sequence[int] | None = None
    method: str = "grad-cam"
    seed: int = 0
    notes: Sequence[str] = ()

    def __len__(self) -> int:
        return len(self.images)

    def pixels(self, rows: slice | Sequence[int]) -> Tensor:
        """Some photos' pixels in [0, 1], where the network is."""
        found = self.images[rows].to(self.classifier.device)
        return pixels_of(found) if found.dtype == torch.uint8 else found

    def batches(self, label: str) -> Iterator[slice]:
        return track(parts(len(self)), label, weigh=lambda rows: min(rows.stop, len(self)) - rows.start)

    @property
    def classes(self) -> Classes:
        return class_names(self.classifier, self.pixels([0]))

    @cached_property
    def trace(self) -> Trace:
        return trace(self.classifier.network, self.pixels([0]), through=self.classifier)

    @cached_property
    def bounded(self) -> dict[str, Bounded]:
        return bounded_layers(self.trace)

    @cached_property
    def penultimate(self) -> Address | None:
        try:
            return resolve_one(self.classifier.network, "@penultimate", self.pixels([0]), through=self.classifier)
        except UsageError:
            return None

    @cached_property
    def passed(self) -> Passed:
        """All photos go through once."""
        looks: dict[str, Look] = {name: partial(_look, one) for name, one in self.bounded.items()}
        last, kept = self.penultimate, {name: list[tuple[Tensor, Tensor, Tensor]]() for name in looks}
        logits, features = [], []
        with undisturbed(self.classifier, grad=False):
            for rows in self.batches("photos"):
                images = self.pixels(rows)
                inputs: list[Tensor] = []
                wanted = looks if last is None else _both(looks, last, inputs)
                if not wanted:
                    logits.append(self.classifier(images))
                    continue
                with record(self.classifier.network, list(wanted), reduce=wanted) as found:
                    logits.append(self.classifier(images))
                    for name in looks:
                        if name in found:
                            kept[name].append(found[name])
                features += inputs
        answers = torch.cat(logits).double().cpu()
        if not bool(answers.isfinite().all()):
            raise ModelError(f"{self.classifier.name} gives NaN or infinity: check its weights, and mean and std")
        units = {}
        for name, pieces in kept.items():
            if pieces:
                best, active, full = (torch.cat(one) for one in zip(*pieces, strict=True))
                units[name] = Units(best, active.mean(0), full.mean(0))
        return Passed(answers, units, torch.cat(features) if sum(map(len, features)) == len(self) else None)

    @property
    def logits(self) -> Tensor:
        return self.passed.logits

    @cached_property
    def probabilities(self) -> Tensor:
        return probabilities(self.logits)

    @cached_property
    def answers(self) -> Tensor:
        """Each photo's most probable class."""
        return self.probabilities.argmax(1)

    @cached_property
    def blind(self) -> bool:
        """Whether it answers the same to all photos."""
        apart = self.logits - self.logits.mean(0)
        return len(self) > 1 and float(apart.abs().max()) <= SAME * max(float(self.logits.abs().max()), 1e-12)


def _both(looks: Mapping[str, Look], last: Address, inputs: list[Tensor]) -> dict[str, Look]:
    """The looks, with the penultimate layer's numbers put aside, whether that is looked at otherwise or not."""

    def also(output: Tensor) -> Any:
        inputs.append(output.detach().flatten(1).double().cpu())
        return looks[last.key](output) if last.key in looks else None

    return {**looks, last.key: also}


def _look(one: Bounded, output: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Of each photo and unit the maximum, the share of places above the lower bound, and the share that saturate."""
    output = output.detach()
    wide = output.to(torch.promote_types(output.dtype, torch.float32))
    seen = Seen.of(wide - one.low if one.low else wide)
    full = at_bound(one, wide)
    return seen.best.double().cpu(), seen.active.double().cpu() / seen.places, full.double().cpu()


def patient_of(data: DataSet, photos: int, method: str, seed: int) -> Patient:
    """At most ``photos`` photos of a data set, drawn by ``seed``, with their classes where they have some."""
    classifier = data.classifier
    assert classifier is not None
    if classifier.framing.size is None:
        raise UsageError(f"{classifier.name} takes photos of any size, which cannot be one batch: give it a canvas")
    found = catalog(data.source, SourceOptions.of(data.options))
    if not len(found):
        raise UsageError(f"{found.source} holds no photos")
    total, rows = len(found), drawn(len(found), photos, seed)
    found = found.take(rows)
    notes = [f"{len(found)} of {total:,} photos, drawn at random (seed {seed})"] if len(found) < total else []
    notes += [f"left out: {one.name}: {one.reason}" for one in found.refused[:4]]
    labels = _labels(classifier, found, notes)
    read = Photos(found, classifier.framing, classifier.channels, background=classifier.background).in_memory()
    if read.canvases is None:
        raise UsageError(f"{len(found)} photos of {classifier.canvas} do not fit into memory: take fewer")
    there = np.array([row for row in range(len(found)) if not (read.absent and read.absent[row] is not None)])
    if not len(there):
        raise UsageError(f"{found.source}: no photo could be read any more")
    names = [found.store.names[int(row)] for row in there]
    kept = None if labels is None else [labels[row] for row in there]
    return Patient(classifier, read.canvases[torch.from_numpy(there)], names, kept, method, seed, notes)


def _labels(classifier: Classifier, found: Catalog, notes: list[str]) -> list[int] | None:
    """The photos' classes; None, and a note, where there are none or they are not the network's."""
    if (found.labels < 0).any():
        some = "some photos have" if (found.labels >= 0).any() else "the photos have"
        notes.append(f"{some} no label: what needs classes is left out, and the most probable class stands for one")
        return None
    try:
        return [int(label) for label in labels_of(classifier, found, np.arange(len(found)))]
    except UsageError as error:
        notes.append(f"what needs classes is left out, and the most probable class stands for one: {error}")
        return None
