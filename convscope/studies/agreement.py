"""Agreement: do methods point at the same places?"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations
from typing import TYPE_CHECKING, Any

import numpy as np
import torch.nn.functional as F
from torch import Tensor

from convscope.errors import UsageError
from convscope.settings import Words, setting
from convscope.studies import drawing
from convscope.studies.compared import METHODS_HELP, USUAL, all_maps, methods_meant
from convscope.studies.interval import Estimate, estimate
from convscope.studies.likeness import rank_correlation, standard_ranks, stretched
from convscope.studies.registry import register
from convscope.studies.result import Cell, Figure, Result, Table, result
from convscope.studies.subject import Album

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Drawn

COLUMNS = 6  # pictures in a row
BRIGHT = 0.6  # correlations from here on are drawn dark: their numbers are white


@dataclass(frozen=True, eq=False)
class Pair:
    """Two methods on every photo: "photos" each; NaN where one map is the same everywhere."""

    one: str
    other: str
    ranks: np.ndarray
    overlaps: np.ndarray

    @cached_property
    def rank(self) -> Estimate:
        return estimate(self.ranks, (-1, 1))

    @cached_property
    def overlap(self) -> Estimate:
        return estimate(self.overlaps, (0, 1))


@register("agreement", of="photos", paper="Krishna et al. 2022, section 3 (arXiv 2202.01602)")
class Agreement:
    """Agreement: how alike the maps of different methods are on the same photos (Krishna et al. 2022, section 3).

    Every method explains the same class of the same photo. Of each pair, two figures a photo: Spearman's rank
    correlation of the maps, and what the strongest parts of both have in common, as intersection over union (the paper
    divides by the size of one part).
    Pixel attributions count by the sum of their magnitudes over the channels, maps as the method gives them.

    Maps of a late layer are smooth and those of pixels are speckled, so that pixel by pixel even two methods that look
    at the same thing have little in common. Maps are therefore averaged over the cells of a ``grid`` first. The
    strongest part is every cell that comes up to the ``top`` share's last, equal ones with it, but none that is as low
    as the map's least. A map that is the same everywhere ranks nothing, and its photo is not counted.
    """

    methods: Words = setting(default=USUAL, help=METHODS_HELP)
    grid: int | None = setting(
        default=14, help="cells along the shorter side, over which maps are averaged; none: pixels"
    )
    top: float = setting(default=0.1, help="share of the cells that are a map's strongest part")

    def __post_init__(self) -> None:
        if len(methods_meant(self.methods)[0]) < 2:
            raise UsageError("agreement compares methods: name at least two")
        if self.grid is not None and self.grid < 2:
            raise UsageError(f"agreement: grid must be at least 2, got {self.grid}")
        if not 0 < self.top < 1:
            raise UsageError(f"agreement: top is a share between 0 and 1, got {self.top}")

    def run(self, album: Album, seed: int = 0) -> Result:
        methods, notes = methods_meant(self.methods)
        maps, left_out = all_maps(methods, album.classifier, album.images, album.target)
        if len(maps) < 2:
            raise UsageError(f"agreement compares methods, and there is one alone: {'; '.join(left_out)}")
        cells = {name: _cells(found, self.grid) for name, found in maps.items()}
        pairs = _pairs(cells, self.top)
        order = alike_first(list(maps), pairs)
        matrix = {measure: _matrix(order, pairs, measure) for measure in ("rank", "overlap")}
        share = f"{self.top:.0%}"
        figures = [
            Figure("matrix", _matrix_caption(self.top), lambda: _drawn(order, matrix, share)),
            Figure("maps", _maps_caption(album), lambda: _pictures(album, order, maps)),
        ]
        tables = [_square(order, matrix["rank"]), _every_pair(pairs), _every_photo(album, pairs)]
        remarks = [
            *notes,
            *left_out,
            *_flat(cells),
            "to agree is not to be right: methods that share a fault agree in it",
        ]
        title = f"Do methods point at the same places? {album.classifier.name}"
        return result(
            self, title, seed, album, tables, figures, _findings(order, pairs, matrix["rank"], share), remarks
        )


def _cells(maps: Tensor, grid: int | None) -> np.ndarray:
    """Maps "b h w" as the means of about square cells, "b rows columns"."""
    height, width = maps.shape[1:]
    maps = maps.detach().cpu().double()
    if grid is not None and grid < min(height, width):
        side = min(height, width) / grid
        maps = F.adaptive_avg_pool2d(maps[:, None], (round(height / side), round(width / side)))[:, 0]
    found: np.ndarray = maps.numpy()
    return found


def _pairs(cells: dict[str, np.ndarray], top: float) -> list[Pair]:
    ranks = {name: [standard_ranks(map) for map in found] for name, found in cells.items()}
    strongest = {name: [strongest_part(map, top) for map in found] for name, found in cells.items()}
    return [
        Pair(
            one,
            other,
            np.array([rank_correlation(a, b) for a, b in zip(ranks[one], ranks[other], strict=True)]),
            np.array([_overlap(a, b) for a, b in zip(strongest[one], strongest[other], strict=True)]),
        )
        for one, other in combinations(cells, 2)
    ]


def strongest_part(map: np.ndarray, top: float) -> np.ndarray | None:
    """Where a map is among its strongest; None of one that is the same everywhere or not finite."""
    if not np.isfinite(map).all() or map.min() == map.max():
        return None
    count = max(1, round(top * map.size))
    last = np.partition(map, map.size - count, axis=None)[map.size - count]
    part: np.ndarray = (map >= last) & (map > map.min())
    return part


def _overlap(one: np.ndarray | None, other: np.ndarray | None) -> float:
    return math.nan if one is None or other is None else float((one & other).sum() / (one | other).sum())


def alike_first(names: list[str], pairs: list[Pair]) -> list[str]:
    """Methods in an order in which those alike stand together: by the angle of their two principal components
    (Friendly 2002, "Corrgrams")."""
    matrix = np.nan_to_num(_matrix(names, pairs, "rank"), nan=0.0)
    vectors = np.linalg.eigh(matrix)[1][:, ::-1][:, :2]  # the largest two
    vectors = vectors * np.where(vectors.sum(0) < 0, -1, 1)  # a decomposition leaves the sign open
    angles = np.arctan2(vectors[:, 1], vectors[:, 0])
    start = np.sort(angles)
    gaps = np.diff(np.append(start, start[0] + 2 * np.pi))
    first = start[(int(gaps.argmax()) + 1) % len(start)]  # the circle is opened where it is widest
    return [names[i] for i in np.argsort((angles - first) % (2 * np.pi), kind="stable")]


def _matrix(names: list[str], pairs: list[Pair], measure: str) -> np.ndarray:
    """The mean over the photos, "methods methods"; NaN where no photo counts."""
    found = np.eye(len(names))
    for pair in pairs:
        i, j = names.index(pair.one), names.index(pair.other)
        found[i, j] = found[j, i] = getattr(pair, measure).mean
    return found


def _square(names: list[str], matrix: np.ndarray) -> Table:
    columns = {
        "method": "one of the two",
        **dict.fromkeys(names, "mean rank correlation with it over the photos, -1 to 1"),
        "others": "mean over all others",
    }
    rows: list[tuple[Cell, ...]] = [
        (name, *map(float, matrix[i]), _with_others(matrix, i)) for i, name in enumerate(names)
    ]
    return Table("agreement", "Rank correlation of the methods' maps", columns, rows)


def _with_others(matrix: np.ndarray, row: int) -> float:
    values = np.delete(matrix[row], row)
    values = values[np.isfinite(values)]
    return float(values.mean()) if len(values) else math.nan


def _every_pair(pairs: list[Pair]) -> Table:
    columns = {
        "method": "one of the two",
        "other": "the other",
        "rank": "rank correlation of their maps, mean over the photos, -1 to 1",
        "rank low": "lower end of its 95 % interval",
        "rank high": "upper end",
        "overlap": "share that their strongest parts have in common (intersection over union), 0 to 1",
        "overlap low": "lower end of its 95 % interval",
        "overlap high": "upper end",
        "photos": "photos counted",
    }
    rows: list[tuple[Cell, ...]] = [
        (p.one, p.other, p.rank.mean, p.rank.low, p.rank.high, *p.overlap[:3], p.rank.photos) for p in _ordered(pairs)
    ]
    return Table("pairs", "Every pair, the most alike first", columns, rows)


def _ordered(pairs: list[Pair]) -> list[Pair]:
    return sorted(pairs, key=lambda pair: -pair.rank.mean if pair.rank.photos else math.inf)


def _every_photo(album: Album, pairs: list[Pair]) -> Table:
    columns = {
        "photo": "the photo's name",
        "method": "one of the two",
        "other": "the other",
        "rank": "rank correlation of their maps",
        "overlap": "share that their strongest parts have in common",
    }
    rows = [
        (name, pair.one, pair.other, float(pair.ranks[i]), float(pair.overlaps[i]))
        for i, name in enumerate(album.names)
        for pair in pairs
    ]
    return Table("photos", "Every pair on every photo", columns, rows)


def _findings(names: list[str], pairs: list[Pair], matrix: np.ndarray, share: str) -> list[str]:
    counted = [pair for pair in _ordered(pairs) if pair.rank.photos]
    if not counted:
        return ["no two maps can be compared: all are the same everywhere"]

    def said(pair: Pair) -> str:
        return (
            f"{pair.one} and {pair.other}, rank correlation {pair.rank}, {pair.overlap.mean:.0%} of their strongest "
            f"{share} in common"
        )

    if len(counted) == 1:
        return [said(counted[0])]
    told = [f"most alike: {said(counted[0])}", f"least alike: {said(counted[-1])}"]
    means = {name: mean for i, name in enumerate(names) if math.isfinite(mean := _with_others(matrix, i))}
    if len(means) > 2:
        most, least = max(means, key=lambda name: means[name]), min(means, key=lambda name: means[name])
        told.append(
            f"{most} agrees most with all others, {means[most]:.3g} on average, and {least} least, {means[least]:.3g}"
        )
    return told


def _flat(cells: dict[str, np.ndarray]) -> list[str]:
    told = []
    for name, found in cells.items():
        count = sum(standard_ranks(map) is None for map in found)
        if count:
            told.append(f"{name}: {count} of {len(found)} maps are the same everywhere or not finite, and not counted")
    return told


def _matrix_caption(top: float) -> str:
    return (
        "Left: Spearman's rank correlation of each two methods' maps of a photo for its class, mean over the photos; "
        f"1 is the same order of places, 0 none in common. Right: what the strongest {top:.0%} of both have in common, "
        f"as intersection over union; {top / (2 - top):.2f} is chance. Methods that are alike stand together."
    )


def _maps_caption(album: Album) -> str:
    label = album.classes.short(album.labels[0])
    return f"What each method makes of {album.names[0]} for {label}, at full resolution; brighter is stronger."


def _drawn(names: list[str], matrix: dict[str, np.ndarray], share: str) -> Drawn:
    side = max(2.6, 0.46 * len(names) + 1.5)
    figure, axes = drawing.panels(1, 2, width=side, height=side)
    _heat(axes[0, 0], names, matrix["rank"], "rank correlation", cmap="RdBu_r", vmin=-1, vmax=1)
    _heat(axes[0, 1], [""] * len(names), matrix["overlap"], f"strongest {share} in common", cmap="Reds", vmin=0, vmax=1)
    axes[0, 1].set_xticks(range(len(names)), names, rotation=60, ha="right", fontsize=7)
    return figure


def _heat(axes: Any, names: list[str], values: np.ndarray, title: str, **how: Any) -> None:
    drawing.picture(axes, values, title, **how)
    axes.set_xticks(range(len(names)), names, rotation=60, ha="right", fontsize=7)
    axes.set_yticks(range(len(names)), names, fontsize=7)
    axes.tick_params(length=0)
    for (row, col), value in np.ndenumerate(values):
        if math.isfinite(value):
            ink = "white" if abs(value) > BRIGHT else drawing.INK
            axes.text(
                col, row, f"{value:.2f}".replace("-0.00", "0.00"), ha="center", va="center", fontsize=6, color=ink
            )


def _pictures(album: Album, names: list[str], maps: dict[str, Tensor]) -> Drawn:
    count = len(names) + 1
    columns = min(count, COLUMNS)
    figure, axes = drawing.panels(-(-count // columns), columns, width=1.6, height=1.8, names=album.names[0])
    for at, panel in enumerate(axes.flat):
        if at == 0:
            drawing.picture(panel, album.images[0], drawing.shortened(album.names[0], 20))
        elif at <= len(names):
            shown = stretched(maps[names[at - 1]][0].cpu().double().numpy())
            if shown is None:
                drawing.nothing(panel, album.images.shape[-2:], names[at - 1])
            else:
                drawing.picture(panel, shown, names[at - 1], cmap="inferno", vmin=0, vmax=1)
        else:
            panel.axis("off")
    return figure
