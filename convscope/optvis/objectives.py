"""Objectives: what a picture is to excite, one number a picture, the larger the better, always.

They add, subtract and multiply: ``channel("layer3", 12) - 0.5 * channel("layer3", 40)``. An objective over several
units is over as many pictures, one each; one over a single unit goes with any number of them.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from math import lcm
from typing import Any, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor

from convscope.errors import UsageError
from convscope.instrument.address import LOGITS, Address, parse_address
from convscope.models.classes import Classes
from convscope.types import Images, Scores

Unit: TypeAlias = int | str
Units: TypeAlias = Unit | Iterable[Unit]


@dataclass(frozen=True)
class Need:
    """What an objective reads: a layer, and units of it if it names some, one a picture.

    ``maps``: only where they have rows and columns. ``width``: how many units the layer must have. ``whole``: more of
    the layer is read than ``Seen.units`` gives.
    """

    layer: str
    units: tuple[Unit, ...] = ()
    maps: bool = False
    position: tuple[int, int] | None = None
    width: int | None = None
    whole: bool = True


@dataclass
class Seen:
    """What the network made of a batch: outputs of layers, and the pictures before they were transformed.

    ``rows``: which of the objective's pictures these are; the ``views`` of a picture follow each other. ``picked``: of
    the layer there is each sample's own unit alone, "b 1 h w".
    """

    outputs: dict[str, Tensor]
    canvas: Images
    rows: Sequence[int]
    classes: Classes | None = None
    views: int = 1
    picked: bool = False

    def __getitem__(self, layer: str) -> Tensor:
        return self.outputs[layer]

    def units(self, need: Need) -> Tensor:
        """Each sample's map or number of its unit: "b h w" or "b"."""
        return self.pick(need.layer, [number(need, row, self.classes) for row in self.rows for _ in range(self.views)])

    def pick(self, layer: str, units: Sequence[int]) -> Tensor:
        """Each sample's map or number of one unit of a layer."""
        output = self[layer]
        if self.picked:
            assert output.shape[1] == 1
            return output[:, 0]
        return output[torch.arange(len(output), device=output.device), torch.tensor(units, device=output.device)]

    def of_rows(self, values: Tensor) -> Tensor:
        """Of constants, one a picture or one for all, each sample's."""
        rows = [row if len(values) > 1 else 0 for row in self.rows for _ in range(self.views)]
        return values[rows]


def number(need: Need, row: int, classes: Classes | None) -> int:
    """The number of the unit that a picture needs; of the logits it may be a class's name."""
    unit = need.units[row if len(need.units) > 1 else 0]
    return classes.find(unit) if need.layer == LOGITS and classes is not None else int(unit)


@dataclass(frozen=True)
class Objective:
    """A score for each of ``count`` pictures, with what it reads and what they are called.

    ``group``: so many pictures that follow each other look at each other, and are never parted.
    """

    score: Callable[[Seen], Scores]
    needs: tuple[Need, ...] = ()
    names: tuple[str, ...] = ("objective",)
    group: int = 1
    base: tuple[int, ...] = ()  # of pictures that are there several times, which of the needs' units each is of

    @property
    def count(self) -> int:
        return len(self.names)

    def name(self, row: int) -> str:
        return self.names[row if self.count > 1 else 0]

    def unit(self, row: int, classes: Classes | None) -> tuple[Need, int] | None:
        """What a picture is of: the first unit that its score reads."""
        need = next((need for need in self.needs if need.units), None)
        if need is None:
            return None
        return need, number(need, self.base[row] if self.base else row, classes)

    @property
    def strength(self) -> Objective:
        """The size of the score, as a constant: for weighing another objective by it."""
        own = self.score
        return replace(self, score=lambda seen: own(seen).detach().abs())

    def __add__(self, other: Any) -> Objective:
        return _joined(self, other, operator.add, "+")

    def __radd__(self, other: Any) -> Objective:
        return self if other == 0 else NotImplemented  # so that sum() adds objectives up

    def __sub__(self, other: Any) -> Objective:
        return _joined(self, other, operator.sub, "-")

    def __mul__(self, other: Any) -> Objective:
        if isinstance(other, int | float):
            scaled = self.score
            names = tuple(f"{other:g} {_bracketed(name)}" for name in self.names)
            return replace(self, score=lambda seen: scaled(seen) * other, names=names)
        return _joined(self, other, operator.mul, "*")

    __rmul__ = __mul__

    def __truediv__(self, other: float) -> Objective:
        return self * (1 / other) if isinstance(other, int | float) else NotImplemented

    def __neg__(self) -> Objective:
        own = self.score
        return replace(self, score=lambda seen: -own(seen), names=tuple(f"-{_bracketed(name)}" for name in self.names))

    def repeated(self, copies: int) -> Objective:
        """Each picture ``copies`` times, copies beside each other."""
        if copies == 1:
            return self
        rows = [row for row in range(self.count) for _ in range(copies)]
        own = self.score

        def score(seen: Seen) -> Scores:
            return own(replace(seen, rows=[rows[row] for row in seen.rows]))

        base = tuple(self.base[row] if self.base else row for row in rows)
        return replace(self, score=score, names=tuple(self.names[row] for row in rows), base=base)


def _joined(one: Objective, other: Any, how: Callable[[Tensor, Tensor], Tensor], sign: str) -> Objective:
    if not isinstance(other, Objective):
        return NotImplemented
    if one.count != other.count and 1 not in (one.count, other.count):
        raise UsageError(f"objectives of {one.count} and {other.count} pictures cannot be one: give each as many units")
    count, group = max(one.count, other.count), lcm(one.group, other.group)
    if count > 1 and count % group:
        raise UsageError(f"{count} pictures cannot be compared in groups of {group}: repeat each as often as that")
    names = tuple(_together(one.name(row), sign, other.name(row)) for row in range(count))
    leading = one if any(need.units for need in one.needs) else other  # whose units ``unit`` tells of
    needs = tuple(dict.fromkeys((*one.needs, *other.needs)))
    return Objective(lambda seen: how(one.score(seen), other.score(seen)), needs, names, group, leading.base)


def _together(one: str, sign: str, other: str) -> str:
    """The name of both, which read as arithmetic means what they do."""
    if sign == "*":
        one = _bracketed(one)
    return f"{one} {sign} {other if sign == '+' else _bracketed(other)}"


def _bracketed(name: str) -> str:
    return f"({name})" if name.startswith("-") or " + " in name or " - " in name else name


# --- what units say


def channel(layer: str, units: Units) -> Objective:
    """A unit's mean activation over all places; of a layer without rows and columns the unit itself.

    ``units``: one, or several for as many pictures.
    """
    need = Need(_layer(layer), _several(units, layer), whole=False)
    return Objective(lambda seen: _flat(seen.units(need)).mean(1), (need,), _names(need))


def neuron(layer: str, units: Units, row: int | None = None, col: int | None = None) -> Objective:
    """A unit's activation at one place, by default the centre of its map."""
    if (row is None) != (col is None):
        raise UsageError("a neuron has a row and a column: give both, or none for the centre")
    position = None if row is None or col is None else (row, col)
    need = Need(_layer(layer), _several(units, layer), maps=True, position=position, whole=False)

    def score(seen: Seen) -> Scores:
        maps = seen.units(need)
        at = position or (maps.shape[1] // 2, maps.shape[2] // 2)
        return maps[:, at[0], at[1]]

    place = "" if position is None else f"@{position[0]},{position[1]}"
    return Objective(score, (need,), tuple(f"{name}{place}" for name in _names(need)))


def logit(classes: Units) -> Objective:
    """A class's score before softmax; classes by index or name."""
    need = Need(LOGITS, _several(classes, LOGITS))
    return Objective(lambda seen: seen.units(need), (need,), _names(need))


def direction(layer: str, vectors: Tensor) -> Objective:
    """Mean over places of the activations' product with a vector of the layer's units: what a sum of units wants.

    ``vectors``: "k" or "n k" (n pictures); or "k h w" / "n k h w", a value for each place of the layer's maps too.
    """
    need, vectors = _vectors(layer, vectors)
    return Objective(lambda seen: _product(seen, need, vectors), (need,), _numbered("direction", need, len(vectors)))


def cosine(layer: str, vectors: Tensor, power: float = 0.0) -> Objective:
    """The cosine between the activations and a vector: its direction, whatever the strength.

    With a ``power`` the product with the vector times the cosine to that power, as in activation atlases (Carter et
    al. 2019): strong and in this direction. ``vectors`` as in ``direction``; the mean over places.
    """
    need, vectors = _vectors(layer, vectors)

    def score(seen: Seen) -> Scores:
        maps, wanted = _aligned(seen, need, vectors)
        dims, places = (1, 1) if wanted.shape[2:].numel() == 1 else ((1, 2, 3), maps.shape[2:].numel())
        product = (maps * wanted).sum(dims)
        norms = maps.pow(2).sum(dims).add(1e-12).sqrt() * wanted.pow(2).sum(dims).add(1e-12).sqrt()
        cosines = product / norms
        found = cosines if power == 0 else product / places * cosines.clamp_min(0.1) ** power
        return _flat(found).mean(1)

    return Objective(score, (need,), _numbered("cosine", need, len(vectors)))


def energy(layer: str) -> Objective:
    """The mean square of all of a layer's activations: what deep dreams raise (Mordvintsev et al. 2015)."""
    need = Need(_layer(layer))
    return Objective(lambda seen: seen[need.layer].flatten(1).pow(2).mean(1), (need,), (f"energy of {layer}",))


# --- how pictures are among each other, and in themselves


def diversity(layer: str, copies: int) -> Objective:
    """How unlike a picture is to the other ``copies`` of its group: minus the mean cosine between Gram matrices of a
    layer's maps (Olah et al. 2017, after Gatys et al. 2015). In [-1, 1].
    """
    if copies < 2:
        raise UsageError(f"diversity is among several pictures, got {copies}")
    need = Need(_layer(layer), maps=True)

    def score(seen: Seen) -> Scores:
        maps = seen[need.layer].flatten(2)
        grams = F.normalize((maps @ maps.transpose(1, 2)).flatten(1), dim=1)
        groups = grams.unflatten(0, (-1, copies, seen.views))  # each view beside the others' view of that number
        # Product by product: how a matrix product is rounded depends on how many groups there are.
        alike = sum((groups * groups.roll(by, 1)).sum(3) for by in range(1, copies))
        return -(alike / (copies - 1)).flatten()

    return Objective(score, (need,), ("diversity",), copies)


def total_variation() -> Objective:
    """Minus the mean absolute difference of neighbouring pixels (Rudin et al. 1992): smooth pictures are better."""

    def score(seen: Seen) -> Scores:
        down, right = seen.canvas.diff(dim=2).abs(), seen.canvas.diff(dim=3).abs()
        return _for_views(seen, -(down.flatten(1).mean(1) + right.flatten(1).mean(1)))

    return Objective(score, names=("smoothness",))


def l2() -> Objective:
    """Minus the mean square of the pixels' distance from mid-grey: pale pictures are better."""
    return Objective(lambda seen: _for_views(seen, -(seen.canvas - 0.5).pow(2).flatten(1).mean(1)), names=("paleness",))


# --- parts


def _for_views(seen: Seen, scores: Scores) -> Scores:
    return scores.repeat_interleave(seen.views, 0) if seen.views > 1 else scores


def _flat(values: Tensor) -> Tensor:
    return values.reshape(len(values), -1)


def _product(seen: Seen, need: Need, vectors: Tensor) -> Scores:
    maps, wanted = _aligned(seen, need, vectors)
    return (maps * wanted).sum((1, 2, 3)) / maps.shape[2:].numel()


def _aligned(seen: Seen, need: Need, vectors: Tensor) -> tuple[Tensor, Tensor]:
    """Maps "b k h w" and each picture's vector "b k 1 1" or, brought to their size, "b k h w"."""
    maps = seen[need.layer]
    maps = maps if maps.ndim == 4 else maps[:, :, None, None]
    wanted = seen.of_rows(vectors.to(maps))
    if wanted.shape[2:].numel() > 1 and wanted.shape[2:] != maps.shape[2:]:
        wanted = F.interpolate(wanted, maps.shape[2:], mode="bilinear", align_corners=False)
    return maps, wanted


def _vectors(layer: str, vectors: Tensor) -> tuple[Need, Tensor]:
    if not isinstance(vectors, Tensor) or not 1 <= vectors.ndim <= 4 or vectors.numel() == 0:
        raise UsageError('a direction is a tensor "k", "n k", "k h w" or "n k h w" of a layer\'s units')
    if not bool(vectors.isfinite().all()) or not bool(vectors.any()):
        raise UsageError("a direction must be finite and not zero everywhere")
    vectors = vectors.detach()
    if vectors.ndim in (1, 3):
        vectors = vectors[None]
    if vectors.ndim == 2:
        vectors = vectors[:, :, None, None]
    return Need(_layer(layer), width=vectors.shape[1], maps=vectors.shape[2:].numel() > 1), vectors


def _layer(layer: str) -> str:
    if layer == LOGITS:
        return layer
    address: Address = parse_address(layer)
    if address.layer.startswith("@"):
        raise UsageError(f"{layer} may be several layers: name one; Scope.find_layers({layer!r}) tells them")
    if address.units is not None:
        raise UsageError(f"{layer}: give the layer and its units apart, as in channel({address.key!r}, ...)")
    return address.key


def _several(units: Units, layer: str) -> tuple[Unit, ...]:
    """Numbers of any kind of integer, alone or several; of the logits names too."""
    given = " ".join(repr(units).split())[:60]
    each: Any = [units] if isinstance(units, str) or not getattr(units, "ndim", hasattr(units, "__iter__")) else units
    try:
        found = tuple(_unit(unit) for unit in each)
    except TypeError:
        raise UsageError(f"units are numbers, got {given}") from None
    if not found:
        raise UsageError("an objective needs at least one unit")
    if layer != LOGITS and any(isinstance(unit, str) for unit in found):
        raise UsageError(f"units of a layer are numbers, got {given}")
    if any(isinstance(unit, int) and unit < 0 for unit in found):
        raise UsageError(f"units are counted from 0, got {given}")
    return found


def _unit(unit: Any) -> Unit:
    if isinstance(unit, str):
        return unit
    if isinstance(unit, bool) or str(getattr(unit, "dtype", "")).endswith("bool"):
        raise TypeError
    return operator.index(unit)


def _names(need: Need) -> tuple[str, ...]:
    return tuple(f"{need.layer}:{unit}" for unit in need.units)


def _numbered(what: str, need: Need, count: int) -> tuple[str, ...]:
    return tuple(f"{what} {i} of {need.layer}" if count > 1 else f"{what} of {need.layer}" for i in range(count))
