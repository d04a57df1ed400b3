"""Correspondence: does hiding the same part of different photos change features in the same way?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from convscope.errors import UsageError
from convscope.instrument.address import Address
from convscope.instrument.fill import FILL_HELP, FILLS, fill_like
from convscope.progress import track
from convscope.settings import setting
from convscope.studies import drawing
from convscope.studies.boxes import Box, called, parts_of
from convscope.studies.interval import FEWEST, Estimate, estimate_pairs
from convscope.studies.looks import LAYERS_HELP, Layers, drawn_of, layers_meant, on_layers, outputs_of
from convscope.studies.registry import register
from convscope.studies.result import Cell, Figure, Result, Table, result
from convscope.studies.subject import Album
from convscope.types import Images

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Drawn

ROUNDING = 64  # times the precision of a layer's largest number: less of a change is none
TRIES = 200  # for a random place that lies on no named part
SHOWN = 6  # photos in the figure


@dataclass(frozen=True, eq=False)
class Compared:
    """A part at a layer. ``distances``, ``at_random``: "photos photos"; ``zeros``: share of changes that are none."""

    layer: str
    part: str
    photos: list[int]
    distances: np.ndarray
    at_random: np.ndarray
    zeros: float

    @cached_property
    def own(self) -> Estimate:
        return estimate_pairs(self.distances, (0, 1))

    @cached_property
    def control(self) -> Estimate:
        return estimate_pairs(self.at_random, (0, 1))

    @cached_property
    def apart(self) -> Estimate:
        """The part's less the random boxes'."""
        return estimate_pairs(self.distances - self.at_random, (-1, 1))


@register("correspondence", of="photos", paper="Zeiler & Fergus 2013, section 4.3, figure 8 and table 1", fewest=2)
class Correspondence:
    """Correspondence: the same part hidden in different photos (Zeiler & Fergus 2013, section 4.3, table 1).

    In each photo the box of a part is filled. e is the change that this makes to a layer's features. Two photos'
    changes are compared by the Hamming distance of sign(e), as the share of features in which they differ; a part's
    figure is the mean over all pairs of photos. Less than for random boxes of the same size: the layer knows the part
    as such. In a layer with maps each place counts by itself, so parts that lie elsewhere change other features.

    The paper gives sums over pairs whose size says that they were normalised, as here. A sign has three values:
    ``zeros`` says what a feature counts that does not change at all (less than rounding): as a third value that differs
    from the others, or not at all where either photo has it. Random boxes, ``draws`` for each part of each photo, lie
    on none of its named parts where there is room.
    """

    parts: str | Path | dict[str, Any] | None = setting(
        default=None,
        help='JSON file of each photo\'s parts: {"a.jpg": {"nose": [top, left, bottom, right]}}, in its pixels',
    )
    layers: Layers = setting(default=("@last_conv", "last"), help=LAYERS_HELP)
    fill: str = setting(default="grey", help=FILL_HELP, choices=FILLS)
    zeros: str = setting(
        default="three",
        help="features that do not change: three (a value of the sign by itself) or skip (not compared)",
        choices=("three", "skip"),
    )
    draws: int = setting(default=10, help="random boxes for each part of each photo")

    def run(self, album: Album, seed: int = 0) -> Result:
        if self.parts is None:
            raise UsageError("correspondence needs the photos' parts: --parts FILE.json, parts='FILE.json'")
        if self.draws < 1:
            raise UsageError(f"correspondence: draws must be at least 1, got {self.draws}")
        each, notes = parts_of(album, self.parts)
        names = dict.fromkeys(name for own in each for name in own)
        parts = {name: {row: own[name] for row, own in enumerate(each) if name in own} for name in names}
        enough = {name: own for name, own in parts.items() if len(own) > 1}
        notes += [f"{name} is seen in one photo alone: nothing to compare with" for name in parts if name not in enough]
        if not enough:
            raise UsageError(f"{called(self.parts)}: no part is seen in two photos, so there is nothing to compare")
        layers = layers_meant(album.classifier, self.layers, album.images)
        found: list[Compared] = []
        crowded = 0
        for name, own in track(list(enough.items()), "parts"):
            rows = list(own)
            places = []
            for row in rows:
                # A part's places in a photo are the same whatever else is compared.
                own_seed = f"{album.names[row]}/{name}".encode("utf-8", "surrogateescape")
                generator = np.random.default_rng([seed, *own_seed])
                places.append(_elsewhere(own[row], _taken(parts, row), album, self.draws, generator))
            crowded += sum(full for _, full in places)
            controls = [[boxes[draw] for boxes, _ in places] for draw in range(self.draws)]
            found += self._compared(album, layers, name, rows, [own[row] for row in rows], controls)
        if crowded:
            notes.append(f"{crowded} random boxes lie on a named part: there was no room beside them")
        notes += _on_zeros(found, self.zeros)
        tables = [_table(found), _pairs(album, found)]
        figures = [Figure("correspondence", _caption() + on_layers(len(layers)), lambda: _drawn(album, parts, found))]
        title = f"Does {album.classifier.name} know the parts?"
        return result(self, title, seed, album, tables, figures, _findings(found), notes)

    def _compared(
        self,
        album: Album,
        layers: Sequence[Address],
        part: str,
        rows: list[int],
        boxes: list[Box],
        controls: list[list[Box]],
    ) -> list[Compared]:
        images = album.images[rows]
        clean, _ = outputs_of(album.classifier, images, layers)

        def distances(boxes: list[Box]) -> dict[str, tuple[np.ndarray, float]]:
            hidden, _ = outputs_of(album.classifier, _hidden(images, boxes, self.fill), layers)
            return {name: _signs_apart(clean[name], hidden[name], self.zeros == "skip") for name in clean}

        own, drawn = distances(boxes), [distances(some) for some in controls]
        return [
            Compared(name, part, rows, apart, _mean([one[name][0] for one in drawn]), zeros)
            for name, (apart, zeros) in own.items()
        ]


def _on_zeros(found: list[Compared], how: str) -> list[str]:
    shares: dict[str, list[float]] = {}
    for one in found:
        shares.setdefault(one.layer, []).append(one.zeros)
    many = [f"{max(own):.0%} of {layer}" for layer, own in shares.items() if max(own) > 0.5]
    if not many or how == "skip":
        return []
    told = f"hiding a part leaves most features as they are ({', '.join(many)})"
    return [
        f"{told}: a distance tells mostly which features change, little of how; --zeros skip compares those that do"
    ]


def _mean(several: list[np.ndarray]) -> np.ndarray:
    """Of each pair over the draws that can be compared; NaN where none can."""
    values = np.stack(several)
    known = np.isfinite(values)
    found: np.ndarray = np.where(known, values, 0).sum(0) / np.where(known.any(0), known.sum(0), np.nan)
    return found


def _hidden(images: Images, boxes: list[Box], fill: str) -> Images:
    found, filled = images.clone(), fill_like(images, fill)
    for image, paint, (top, left, bottom, right) in zip(found, filled, boxes, strict=True):
        image[:, top:bottom, left:right] = paint[:, top:bottom, left:right]
    return found


def _signs_apart(clean: Tensor, hidden: Tensor, skip: bool) -> tuple[np.ndarray, float]:
    """Of "b numbers" before and after: the distances of the changes' signs "b b", and the share of changes of zero."""
    change = clean - hidden
    change[change.abs() <= ROUNDING * torch.finfo(clean.dtype).eps * clean.abs().amax(1, keepdim=True)] = 0
    up, down, none = ((change > 0).double(), (change < 0).double(), (change == 0).double())
    differ = up @ down.T + down @ up.T
    both = (1 - none) @ (1 - none).T
    if skip:
        apart = torch.where(both > 0, differ / both.clamp(min=1), torch.nan)
    else:
        apart = (differ + none @ (1 - none).T + (1 - none) @ none.T) / change.shape[1]
    return apart.cpu().numpy(), float(none.mean())


def _taken(parts: Mapping[str, Mapping[int, Box]], row: int) -> list[Box]:
    return [own[row] for own in parts.values() if row in own]


def _elsewhere(
    box: Box, taken: list[Box], album: Album, draws: int, generator: np.random.Generator
) -> tuple[list[Box], int]:
    """Random boxes of the same size, on none of those that are taken; how many of them could not avoid these."""
    height, width = box[2] - box[0], box[3] - box[1]
    rows, cols = album.images.shape[-2] - height + 1, album.images.shape[-1] - width + 1
    found: list[Box] = []
    crowded = 0
    for _ in range(draws):
        for _ in range(TRIES):
            top, left = int(generator.integers(rows)), int(generator.integers(cols))
            place = (top, left, top + height, left + width)
            if not any(_overlap(place, other) for other in taken):
                break
        else:
            crowded += 1
        found.append(place)
    return found, crowded


def _overlap(one: Box, other: Box) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]


def _table(found: list[Compared]) -> Table:
    interval = ("lower end of its 95 % interval", "upper end")
    columns = {
        "layer": "whose features are compared",
        "part": "what was hidden",
        "photos": "in how many photos",
        "distance": "mean share of features whose change differs in sign, over all pairs of photos; 0 to 1",
        "low": interval[0],
        "high": interval[1],
        "random": "the same for random boxes of the same size",
        "random low": interval[0],
        "random high": interval[1],
        "difference": "the part's less the random boxes'",
        "difference low": interval[0],
        "difference high": interval[1],
        "zeros": "share of features that the part's hiding does not change",
    }
    rows: list[tuple[Cell, ...]] = []
    for one in found:
        cells = [cell for each in (one.own, one.control, one.apart) for cell in each[:3]]
        rows.append((one.layer, one.part, len(one.photos), *cells, one.zeros))
    return Table("parts", "How alike the same part is in different photos", columns, rows)


def _pairs(album: Album, found: list[Compared]) -> Table:
    columns = {
        "layer": "whose features are compared",
        "part": "what was hidden",
        "photo": "one of the pair",
        "other": "the other",
        "distance": "share of features whose change differs in sign",
        "random": "the same for random boxes, the mean over the draws",
    }
    rows: list[tuple[Cell, ...]] = [
        (one.layer, one.part, album.names[i], album.names[j], float(one.distances[a, b]), float(one.at_random[a, b]))
        for one in found
        for a, i in enumerate(one.photos)
        for b, j in enumerate(one.photos)
        if a < b
    ]
    return Table("pairs", "Every pair of photos", columns, rows)


def _findings(found: list[Compared]) -> list[str]:
    return [
        f"{one.layer}, {one.part}: {one.own} beside {one.control} for random boxes: {_verdict(one.apart)}"
        for one in found
    ]


def _verdict(apart: Estimate) -> str:
    if not apart.photos:
        return "nothing changes in both photos of any pair, so there is nothing to compare"
    if (side := apart.side()) is None:
        return f"too few photos to say (at least {FEWEST})"
    return ("known as the same part", "no more alike than random boxes", "less alike than random boxes")[1 + side]


def _caption() -> str:
    return (
        "Above: photos with their parts. Below, for each layer: the share of features whose change differs in sign "
        "between two photos when the part is hidden in both (filled), and when random boxes of its size are (hollow), "
        "with the 95 % interval over photos. The lower, the more the layer takes them for the same thing. After Zeiler "
        "& Fergus 2013, figure 8 and table 1."
    )


def _drawn(album: Album, parts: Mapping[str, Mapping[int, Box]], found: list[Compared]) -> Drawn:
    from matplotlib.patches import Rectangle

    rows = sorted({row for own in parts.values() for row in own})[:SHOWN]
    layers = drawn_of(list(dict.fromkeys(one.layer for one in found)))
    names = list(dict.fromkeys(one.part for one in found))
    heights = (2.0, 0.45 * len(names) + 1.1)
    figure, axes = drawing.mosaic([len(rows), len(layers)], heights=heights, names=" ".join(names))
    for place, row in zip(axes[0], rows, strict=True):
        drawing.picture(place, album.images[row], drawing.shortened(album.names[row]))
        for number, own in enumerate(parts.values()):
            if row in own:
                top, left, bottom, right = own[row]
                colour = drawing.COLOURS[number % len(drawing.COLOURS)]
                corner, size = (left - 0.5, top - 0.5), (right - left, bottom - top)
                place.add_patch(Rectangle(corner, *size, fill=False, edgecolor=colour, linewidth=1.6))
    for place, layer in zip(axes[1], layers, strict=True):
        for one in (one for one in found if one.layer == layer):
            at, number = names.index(one.part), list(parts).index(one.part)
            colour = drawing.COLOURS[number % len(drawing.COLOURS)]
            _bar(place, at - 0.14, one.own, colour, filled=True)
            _bar(place, at + 0.14, one.control, colour, filled=False)
        place.set_yticks(range(len(names)), names)
        place.set_ylim(len(names) - 0.5, -0.5)
        place.set_xlim(0, 1.03 * place.get_xlim()[1])
        drawing.plain(place, across="share of signs that differ", up="", title=layer)
    return figure


def _bar(axes: Axes, at: float, value: Estimate, colour: str, *, filled: bool) -> None:
    paint = colour if filled else "white"
    axes.errorbar(
        value.mean,
        at,
        xerr=None if value.low is None or value.high is None else [[value.mean - value.low], [value.high - value.mean]],
        marker="o",
        markersize=5,
        color=colour,
        markerfacecolor=paint,
        capsize=2,
        linewidth=1,
    )
