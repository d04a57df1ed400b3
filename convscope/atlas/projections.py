"""Projections of neurons back to the pixels, many at once, each on the window of its canvas that it sees.

Exact: on its window a neuron answers and is projected as on the whole canvas (``instrument.windows``). Where there is
no such window, or the network answers otherwise there, the whole canvas is taken.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from math import inf
from typing import Any

import torch
from torch import Tensor

from convscope.data.loading import pixels_of
from convscope.errors import UsageError
from convscope.images.colour import Box
from convscope.instrument.address import Address, parse_address
from convscope.instrument.canvas import REFUSALS
from convscope.instrument.randomised import randomised
from convscope.instrument.receptive_field import argument
from convscope.instrument.record import record
from convscope.instrument.state import undisturbed
from convscope.instrument.target import Target
from convscope.instrument.trace import Trace, Value, trace
from convscope.instrument.windows import Windows, windows
from convscope.methods import METHODS, configure
from convscope.methods.display import ENERGY
from convscope.models.classifier import Classifier
from convscope.optvis.plan import unrectified
from convscope.types import Images, Pixels

CLOSE = 1e-3  # of an activation: where a window's is further off, something there is not as on the canvas
GREY = 0.5  # what stands for "nothing there"


@dataclass(frozen=True)
class Neuron:
    """A unit where an image excites it most. ``row`` and ``col`` are None in a layer without maps."""

    unit: int
    image: int
    row: int | None
    col: int | None
    value: float

    @property
    def place(self) -> tuple[int, int] | None:
        return None if self.row is None or self.col is None else (self.row, self.col)


@dataclass(frozen=True, eq=False)
class Piece:
    """A neuron's window: its pixels as bytes "c h w", where it begins on the canvas, and the neuron's place there."""

    neuron: Neuron
    pixels: Tensor
    top: int
    left: int
    place: tuple[int, int] | None

    def within(self, box: Box) -> tuple[slice, slice]:
        """The part of a box of the canvas that is there, on the window."""
        (top, left, bottom, right), (height, width) = box, self.pixels.shape[1:]
        rows = slice(max(top - self.top, 0), min(bottom - self.top, height))
        return rows, slice(max(left - self.left, 0), min(right - self.left, width))


@dataclass(frozen=True)
class Carried:
    """What a projection is worth. Of the patch's pixels the share ``pixels`` holds 95 % of the projection's squares;
    with these alone on grey the neuron keeps the share ``kept`` of its activation above grey's, and with as many
    taken at random ``chance``. None where grey excites it as much.
    """

    pixels: float
    kept: float | None
    chance: float | None


def projecting(names: Sequence[str]) -> dict[str, Any]:
    """The methods of these names, which have to explain a neuron from its receptive field alone."""
    found = {name: configure(name) for name in names}
    for name, method in found.items():
        if not method.traits.local:
            fitting = ", ".join(known for known, cls in METHODS.items() if cls.traits.local)
            raise UsageError(f"{name} does not project a unit back on its receptive field; these do: {fitting}")
    return found


class Projector:
    """Projects neurons of one layer."""

    def __init__(self, classifier: Classifier, layer: str) -> None:
        self.classifier, self.layer = classifier, parse_address(layer)
        blank = classifier.blank()
        taken = trace(classifier.network, blank, through=classifier)
        event = taken.event(layer)
        assert event is not None
        assert event.value is not None
        self.seed, self.top = beginning(classifier, self.layer, blank)
        found = windows(taken, event.value)
        self.windows: Windows | None = found if found is not None and self._runs(found) else None

    def _runs(self, found: Windows) -> bool:
        """Whether the network takes a window."""
        try:
            with undisturbed(self.classifier, grad=False), record(self.classifier.network, [self.layer], stop=True):
                self.classifier(self.classifier.blank(found.size))
        except REFUSALS:
            return False
        return True

    def piece(self, canvas: Tensor, neuron: Neuron, *, whole: bool = False) -> Piece:
        """A neuron's window of its canvas, or all of that."""
        if self.windows is None or neuron.place is None or whole:
            return Piece(neuron, canvas, 0, 0, neuron.place)
        top, left, row, col = self.windows.at(*neuron.place)
        height, width = self.windows.size
        return Piece(neuron, canvas[:, top : top + height, left : left + width], top, left, (row, col))

    def images(self, pieces: Sequence[Piece]) -> Images:
        """As the classifier takes them."""
        return pixels_of(torch.stack([piece.pixels for piece in pieces]).to(self.classifier.device))

    def target(self, pieces: Sequence[Piece], layer: Address | None = None) -> Target:
        places = tuple(piece.place for piece in pieces if piece.place is not None)
        units = tuple(piece.neuron.unit for piece in pieces)
        return Target(layer or self.layer, units, positions=places or None)

    def project(self, method: Any, pieces: Sequence[Piece]) -> tuple[Pixels, Tensor]:
        """Projections on the windows, and whether each neuron answers there as on its canvas."""
        found = method.run(self.classifier, self.images(pieces), self.target(pieces, self.seed))
        known = torch.tensor([piece.neuron.value for piece in pieces], dtype=found.scores.dtype)
        answers = found.scores.cpu() if self.seed is self.layer else found.scores.cpu().clamp(0, self.top)
        off = (answers - known).abs()
        scale = known.abs().clamp_min(float(known.abs().max()) / 100).clamp_min(1e-6)
        dtype = self.classifier.dtype or torch.float32
        return found.raw, off <= max(CLOSE, 8 * torch.finfo(dtype).eps) * scale

    def field(self, neuron: Neuron) -> Box | None:
        """A neuron's receptive field, also beyond the canvas; None where it is all of that, nearly, or not known."""
        return None if self.windows is None or neuron.place is None else self.windows.field(*neuron.place)

    def carried(self, pieces: Sequence[Piece], raws: Pixels, boxes: Sequence[Box]) -> list[Carried]:
        """What each projection is worth: the neuron's answers to what it shows, to as much at random, and to grey."""
        images, target = self.images(pieces), self.target(pieces)
        marked, drawn = (torch.zeros(len(images), *images.shape[2:], dtype=torch.bool) for _ in range(2))
        for i, (piece, raw, box) in enumerate(zip(pieces, raws.cpu(), boxes, strict=True)):
            seen = piece.within(box)
            own = _strongest(raw[:, *seen])
            marked[i][seen] = own
            generator = torch.Generator().manual_seed(piece.neuron.unit * 1_000_003 + piece.neuron.image)
            order = torch.randperm(own.numel(), generator=generator)
            drawn[i][seen] = (
                torch.zeros(own.numel(), dtype=torch.bool).index_fill_(0, order[: int(own.sum())], True).view_as(own)
            )
        grey = torch.full_like(images, GREY)
        kept, chance, nothing = (
            self._scores(torch.where(mask[:, None].to(images.device), images, grey), target)
            for mask in (marked, drawn, torch.zeros_like(marked))
        )
        found = []
        for i, (piece, box) in enumerate(zip(pieces, boxes, strict=True)):
            above = piece.neuron.value - nothing[i]
            worth = abs(above) > 1e-3 * max(abs(piece.neuron.value), 1e-9)
            shares = [(score[i] - nothing[i]) / above if worth else None for score in (kept, chance)]
            found.append(Carried(float(marked[i][piece.within(box)].float().mean()), *shares))
        return found

    def _scores(self, images: Images, target: Target) -> list[float]:
        with undisturbed(self.classifier, grad=False):
            scores, _ = target.score(self.classifier, images)
        return [float(score) for score in scores]

    @cached_property
    def control(self) -> Projector:
        """The same layer of the network with its weights shuffled."""
        return Projector(randomised(self.classifier), self.layer.key)

    def project_control(self, method: Any, pieces: Sequence[Piece]) -> Pixels:
        """Projections from the same places without anything learned, each of the unit that is most active there."""
        images, target, other = self.images(pieces), self.target(pieces, self.seed), self.control
        with undisturbed(other.classifier, grad=False):
            maps = target.outputs(other.classifier, images)
        places = [piece.place for piece in pieces]
        at = torch.stack(
            [m if place is None else m[:, place[0], place[1]] for m, place in zip(maps, places, strict=True)]
        )
        units = tuple(at.argmax(1).tolist())
        raw: Pixels = method.run(other.classifier, images, replace(target, index=units)).raw
        return raw


def beginning(classifier: Classifier, layer: Address, image: Tensor) -> tuple[Address, float]:
    """Where the projection of a layer's unit begins, and what its activations are cut off at.

    A unit at the upper bound of a ReLU6 lets no gradient through, and those are its strongest: what is sent down begins
    below its own rectifier.
    """
    taken = trace(classifier.network, image, through=classifier)
    event = taken.event(layer.key)
    top = inf if event is None or event.value is None else _bound(taken, event.value)
    return (layer if top == inf else unrectified(classifier, layer, image)), top


def _bound(taken: Trace, value: Value) -> float:
    """What a value is cut off at by the rectifier that made it; infinity where nothing does."""
    op = taken.ops[taken.made_by[value.index]]
    if op.name not in ("hardtanh", "clamp"):
        return inf
    bound = argument(op, 2, "max_val" if op.name == "hardtanh" else "max", 1.0 if op.name == "hardtanh" else None)
    return float(bound) if isinstance(bound, int | float) else inf


def _strongest(raw: Tensor) -> Tensor:
    """The fewest pixels "h w" of "c h w" that hold ENERGY of the squares."""
    energy = raw.double().square().sum(0)
    values, order = energy.flatten().sort(descending=True)
    total = values.sum()
    enough = int((values.cumsum(0) < ENERGY * total).sum()) + 1 if total > 0 else 0
    return torch.zeros(energy.numel(), dtype=torch.bool).index_fill_(0, order[:enough], True).view_as(energy)
