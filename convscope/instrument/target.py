"""Targets: what is explained. A class, a unit, a neuron, or any number computed from the outputs, one an image."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias, TypeVar

import numpy as np
import torch
from torch import Tensor

from convscope.errors import UsageError, unknown
from convscope.instrument.address import LOGITS, Address, modules_by_path, parse_address
from convscope.instrument.batches import parts
from convscope.instrument.layers import resolve_one
from convscope.instrument.record import record
from convscope.instrument.state import undisturbed
from convscope.models.classes import Classes
from convscope.models.classifier import Classifier
from convscope.types import Features, Images, Logits, Scores

One: TypeAlias = int | str | Callable[[Tensor], Tensor] | None
T = TypeVar("T")
Spec: TypeAlias = One | Sequence[int | str] | Tensor | np.ndarray | np.integer

FEW = 12  # classes that an error lists
STRONGEST = 9  # units shown for a layer named without units: a 3 x 3 block, as the paper's figure 2


@dataclass(frozen=True)
class Target:
    """One target an image. ``index``: class, or unit of ``layer``; None is the class with the highest score.

    The score of a class is its logit, less that of the class it is set ``against``; of a neuron its activation; of a
    unit its spatial maximum, the first in reading order where several are equal. ``position``: row and column of the
    neuron, the same in all images; ``positions``: in each image its own.
    """

    layer: Address | None = None
    index: tuple[int, ...] | None = None
    against: tuple[int, ...] | None = None
    position: tuple[int, int] | None = None
    positions: tuple[tuple[int, int], ...] | None = None
    function: Callable[[Logits], Scores] | None = None

    def __post_init__(self) -> None:
        if self.layer is not None and self.index is None:
            raise UsageError(f"a target in {self.layer} needs a unit")

    def score(self, classifier: Classifier, images: Images) -> tuple[Scores, Target]:
        """Scores "b" of a forward pass that ends where the target is, and the target with its class settled."""
        outputs = self.outputs(classifier, images)
        settled = self.settle(outputs)
        return settled.pick(outputs), settled

    def outputs(self, classifier: Classifier, images: Images) -> Features | Logits:
        """What the target is picked from: the logits, or its layer's maps."""
        return outputs_of([self], classifier, images)[0]

    def settle(self, outputs: Features | Logits) -> Target:
        """Where no class was named: the one with the highest score."""
        if self.index is not None or self.function is not None:
            return self
        found = replace(self, index=tuple(first_argmax(outputs.detach()).tolist()))
        found.check_against()
        return found

    def check_against(self) -> None:
        """Refuse a class set against itself."""
        for own, other in zip(self.index or (), self.against or (), strict=False):
            if own == other:
                raise UsageError(f"class {own} is set against itself: name another target, or another class against it")

    def pick(self, outputs: Features | Logits) -> Scores:
        """One score an image, differentiable."""
        if self.function is not None:
            scores = self.function(outputs)
            if not isinstance(scores, Tensor) or scores.shape != (len(outputs),):
                got = tuple(scores.shape) if isinstance(scores, Tensor) else type(scores).__name__
                raise UsageError(f"a target function must give one score an image, ({len(outputs)},), got {got}")
            return scores
        index = self.settle(outputs).index
        assert index is not None
        if self.layer is not None:
            return self._pick_unit(outputs, index)
        scores = _gather(outputs, index)
        return scores if self.against is None else scores - _gather(outputs, self.against)

    def _pick_unit(self, maps: Features | Logits, index: tuple[int, ...]) -> Scores:
        if max(index) >= maps.shape[1]:
            raise UsageError(f"unit {max(index)} is out of range: {self.layer} has {maps.shape[1]} units")
        chosen = maps[torch.arange(len(maps)), list(index)].reshape(len(maps), -1)
        return chosen.gather(1, self._places(chosen, maps)).squeeze(1)

    def _places(self, chosen: Tensor, maps: Tensor) -> Tensor:
        """Flat position of each image's neuron: the one asked for, or the maximum's first."""
        places = self.positions or (self.position and (self.position,) * len(maps))
        if not places:
            return first_argmax(chosen.detach())[:, None]
        if maps.ndim != 4:
            raise UsageError(f"{self.layer} has no rows and columns: its output is {tuple(maps.shape[1:])}")
        height, width = maps.shape[2:]
        for row, col in places:
            if not (0 <= row < height and 0 <= col < width):
                raise UsageError(f"position {row},{col} is out of range: the maps of {self.layer} are {height}x{width}")
        return torch.tensor([[row * width + col] for row, col in places], device=maps.device)

    def __getitem__(self, rows: slice | Sequence[int]) -> Target:
        """The targets of some of the images."""

        def take(values: tuple[T, ...] | None) -> tuple[T, ...] | None:
            if values is None:
                return None
            return values[rows] if isinstance(rows, slice) else tuple(values[i] for i in rows)

        return replace(self, index=take(self.index), against=take(self.against), positions=take(self.positions))

    def repeat(self, count: int) -> Target:
        """The one target of one image for ``count`` variants of it."""
        return self[[0] * count]

    def labels(self, classes: Classes | None, count: int) -> tuple[str, ...]:
        """What each image's target is called."""
        if self.function is not None:
            return (getattr(self.function, "__name__", "function"),) * count
        if self.index is None:
            return ("most probable class",) * count
        if self.layer is not None:
            places = self.positions or (self.position,) * len(self.index)
            where = zip(self.index, places, strict=True)
            return tuple(str(replace(self.layer, units=(unit,), position=place)) for unit, place in where)
        names = [_name(classes, i) for i in self.index]
        if self.against is None:
            return tuple(names)
        return tuple(f"{name} against {_name(classes, i)}" for name, i in zip(names, self.against, strict=True))


def outputs_of(targets: Sequence[Target], classifier: Classifier, images: Images) -> list[Features | Logits]:
    """What each target is picked from, of one forward pass that ends where the last of them is."""
    layers = [target.layer for target in targets if target.layer is not None]
    if not layers:
        return [classifier(images)] * len(targets)
    logits = []  # empty where the pass ends before
    ends = len(layers) == len(targets)
    with record(classifier.network, layers, grad=torch.is_grad_enabled(), stop=ends) as kept:
        logits.append(classifier(images))
    for layer in layers:
        if kept[layer].ndim not in (2, 4):
            raise UsageError(f"layer {layer} gives {tuple(kept[layer].shape[1:])} an image: neither maps nor numbers")
    return [kept[target.layer] if target.layer is not None else logits[0] for target in targets]


def joined(targets: Sequence[Target]) -> Target:
    """The targets of consecutive parts of a batch as one."""

    def together(name: str) -> tuple[Any, ...] | None:
        values = [getattr(target, name) for target in targets]
        return None if values[0] is None else tuple(i for value in values for i in value)

    return replace(targets[0], index=together("index"), against=together("against"), positions=together("positions"))


def first_argmax(flat: Tensor) -> Tensor:
    """Index of each row's maximum, the first of equal ones on every device."""
    return (flat == flat.amax(1, keepdim=True)).to(torch.uint8).argmax(1)


def _name(classes: Classes | None, index: int) -> str:
    return classes.short(index) if classes is not None else f"class {index}"


def _gather(logits: Logits, index: tuple[int, ...]) -> Scores:
    if len(index) != len(logits):
        raise UsageError(f"{len(index)} targets for {len(logits)} images: give one, or one an image")
    if max(index) >= logits.shape[1] or min(index) < 0:
        raise UsageError(f"class index {max(index)} is out of range: the model has {logits.shape[1]} classes")
    return logits.gather(1, torch.tensor(index, device=logits.device)[:, None]).squeeze(1)


def resolve_target(
    classifier: Classifier,
    images: Images,
    spec: Spec = None,
    *,
    against: int | str | None = None,
    strongest: int = STRONGEST,
) -> tuple[Target, list[int]]:
    """A user's word for what to explain -> targets, and which image each belongs to.

    A class (index, name, synset), "layer:unit", "layer:unit@row,col", "@logits:name", a function of the logits, None
    for the most probable class, or a layer alone for each image's ``strongest`` units. A range of units, several
    classes after "@logits:" or a list for one image give several targets an image; a list for a batch gives one each.
    """
    count = len(images)
    classes = class_names(classifier, images)
    if isinstance(spec, (np.integer, np.ndarray, Tensor)):
        spec = spec.tolist()
    if spec is None or callable(spec):
        if spec is not None and against is not None:
            raise UsageError("against= compares classes; put the difference into the target function instead")
        target, rows = Target(function=spec), list(range(count))
    elif isinstance(spec, Sequence) and not isinstance(spec, str):
        indices = [classes.find(word) for word in spec]
        if not indices:
            raise UsageError("an empty list names no target")
        if count != 1 and len(indices) != count:
            raise UsageError(f"{len(indices)} targets for {count} images: give one, or one an image")
        target, rows = Target(index=tuple(indices)), list(range(count)) if count > 1 else [0] * len(indices)
    else:
        found = _find(classifier, images, classes, spec, strongest)
        rows = [i for i in range(count) for _ in found[i].index or ()]
        target = replace(found[0], index=tuple(unit for one in found for unit in one.index or ()))
    if against is not None:
        if target.layer is not None:
            raise UsageError("against= compares classes, the target is a unit")
        target = replace(target, against=(classes.find(against),) * len(rows))
        target.check_against()
    return target, rows


def class_names(classifier: Classifier, images: Images | None = None) -> Classes:
    """The class names; a classifier given none learns how many there are from its first forward pass."""
    if classifier.classes is None:
        with undisturbed(classifier, grad=False):
            classifier(classifier.blank() if images is None else images[:1])
    assert classifier.classes is not None
    return classifier.classes


def _find(classifier: Classifier, images: Images, classes: Classes, spec: int | str, strongest: int) -> list[Target]:
    """The target of each image, its ``index`` holding all the units or classes asked for."""
    if isinstance(spec, str) and spec.startswith(LOGITS):
        return [Target(index=tuple(_logits(classes, spec)))] * len(images)
    try:
        return [Target(index=(classes.find(spec),))] * len(images)
    except UsageError as error:
        refusal = error
    address = _as_layer(classifier, spec)
    if address is None:
        if isinstance(spec, str) and "names" not in str(refusal) and not _looks_like_index(spec):
            hint = f"classes: {'; '.join(classes.names)}" if len(classes) <= FEW else ""
            raise unknown("target", spec, [*_words(classes), *modules_by_path(classifier.network)], hint) from None
        raise refusal
    layer = resolve_one(classifier.network, address, images, through=classifier)
    where = replace(layer, units=None, position=None)
    if layer.units is not None:
        return [Target(where, layer.units, position=layer.position)] * len(images)
    return [Target(where, units) for units in strongest_units(classifier, images, where, strongest)]


def _looks_like_index(spec: str) -> bool:
    return spec.lstrip("-").isdigit()


def _words(classes: Classes) -> list[str]:
    return [part.strip() for name in classes.names for part in name.split(",")]


def _as_layer(classifier: Classifier, spec: int | str) -> Address | None:
    """The spec as an address, if it can be meant as one."""
    if not isinstance(spec, str):
        return None
    try:
        address = parse_address(spec)
    except UsageError:
        if spec.split(":")[0] in modules_by_path(classifier.network):
            raise
        return None
    meant = address.units is not None or address.layer.startswith("@") or address.function is not None
    return address if meant or address.path in modules_by_path(classifier.network) else None


def _logits(classes: Classes, spec: str) -> list[int]:
    start, _, names = spec.partition(":")
    if start != LOGITS or not names:
        raise UsageError("@logits needs classes of it: @logits:tabby or @logits:281,282")
    return classes_listed(classes, names)


def classes_listed(classes: Classes, names: str) -> list[int]:
    """The classes that words part by commas name."""
    if (span := re.fullmatch(r"(\d+)-(\d+)", names.strip())) and int(span[1]) <= int(span[2]):
        return [classes.find(index) for index in range(int(span[1]), int(span[2]) + 1)]
    try:
        return [classes.find(names)]  # one name, which may hold commas
    except UsageError:
        return [classes.find(name) for name in names.split(",")]


def strongest_units(classifier: Classifier, images: Images, layer: Address, count: int) -> list[tuple[int, ...]]:
    """Each image's ``count`` units of a layer with the highest spatial maximum, the highest first."""
    if count < 1:
        raise UsageError(f"strongest must be at least 1, got {count}")
    found = []
    with undisturbed(classifier, grad=False):
        for rows in parts(len(images)):
            with record(classifier.network, [layer], stop=True, reduce=peaks) as kept:
                classifier(images[rows])
            found.append(kept[layer])
    order = torch.cat(found).sort(dim=1, descending=True, stable=True).indices[:, :count]
    return [tuple(row) for row in order.tolist()]


def peaks(maps: Features | Logits) -> Tensor:
    """Each unit's spatial maximum; of numbers without rows and columns, themselves."""
    return maps.flatten(2).amax(2) if maps.ndim > 2 else maps.clone()
