"""Occlusion maps: what a network's answer, and its strongest feature map, depend on."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from convscope.atlas.projections import beginning
from convscope.errors import UsageError
from convscope.images import colour
from convscope.instrument.address import Address
from convscope.instrument.fill import FILL_HELP, FILLS, fill_like
from convscope.instrument.layers import resolve_one
from convscope.instrument.perturb import BUDGET_HELP, BUDGET_MIB, Watched
from convscope.instrument.regions import patched_readings
from convscope.instrument.target import Target, first_argmax
from convscope.instrument.trace import trace
from convscope.methods import METHODS
from convscope.methods import configure as method_named
from convscope.methods.display import energy_box
from convscope.methods.occlusion import Occlusion, Window
from convscope.models.classifier import probabilities
from convscope.progress import track
from convscope.settings import setting
from convscope.studies import drawing
from convscope.studies.likeness import rank_correlation, standard_ranks
from convscope.studies.looks import outputs_of
from convscope.studies.registry import register
from convscope.studies.result import Figure, Result, Table, result
from convscope.studies.subject import Album

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Drawn

SHOWN = 8  # photos in the figure
WORTH = 0.005  # of a probability, to be worth a word
LEAST = 0.05  # what a scale of probabilities spans at least
NAMED = 5  # classes that have a colour of their own


@dataclass(frozen=True, eq=False)
class _Seen:
    """What came of one photo. Maps are "rows columns" of the square's places."""

    windows: list[Window]
    unit: int
    clean: float
    activation: np.ndarray
    sure: float
    probability: np.ndarray
    best: np.ndarray
    projection: Tensor
    elsewhere: int | None  # the other photo in which the unit is strongest
    projected: Tensor | None


@register("occlusion", of="photos", paper="Zeiler & Fergus 2013, section 4.2 and figure 7")
class OcclusionMaps:
    """Occlusion maps: a grey square slides over the photo (Zeiler & Fergus 2013, section 4.2, figure 7).

    For every place of the square three things are measured: the sum over the feature map of ``layer`` that was
    strongest on the whole photo (strongest by that sum; the paper does not say by what), the probability of the true
    class, and which class is the most probable. Beside them stands that map's projection down to the pixels, on this
    photo and on that of the others in which the map is strongest.

    Squares cover the whole photo, the last ones flush with its border. The paper states neither size nor stride nor
    the grey: they are settings. A value belongs to a place of the square; nothing is averaged over pixels.
    """

    size: int | None = setting(default=None, help="side of the square in pixels; none: a seventh of the shorter side")
    stride: int | None = setting(default=None, help="step of the square in pixels; none: a quarter of its size")
    fill: str = setting(default="grey", help=FILL_HELP, choices=FILLS)
    layer: str = setting(default="@last_conv", help="the layer whose strongest map is followed; the paper's is layer 5")
    project: str | None = setting(
        default=None,
        help="method that projects the map to the pixels; none: deconvnet where the network has several max pools, "
        "whose switches give it its detail, else guided",
    )
    budget: float = setting(default=BUDGET_MIB, help=BUDGET_HELP)

    def run(self, album: Album, seed: int = 0) -> Result:
        own = Occlusion(self.size, self.stride, self.fill)
        windows, side, stride = own.windows(*album.images.shape[-2:])
        pixels = [name for name, method in METHODS.items() if method.traits.kind == "pixels"]
        if self.project is not None and self.project not in pixels:
            raise UsageError(f"project is {self.project!r}, not one of {', '.join(pixels)}")
        layer = resolve_one(album.classifier.network, self.layer, album.images, through=album.classifier)
        settled = replace(self, size=side, stride=stride, layer=layer.key, project=self.project or _projector(album))
        sums = self._sums(album, layer)
        photos = track(range(len(album)), "photos")
        seen = [settled._photo(album, row, layer, sums, windows, side) for row in photos]
        figure = Figure("occlusion", _caption(settled), lambda: _drawn(album, seen, side, layer))
        tables = [_summary(album, seen, windows), _every(album, seen, windows)]
        title = f"What {album.classifier.name} needs to see"
        return result(settled, title, seed, album, tables, [figure], _findings(album, seen, layer), [])

    def _sums(self, album: Album, layer: Address) -> Tensor:
        """Each unit's sum over its map, "b units"."""
        maps, _ = outputs_of(album.classifier, album.images, [layer], _summed)
        return maps[layer.key]

    def _photo(self, album: Album, row: int, layer: Address, sums: Tensor, windows: list[Window], side: int) -> _Seen:
        classifier, image, label = album.classifier, album.images[row : row + 1], album.labels[row]
        unit = int(first_argmax(sums[row][None]))
        filled = fill_like(image, self.fill)

        def patches(rows: slice) -> Tensor:
            return torch.stack([filled[0, :, r : r + side, c : c + side] for r, c in windows[rows]])

        wanted = [
            Watched(Target(layer, (unit,)), lambda maps, _: _summed(maps)[:, unit]),
            Watched(Target(index=(label,)), lambda logits, _: probabilities(logits)),
        ]
        activation, shares = patched_readings(
            classifier, image, wanted, windows, patches, budget=self.budget, label="occluded"
        )
        shape = (len({r for r, _ in windows}), len({c for _, c in windows}))
        method = method_named(str(self.project))
        others = [i for i in range(len(album)) if i != row]
        elsewhere = max(others, key=lambda i: float(sums[i, unit])) if others else None
        on = [row, *([] if elsewhere is None else [elsewhere])]
        seed, _ = beginning(classifier, layer, image)
        raw = method.run(classifier, album.images[on], Target(seed, (unit,)).repeat(len(on))).raw.cpu()
        return _Seen(
            windows,
            unit,
            float(sums[row, unit]),
            _numbers(activation, shape),
            float(album.probabilities[row, label]),
            _numbers(shares[:, label], shape),
            shares.argmax(1).cpu().numpy().reshape(shape),
            raw[0],
            elsewhere,
            raw[1] if elsewhere is not None else None,
        )


def _projector(album: Album) -> str:
    taken = trace(album.classifier.network, album.images, through=album.classifier)
    return "deconvnet" if sum(op.name == "max_pool2d_with_indices" for op in taken.ops) > 1 else "guided"


def _summed(maps: Tensor) -> Tensor:
    return maps.flatten(2).sum(2) if maps.ndim > 2 else maps


def _numbers(values: Tensor, shape: tuple[int, int]) -> np.ndarray:
    found: np.ndarray = values.double().cpu().numpy().reshape(shape)
    return found


def _summary(album: Album, seen: list[_Seen], windows: list[Window]) -> Table:
    columns = {
        "photo": "the photo's name",
        "class": "its class",
        "probability": "of the class, on the whole photo",
        "lowest": "probability with the square where it hurts most",
        "row": "first row of that square, on the network's canvas",
        "col": "its first column",
        "other class": "share of the squares with which another class is the most probable",
        "unit": "the map that is strongest on the whole photo",
        "activation": "the map's sum on the whole photo",
        "least": "the map's sum with the square where it loses most",
        "least row": "first row of that square",
        "least col": "its first column",
        "agreement": "rank correlation of the map's sum and the probability over all squares, -1 to 1",
    }
    rows = []
    for i, (name, one) in enumerate(zip(album.names, seen, strict=True)):
        worst, least = windows[int(one.probability.argmin())], windows[int(one.activation.argmin())]
        agree = rank_correlation(*(standard_ranks(values) for values in (one.activation, one.probability)))
        rows.append(
            (
                *(name, album.classes.short(album.labels[i]), one.sure, float(one.probability.min()), *worst),
                float((one.best != int(album.probabilities[i].argmax())).mean()),
                *(one.unit, one.clean, float(one.activation.min()), *least, agree),
            )
        )
    return Table("photos", "What the answer and the strongest map depend on", columns, rows)


def _every(album: Album, seen: list[_Seen], windows: list[Window]) -> Table:
    columns = {
        "photo": "the photo's name",
        "row": "the square's first row, on the network's canvas",
        "col": "its first column",
        "activation": "sum of the photo's strongest map",
        "probability": "of the true class",
        "best": "the most probable class",
    }
    rows = [
        (name, *window, float(activation), float(probability), album.classes.short(int(best)))
        for name, one in zip(album.names, seen, strict=True)
        for window, activation, probability, best in zip(
            windows, one.activation.flat, one.probability.flat, one.best.flat, strict=True
        )
    ]
    return Table("squares", "Every place of the square", columns, rows)


def _findings(album: Album, seen: list[_Seen], layer: Address) -> list[str]:
    told = []
    for i, (name, one) in enumerate(zip(album.names, seen, strict=True)):
        row, col = one.windows[int(one.probability.argmin())]
        label, least = album.classes.short(album.labels[i]), float(one.probability.min())
        falls = f"falls from {one.sure:.3f} to {least:.3f} with the square at row {row}, column {col} of the canvas"
        if one.sure - least < WORTH:
            falls = f"keeps its {one.sure:.3f} wherever the square is"
        told.append(f"{name}: {label} {falls}; {layer.key}:{one.unit} loses up to {_lost(one):.0%} of its sum")
    return told[:SHOWN]


def _lost(one: _Seen) -> float:
    return float((one.clean - one.activation.min()) / abs(one.clean)) if one.clean else 0.0


def _caption(study: OcclusionMaps) -> str:
    return (
        "From the left: the photo, and the square where it costs the true class most; the sum of the map of "
        f"{study.layer} that is strongest on the photo, for every place of the square's middle; that map's projection "
        f"({study.project}), framed where it has most of its energy; the same on the other photo in which the map is "
        "strongest; the probability of the true class; the most probable class. After Zeiler & Fergus 2013, figure 7."
    )


def _drawn(album: Album, seen: list[_Seen], side: int, layer: Address) -> Drawn:
    seen = seen[:SHOWN]
    others = any(one.projected is not None for one in seen)
    columns = 6 if others else 5
    names = " ".join([*album.names, *(album.classes[label] for label in album.labels)])
    figure, axes = drawing.panels(len(seen), columns, names=names, height=2.2)
    height, width = album.images.shape[-2:]
    for i, (one, panel) in enumerate(zip(seen, axes, strict=True)):
        at = iter(panel)
        label = drawing.shortened(album.classes.short(album.labels[i]))
        _photo(next(at), album, i, f"{drawing.shortened(album.names[i])}\n{label} {one.sure:.2f}", _square(one, side))
        middle = (side / 2 - 0.5, width - side / 2 - 0.5, height - side / 2 - 0.5, side / 2 - 0.5)
        over = {"extent": middle, "interpolation": "nearest"}
        drawn = _framed(next(at), height, width, one.activation, f"sum of {layer.key}:{one.unit}", **over)
        figure.colorbar(drawn, ax=panel[1], shrink=0.75).ax.tick_params(labelsize=6)
        _projection(next(at), album, i, one.projection, "projected")
        if others and one.projected is not None and one.elsewhere is not None:
            _projection(
                next(at),
                album,
                one.elsewhere,
                one.projected,
                f"and on {drawing.shortened(album.names[one.elsewhere], 16)}",
            )
        drawn = _framed(
            next(at), height, width, one.probability, f"probability of\n{label}", **_range(one.probability), **over
        )
        figure.colorbar(drawn, ax=panel[columns - 2], shrink=0.75).ax.tick_params(labelsize=6)
        _classes(next(at), album, one, over, height, width)
    return figure


def _range(shares: np.ndarray) -> dict[str, float]:
    """Its own scale, for differences to be seen, but none so small that it is nothing but noise."""
    low, high = float(shares.min()), float(shares.max())
    return {"vmin": max(0.0, min(low, high - LEAST)), "vmax": high}


def _square(one: _Seen, side: int) -> tuple[int, int, int]:
    """The square where it hurts most."""
    return (*one.windows[int(one.probability.argmin())], side)


def _photo(axes: Any, album: Album, row: int, title: str, square: tuple[int, int, int]) -> None:
    from matplotlib.patches import Rectangle

    drawing.picture(axes, album.images[row], title)
    top, left, side = square
    axes.add_patch(Rectangle((left - 0.5, top - 0.5), side, side, facecolor=(0.5, 0.5, 0.5), edgecolor="#ffd60a"))


def _framed(axes: Any, height: int, width: int, values: np.ndarray, title: str, **how: Any) -> Any:
    """A map of the square's places, as large as the photo, so that both can be compared."""
    drawn = drawing.picture(axes, values, title, cmap="viridis", **how)
    axes.set_xlim(-0.5, width - 0.5)
    axes.set_ylim(height - 0.5, -0.5)
    axes.set_facecolor("#e6e6e6")
    return drawn


def _projection(axes: Any, album: Album, row: int, raw: Tensor, title: str) -> None:
    from matplotlib.patches import Rectangle

    drawing.picture(axes, colour.pixels(raw), title)
    top, left, bottom, right = energy_box(raw)
    axes.add_patch(Rectangle((left - 0.5, top - 0.5), right - left, bottom - top, fill=False, edgecolor="#ffd60a"))


def _classes(axes: Any, album: Album, one: _Seen, over: dict[str, Any], height: int, width: int) -> None:
    from matplotlib.colors import ListedColormap
    from matplotlib.patches import Patch

    often = [index for index, _ in Counter(one.best.ravel().tolist()).most_common(NAMED)]
    numbers = np.full(one.best.shape, len(often))
    for number, index in enumerate(often):
        numbers[one.best == index] = number
    colours = [*drawing.COLOURS[: len(often)], "#cccccc"]
    scale = {"cmap": ListedColormap(colours), "vmin": -0.5, "vmax": len(colours) - 0.5}
    drawing.picture(axes, numbers, "most probable class", **scale, **over)
    axes.set_xlim(-0.5, width - 0.5)
    axes.set_ylim(height - 0.5, -0.5)
    axes.set_facecolor("#e6e6e6")
    names = [drawing.shortened(album.classes.short(index), 20) for index in often]
    rest = int((numbers == len(often)).sum())
    patches = [
        Patch(color=shade, label=name)
        for shade, name in zip(colours, [*names, "others"][: len(often) + (rest > 0)], strict=False)
    ]
    axes.legend(handles=patches, fontsize=5.5, loc="upper center", bbox_to_anchor=(0.5, -0.02), frameon=False, ncols=2)
