"""Pictures of a run: curves of loss and accuracy, and the confusion matrix. The same input gives the same bytes.

Drawn with matplotlib's own defaults, whatever a user's matplotlibrc says, and without its global state of figures.
Names are drawn in whichever of the machine's fonts have their characters, as ``lettering`` finds them.
"""

from __future__ import annotations

import math
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from convscope.errors import UsageError
from convscope.images import lettering
from convscope.images.charting import defaults, use_fonts_for

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Row: TypeAlias = Mapping[str, float | int | None]  # a line of metrics.jsonl

COUNTED = 20  # classes up to which counts are written into the cells
LABELLED = 100  # classes up to which each has its label
POOLED = 1000  # cells a side beyond which several become one, as pixels would drop some
MARKED = 30  # epochs up to which each has its marker
LABEL = 130  # a class's label is at most so many points long
MARGIN = 1.02  # of a text's measured width, as matplotlib rounds in another way
DOTS = 150  # per inch
INK, PALE, LINE = "#222222", "#9a9a9a", "#bbbbbb"
SERIES = (("train", "#0072B2", "o"), ("val", "#D55E00", "s"))  # told apart by the colour-blind too (Okabe and Ito)
ABSENT = "#e6e6e6"


def curves(rows: Sequence[Row], folder: Path, *, best: int | None, title: str) -> list[Path]:
    """Write ``curves.svg`` and ``curves.png``: see ``draw_curves``."""
    return _write(draw_curves(rows, best=best, title=title), folder, "curves")


def confusion(counts: Any, classes: Sequence[str], folder: Path, title: str) -> list[Path]:
    """Write ``confusion.svg`` and ``confusion.png``: see ``draw_confusion``."""
    return _write(draw_confusion(counts, classes, title), folder, "confusion")


@defaults()
def draw_curves(rows: Sequence[Row], *, best: int | None, title: str) -> Figure:
    """Loss and accuracy against epochs, train and val, with the ``best`` epoch and, if it is stepwise, changes of lr.

    ``rows``: epoch, train_loss, train_accuracy, val_loss, val_accuracy, lr; what is None is not drawn.
    """
    from matplotlib.figure import Figure

    if not rows:
        raise UsageError("there are no epochs to draw: metrics.jsonl is empty")
    figure = Figure(figsize=(9, 4.2), dpi=DOTS)
    use_fonts_for(title)
    panels = figure.subplots(1, 2)
    figure.subplots_adjust(left=0.075, right=0.985, bottom=0.22, top=0.86, wspace=0.2)
    for axes, figure_name in zip(panels, ("loss", "accuracy"), strict=True):
        _panel(axes, rows, figure_name)
        _mark(axes, rows, best)
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="lower center", ncols=4, frameon=False, fontsize=9)
    _title(figure, title)
    return figure


def _panel(axes: Axes, rows: Sequence[Row], name: str) -> None:
    epochs = [_number(row, "epoch") for row in rows]
    drawn: list[float] = []
    for split, colour, marker in SERIES:
        values = [_number(row, f"{split}_{name}") for row in rows]
        if not any(map(math.isfinite, values)):
            continue
        drawn += [value for value in values if math.isfinite(value)]
        axes.plot(  # NaN leaves a gap
            epochs,
            values,
            color=colour,
            marker=marker if len(rows) <= MARKED else "",
            markersize=4.5,
            linewidth=1.6,
            clip_on=False,  # a marker on the border is seen whole
            zorder=3,
            label=split,
        )
    _style(axes, name, drawn)
    _epochs(axes, epochs)


def _style(axes: Axes, name: str, values: list[float]) -> None:
    """Scale, ticks and names of an axis of loss or accuracy."""
    axes.set_xlabel("epoch", fontsize=9, color=INK)
    axes.set_ylabel(name, fontsize=9, color=INK)
    axes.tick_params(labelsize=8.5, color=LINE, labelcolor=INK)
    axes.grid(axis="y", color="#eeeeee", linewidth=0.8)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(LINE)
    if not values:
        axes.set_yticks([])
        axes.text(0.5, 0.5, "not measured", transform=axes.transAxes, ha="center", va="center", color=PALE, fontsize=9)
    elif name == "accuracy":
        low, high = min(values), max(values)
        middle, half = (low + high) / 2, max(0.54 * (high - low), 0.05)  # never so close that noise looks like a rise
        axes.set_ylim(max(0, min(middle - half, 0.9)), min(1, max(middle + half, 0.1)))
        axes.yaxis.set_major_formatter(_percent)
    elif min(values) > 0 and max(values) > 100 * min(values):
        axes.set_yscale("log")
        axes.set_ylabel("loss (logarithmic)", fontsize=9, color=INK)
    else:
        axes.set_ylim(0, 1.08 * max(*values, 1e-3, 0))


def _percent(share: float, _: object = None) -> str:
    return f"{round(100 * share, 2):g} %"


def _epochs(axes: Axes, epochs: list[float]) -> None:
    from matplotlib.ticker import MaxNLocator

    first, last = min(epochs), max(epochs)
    room = max(0.5, 0.02 * (last - first)) if last - first < 10 else 0.02 * (last - first)
    axes.set_xlim(first - room, last + room)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=9, integer=True, min_n_ticks=1))


def _mark(axes: Axes, rows: Sequence[Row], best: int | None) -> None:
    """The best epoch as a line, and the epochs from which another learning rate held as ticks on the axis."""
    if best is not None:
        axes.axvline(best, color=INK, linewidth=1, linestyle=(0, (2, 2)), zorder=1, label=f"best epoch: {best}")
    if steps := learning_rate_steps(rows):
        axes.plot(
            steps,
            [0.012] * len(steps),
            transform=axes.get_xaxis_transform(),
            linestyle="",
            marker="|",
            markersize=8,
            markeredgewidth=1.6,
            color="#7a3fa0",
            clip_on=False,
            zorder=4,
            label="learning rate changed",
        )


def learning_rate_steps(rows: Sequence[Row]) -> list[float]:
    """The epochs at which the learning rate differs from the one before, if it mostly stays; else it is no steps."""
    rates = [(_number(row, "epoch"), _number(row, "lr")) for row in rows]
    rates = [(epoch, rate) for epoch, rate in rates if math.isfinite(rate)]
    steps = [epoch for (_, before), (epoch, rate) in pairwise(rates) if rate != before]
    return steps if 2 * len(steps) <= len(rates) - 1 else []


def _number(row: Row, name: str) -> float:
    value = row.get(name)
    return float("nan") if value is None else float(value)


@defaults()
def draw_confusion(counts: Any, classes: Sequence[str], title: str) -> Figure:
    """Counts "k k" (rows true, columns predicted), coloured by their share of the row; a row without photos is grey."""
    from matplotlib.figure import Figure

    table = np.asarray(counts, dtype=np.int64)
    if table.ndim != 2 or table.shape != (len(classes), len(classes)) or not len(classes):
        shape = " x ".join(map(str, table.shape))
        raise UsageError(f"a confusion matrix has a row and a column for each of {len(classes)} classes, got {shape}")
    labels = _labels(classes) if len(classes) <= LABELLED else []
    use_fonts_for(title + "".join(labels))
    place = _Place(len(classes), labels)
    figure = Figure(figsize=(place.width, place.height), dpi=DOTS)
    axes = figure.add_axes(place.axes)
    shares, factor = _pooled(_shares(table))
    drawn = axes.imshow(
        np.ma.masked_invalid(shares),
        cmap=_colours(),
        norm=_norm(factor * len(shares)),
        interpolation="none",
        extent=(-0.5, len(shares) * factor - 0.5, len(shares) * factor - 0.5, -0.5),
    )
    axes.set_xlim(-0.5, len(table) - 0.5)
    axes.set_ylim(len(table) - 0.5, -0.5)
    _label(axes, labels, place)
    if len(classes) <= COUNTED:
        _count(axes, table, drawn.to_rgba(np.ma.masked_invalid(shares)), place.cell)
    _colour_bar(figure, drawn, place, absent=bool((table.sum(1) == 0).any()))
    _title(figure, title)
    return figure


def _labels(classes: Sequence[str]) -> list[str]:
    """Names as they can be drawn; those that are alike when they are shortened have their numbers before them."""
    size = 9 if len(classes) <= COUNTED else 7
    names = [lettering.class_label(name, i) for i, name in enumerate(classes)]
    labels = [short_label(name, LABEL, size) for name in names]
    times = Counter(labels)
    return [
        short_label(f"{i}: {name}", LABEL, size) if name and times[label] > 1 else label
        for i, (name, label) in enumerate(zip(names, labels, strict=True))
    ]


class _Place:
    """Where the parts of a confusion matrix lie, in inches, so that every label has its room."""

    def __init__(self, count: int, labels: Sequence[str]) -> None:
        self.font = 9 if count <= COUNTED else 7
        if labels:
            self.cell = min(1.2, max(0.5, 3 / count)) if count <= COUNTED else max(0.135, 7 / count)
        else:
            self.cell = 8 / count
        self.side = self.cell * count
        longest = max((_width(label, self.font) for label in labels), default=30) / 72
        self.turn = 0 if longest < 0.9 * self.cell or not labels else 45 if count <= COUNTED else 90
        line = 1.4 * self.font / 72
        slanted = math.sin(math.radians(45)) * (longest + line)  # as far to the left as down
        self.left = max(longest, slanted - self.cell / 2 if self.turn == 45 else 0) + 0.55
        self.bottom = {0: line, 45: slanted, 90: longest}[self.turn] + 0.55
        self.right, self.top = 1.15, 0.75
        self.width = self.left + self.side + self.right
        self.height = self.bottom + self.side + self.top

    @property
    def axes(self) -> tuple[float, float, float, float]:
        return self.share(self.left, self.bottom, self.side, self.side)

    def share(self, left: float, bottom: float, width: float, height: float) -> tuple[float, float, float, float]:
        """A box in inches as shares of the figure."""
        return left / self.width, bottom / self.height, width / self.width, height / self.height


def _shares(table: np.ndarray) -> np.ndarray:
    """Each row as shares of its sum; NaN where it has no photo."""
    sums = table.sum(1, keepdims=True)
    return np.divide(table, sums, out=np.full(table.shape, np.nan), where=sums > 0)


def _pooled(shares: np.ndarray) -> tuple[np.ndarray, int]:
    """At most ``POOLED`` cells a side, each the largest of those it stands for, and how many of a side that is."""
    factor = -(-len(shares) // POOLED)
    if factor == 1:
        return shares, 1
    side = -(-len(shares) // factor)
    padded = np.full((side * factor, side * factor), -np.inf)
    padded[: len(shares), : len(shares)] = np.where(np.isnan(shares), -np.inf, shares)
    largest = padded.reshape(side, factor, side, factor).max((1, 3))
    return np.where(np.isneginf(largest), np.nan, largest), factor


def _colours() -> Any:
    import matplotlib

    return matplotlib.colormaps["Blues"].with_extremes(bad=ABSENT)


def _norm(count: int) -> Any:
    """Shares as they are; of many classes the small ones are lifted, as a lone pixel of pale blue is not seen."""
    from matplotlib.colors import PowerNorm

    return PowerNorm(1 if count <= COUNTED else 0.5, 0, 1)


def _label(axes: Axes, labels: Sequence[str], place: _Place) -> None:
    axes.tick_params(length=0 if labels else 3, color=LINE, labelsize=place.font, labelcolor=INK)
    axes.spines[:].set_color(LINE)
    kind = "class" if labels else "class, by number"
    figure, middle = axes.figure, place.left + place.side / 2
    style: Any = {"fontsize": 9, "color": INK}
    figure.text(middle / place.width, 0.2 / place.height, f"predicted {kind}", ha="center", va="center", **style)
    beside = (place.bottom + place.side / 2) / place.height
    figure.text(0.2 / place.width, beside, f"true {kind}", ha="center", va="center", rotation=90, **style)
    if not labels:
        return
    ticks = range(len(labels))
    turned: Any = {"rotation": place.turn, "rotation_mode": "anchor"}
    align = {0: ("center", "top"), 45: ("right", "top"), 90: ("right", "center")}[place.turn]
    axes.set_xticks(ticks, labels, ha=align[0], va=align[1], parse_math=False, **turned)
    axes.set_yticks(ticks, labels, parse_math=False)


def _count(axes: Axes, table: np.ndarray, colours: np.ndarray, cell: float) -> None:
    """The counts, each in its cell of ``colours`` "k k 4"."""
    digits = len(str(table.max()))
    size = min(10.0, 0.85 * 72 * cell / (0.64 * digits))
    for (row, col), count in np.ndenumerate(table):
        ink = PALE if count == 0 else _ink(colours[row, col, :3])
        axes.text(col, row, f"{count}", ha="center", va="center", fontsize=size, color=ink)


def _ink(paper: np.ndarray) -> str:
    """Black or white, whichever stands out more: by 4.5 to 1 at least, by the relative luminance of WCAG 2."""
    linear = np.where(paper <= 0.04045, paper / 12.92, ((paper + 0.055) / 1.055) ** 2.4)
    return "black" if linear @ [0.2126, 0.7152, 0.0722] > 0.179 else "white"


def _colour_bar(figure: Figure, drawn: Any, place: _Place, *, absent: bool) -> None:
    tall = min(place.side, 3.0)
    box = place.share(place.left + place.side + 0.15, place.bottom + place.side - tall, 0.14, tall)
    bar = figure.colorbar(drawn, cax=figure.add_axes(box), ticks=[0, 0.25, 0.5, 0.75, 1])
    bar.ax.yaxis.set_major_formatter(_percent)
    bar.ax.tick_params(labelsize=8, color=LINE, labelcolor=INK)
    bar.outline.set_edgecolor(LINE)
    note = "of the class's photos" + (" (grey: it has none)" if absent else "")
    top = (place.bottom + place.side + 0.1) / place.height
    figure.text(1 - 0.1 / place.width, top, note, ha="right", va="bottom", fontsize=8, color=INK)


def short_label(name: str, width: float, size: int) -> str:
    """A name on one line of at most ``width`` points: where it is longer, its middle is left out."""
    name = lettering.spelled(name)
    return lettering.shorten(name, _face(size, name), width / MARGIN)


def _width(text: str, size: int) -> float:
    """In points."""
    return MARGIN * _face(size, text).getlength(text)


def _face(size: int, text: str) -> lettering.Face:
    """What matplotlib draws with: its own font for ASCII too."""
    return lettering.font(size, text + "…")


def _title(figure: Figure, title: str) -> None:
    """The title on one line, or two; the rest of a longer one is cut off visibly."""
    width, height = figure.get_size_inches()
    title = lettering.spelled(title)
    lines = lettering.wrap(title, _face(11, title), int(72 * (width - 0.3) / MARGIN), 2)
    text = "\n".join(lines)
    figure.text(
        0.5, 1 - 0.1 / height, text, ha="center", va="top", fontsize=11, color=INK, linespacing=1.1, parse_math=False
    )


@defaults()
def _write(figure: Figure, folder: Path, name: str) -> list[Path]:
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for kind, metadata in (("svg", {"Date": None, "Creator": "convscope"}), ("png", {"Software": "convscope"})):
        path = folder / f"{name}.{kind}"
        part = folder / f".{path.name}.part"
        figure.savefig(part, format=kind, metadata=metadata)
        os.replace(part, path)  # who looks meanwhile sees the whole of one or the other
        written.append(path)
    return written
