"""Invariance: how far features move when the photo is shifted, enlarged or turned."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2.functional import affine

from convscope.errors import UsageError, unknown
from convscope.instrument.address import Address
from convscope.instrument.fill import FILLS, fill_like
from convscope.models.classifier import probabilities
from convscope.progress import track
from convscope.settings import Words, setting
from convscope.studies import drawing
from convscope.studies.interval import estimate
from convscope.studies.looks import LAYERS_HELP, Layers, drawn_of, layers_meant, on_layers, outputs_of
from convscope.studies.registry import register
from convscope.studies.result import Cell, Figure, Result, Table, result
from convscope.studies.subject import Album
from convscope.types import Images, OneImage

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Drawn


UNITS = {"shift": "pixels down", "across": "pixels to the right", "scale": "times", "rotation": "degrees"}
NEUTRAL = {"shift": 0.0, "across": 0.0, "scale": 1.0, "rotation": 0.0}
PLAIN = tuple(fill for fill in FILLS if fill != "blur")  # of one colour
LEAST = 0.005  # of a probability, to be worth a word
OWN_LINES = 8  # photos up to which each has its line
SHOWN = 4  # versions of the photo that the figure shows, two by two


@dataclass(frozen=True, eq=False)
class Moved:
    """What one transform came to. ``distances``: of each layer "photos amounts"; ``probability`` likewise."""

    name: str
    amounts: list[float]
    distances: dict[str, np.ndarray]
    probability: np.ndarray

    @property
    def neutral(self) -> int:
        """Where among the amounts nothing is done."""
        return self.amounts.index(NEUTRAL[self.name])

    @property
    def nearest(self) -> int:
        """Where the least is done."""
        away = [abs(amount - NEUTRAL[self.name]) or math.inf for amount in self.amounts]
        return away.index(min(away))

    def degree(self, place: int) -> str:
        """An amount in words."""
        amount = self.amounts[place]
        back = {"shift": "pixels up", "across": "pixels to the left"}.get(self.name) if amount < 0 else None
        return f"{abs(amount) if back else amount:.3g} {back or UNITS[self.name]}"


@register("invariance", of="photos", paper="Zeiler & Fergus 2013, section 4.1 and figure 5")
class Invariance:
    """Invariance of features to shift, scale and rotation (Zeiler & Fergus 2013, section 4.1, figure 5).

    Each photo, as the network sees it, is shifted vertically, enlarged and turned about its middle by degrees. Measured
    are the Euclidean distance of a layer's features from those of the photo as it is, and the probability of the true
    class. ``relative`` is that distance over the mean distance between different photos at the layer: 1 means that the
    photo has become as strange to the layer as another photo.

    The paper states neither ranges nor what comes in at the borders, so both are settings; photos are resampled
    bilinearly, and a photo that is not moved is the photo itself.
    """

    layers: Layers = setting(default=("first", "last"), help=LAYERS_HELP)
    transforms: Words = setting(
        default=("shift", "scale", "rotation"), help="what is done to the photo: shift, across, scale, rotation"
    )
    shift: float = setting(default=0.25, help="the largest shift, either way, as a share of the side")
    scale: float = setting(default=1.8, help="the largest scale; below 1 the smallest")
    turn: float = setting(default=350.0, help="the largest rotation in degrees, anticlockwise")
    steps: int = setting(default=21, help="degrees of each transform")
    fill: str = setting(default="grey", help="what comes in at the borders", choices=PLAIN)

    def run(self, album: Album, seed: int = 0) -> Result:
        plans = self._plans(*album.images.shape[-2:])
        layers = layers_meant(album.classifier, self.layers, album.images)
        names = [layer.key for layer in layers]
        clean, _ = outputs_of(album.classifier, album.images, layers)
        apart = {name: _mean_distance(clean[name]) for name in names}
        photos = [
            [self._moved(album, row, layers, kind, amounts) for kind, amounts in plans.items()]
            for row in track(range(len(album)), "photos")
        ]
        found = [
            Moved(
                kind,
                amounts,
                {name: np.stack([own[i][0][name] for own in photos]) for name in names},
                np.stack([own[i][1] for own in photos]),
            )
            for i, (kind, amounts) in enumerate(plans.items())
        ]
        tables = [_summary(found, apart), _curves(found, apart), _every(album, found)]
        figure = Figure("invariance", _caption(len(album), len(layers)), lambda: _drawn(self, album, found))
        title = f"What {album.classifier.name} makes of a photo that is moved"
        notes = [] if len(album) > 1 else ["one photo: there is nothing that distances could be relative to"]
        return result(self, title, seed, album, tables, [figure], _findings(found, apart), notes)

    def _plans(self, height: int, width: int) -> dict[str, list[float]]:
        """The amounts of each transform, the photo as it is among them."""
        if self.steps < 2:
            raise UsageError(f"invariance: steps must be at least 2, got {self.steps}")
        if not 0 < self.shift < 1:
            raise UsageError(f"invariance: shift is a share of the side, above 0 and below 1: got {self.shift}")
        if self.scale <= 0 or self.scale == 1:
            raise UsageError(f"invariance: scale is above 0 and not 1, got {self.scale}")
        ranges = {
            "shift": sorted({round(float(v)) for v in np.linspace(-self.shift, self.shift, self.steps) * height}),
            "across": sorted({round(float(v)) for v in np.linspace(-self.shift, self.shift, self.steps) * width}),
            "scale": np.linspace(1, self.scale, self.steps).tolist(),
            "rotation": np.linspace(0, self.turn, self.steps).tolist(),
        }
        if not self.transforms:
            raise UsageError("invariance: no transform is named")
        for name in self.transforms:
            if name not in ranges:
                raise unknown("transform", name, ranges)
        plans = {name: sorted({*map(float, ranges[name]), NEUTRAL[name]}) for name in self.transforms}
        for name, amounts in plans.items():
            if len(amounts) < 2:
                side = height if name == "shift" else width
                raise UsageError(f"invariance: {self.shift} of {side} pixels is less than one pixel: nothing moves")
        return plans

    def _moved(
        self, album: Album, row: int, layers: Sequence[Address], kind: str, amounts: list[float]
    ) -> tuple[dict[str, np.ndarray], np.ndarray]:
        """Of one photo: each layer's distances, and the probability of its class."""
        image = album.images[row : row + 1]
        features, logits = outputs_of(album.classifier, versions(image, kind, amounts, self.fill), layers)
        still = amounts.index(NEUTRAL[kind])
        distances = {
            name: (own.double() - own[still].double()).norm(dim=1).cpu().numpy() for name, own in features.items()
        }
        return distances, probabilities(logits)[:, album.labels[row]].double().cpu().numpy()


def versions(image: OneImage, kind: str, amounts: Sequence[float], fill: str) -> Images:
    """A photo moved by each amount: pixels down or to the right, times as large, or degrees anticlockwise."""
    paper = fill_like(image, fill)[0, :, 0, 0].tolist()
    found = []
    for amount in amounts:
        how: dict[str, Any] = {"angle": 0.0, "translate": [0, 0], "scale": 1.0, "shear": [0.0, 0.0]}
        if kind == "shift":
            how["translate"] = [0, round(amount)]
        elif kind == "across":
            how["translate"] = [round(amount), 0]
        elif kind == "scale":
            how["scale"] = amount
        else:
            how["angle"] = -amount  # torchvision turns clockwise
        moved = (
            image
            if amount == NEUTRAL[kind]
            else affine(image, **how, interpolation=InterpolationMode.BILINEAR, fill=paper)
        )
        found.append(moved.clamp(0, 1))
    return torch.cat(found)


def _mean_distance(features: Tensor) -> float | None:
    """Between different photos; None where there are not two, or they do not differ."""
    if len(features) < 2:
        return None
    return float(torch.pdist(features.double()).mean()) or None


def _summary(found: list[Moved], apart: dict[str, float | None]) -> Table:
    columns = {
        "transform": "what was done to the photo",
        "layer": "whose features are compared",
        "smallest": "the smallest degree of it",
        "distance": "there: mean Euclidean distance of the features from those of the photo as it is",
        "relative": "that, over the mean distance between different photos",
        "largest": "the largest relative distance over all degrees",
        "probability": "mean probability of the photo's class, unmoved",
        "lowest": "its lowest mean over all degrees",
        "at": "the degree where it is lowest",
    }
    rows: list[tuple[Cell, ...]] = []
    for one in found:
        sure = one.probability.mean(0)
        low = int(sure.argmin())
        for layer, distances in one.distances.items():
            mean, own = distances.mean(0), apart[layer]
            near = float(mean[one.nearest])
            relative: tuple[Cell, Cell] = (None, None) if own is None else (near / own, float(mean.max()) / own)
            probability: tuple[Cell, ...] = (float(sure[one.neutral]), float(sure[low]), one.degree(low))
            rows.append((one.name, layer, one.degree(one.nearest), near, *relative, *probability))
    return Table("summary", "How far features move, and what becomes of the class", columns, rows)


def _curves(found: list[Moved], apart: dict[str, float | None]) -> Table:
    columns = {
        "transform": "what was done to the photo",
        "amount": "how much, in the unit",
        "unit": "pixels, times or degrees",
        "figure": "distance at a layer, relative distance at it, or probability of the photo's class",
        "layer": "the layer of a distance",
        "mean": "over the photos",
        "low": "lower end of the mean's 95 % interval",
        "high": "its upper end",
    }
    rows: list[tuple[Cell, ...]] = []
    for one in found:
        curves: list[tuple[str, str | None, np.ndarray]] = [("probability", None, one.probability)]
        for layer, distances in one.distances.items():
            curves.append(("distance", layer, distances))
            if (own := apart[layer]) is not None:
                curves.append(("relative", layer, distances / own))
        for name, place, values in curves:
            for amount, column in zip(one.amounts, values.T, strict=True):
                mean, low, high, _ = estimate(column, (0, 1 if name == "probability" else math.inf))
                rows.append((one.name, amount, UNITS[one.name], name, place, mean, low, high))
    return Table("curves", "The curves, means over the photos", columns, rows)


def _every(album: Album, found: list[Moved]) -> Table:
    layers = list(found[0].distances)
    distance = "Euclidean distance of the layer's features from those of the photo as it is"
    columns = {
        "photo": "the photo's name",
        "transform": "what was done to it",
        "amount": "how much: pixels, times or degrees",
        **{f"distance {layer}": distance for layer in layers},
        "probability": "of the photo's class",
    }
    rows: list[tuple[Cell, ...]] = [
        (name, one.name, amount, *(float(one.distances[layer][i, j]) for layer in layers), float(one.probability[i, j]))
        for i, name in enumerate(album.names)
        for one in found
        for j, amount in enumerate(one.amounts)
    ]
    return Table("photos", "Every photo", columns, rows)


def _findings(found: list[Moved], apart: dict[str, float | None]) -> list[str]:
    told = []
    for one in found:
        sure = one.probability.mean(0)
        low = int(sure.argmin())
        ways = [
            f"{layer} moves {distances.mean(0)[one.nearest] / own:.0%} of the way to another photo"
            for layer, distances in one.distances.items()
            if (own := apart[layer]) is not None
        ]
        moved = f"; by {one.degree(one.nearest)}, {' and '.join(ways)}" if ways else ""
        falls = f"falls from {sure[one.neutral]:.2f} to {sure[low]:.2f} at {one.degree(low)}"
        if sure[one.neutral] - sure[low] < LEAST:
            falls = f"keeps its {sure[one.neutral]:.2f}"
        told.append(f"{one.name}: the class's probability {falls}{moved}")
    return told


def _caption(photos: int, layers: int) -> str:
    few = 1 < photos <= OWN_LINES
    lines = "The pale lines are single photos, the strong one their mean" if few else "The line is the mean"
    return (
        "From the left, for each transform: a photo as it is moved; the Euclidean distance of a layer's features from "
        f"those of the photo as it is; the probability of its class. {lines}, its band the 95 % interval over "
        f"photos. After Zeiler & Fergus 2013, figure 5.{on_layers(layers)}"
    )


def _drawn(study: Invariance, album: Album, found: list[Moved]) -> Drawn:
    layers = drawn_of(list(found[0].distances))
    figure, axes = drawing.panels(len(found), len(layers) + 2, width=2.7, height=2.1)
    for one, panel in zip(found, axes, strict=True):
        few = [one.amounts[round(i)] for i in np.linspace(0, len(one.amounts) - 1, SHOWN)]
        pair, other = versions(album.images[:1], one.name, few, study.fill).chunk(2)
        tiles = torch.cat([torch.cat(list(pair), 2), torch.cat(list(other), 2)], 1)
        named = ", ".join(f"{amount:.3g}" for amount in few)
        drawing.picture(panel[0], tiles, f"{one.name}: {named} {UNITS[one.name]}")
        for place, layer in zip(panel[1:], layers, strict=False):
            _lines(place, one.amounts, one.distances[layer])
            drawing.plain(place, across=UNITS[one.name], up="distance", title=layer)
            place.set_ylim(bottom=0)
        _lines(panel[-1], one.amounts, one.probability, (0, 1))
        drawing.plain(panel[-1], across=UNITS[one.name], up="probability", title="its class")
        panel[-1].set_ylim(0, 1)
    return figure


def _lines(axes: Axes, amounts: list[float], values: np.ndarray, within: tuple[float, float] = (0, math.inf)) -> None:
    if 1 < len(values) <= OWN_LINES:
        for own in values:
            axes.plot(amounts, own, color=drawing.PALE, linewidth=0.6)
    means = [estimate(column, within) for column in values.T]
    drawing.line(axes, 0, amounts, [m.mean for m in means], "mean", [m.low for m in means], [m.high for m in means])
