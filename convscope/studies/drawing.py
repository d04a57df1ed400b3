"""What the figures of studies have in common."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from convscope.images.charting import use_fonts_for
from convscope.images.frame import to_image

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SIDE = 2.0  # inches of a panel
INK, PALE = "#222222", "#9a9a9a"
# Told apart by the colour-blind too (Okabe and Ito), and by their dashes.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#7a3fa0", "#000000")
DASHES = ("-", "--", "-.", ":")


def panels(
    rows: int, columns: int, *, width: float = SIDE, height: float = SIDE, names: str = ""
) -> tuple[Figure, Any]:
    """A figure of panels "rows columns". ``names``: text whose characters it has to have."""
    from matplotlib.figure import Figure

    use_fonts_for(names)
    figure = Figure(figsize=(columns * width + 0.3, rows * height + 0.3), layout="constrained")
    return figure, figure.subplots(rows, columns, squeeze=False)


def mosaic(columns: Sequence[int], *, heights: Sequence[float], names: str = "") -> tuple[Figure, list[Any]]:
    """A figure of rows of panels, of which each row has its own number and height in inches."""
    from matplotlib.figure import Figure

    use_fonts_for(names)
    width = max(max(columns) * SIDE, min(columns) * 3.2) + 0.3
    figure = Figure(figsize=(width, sum(heights) + 0.3), layout="constrained")
    rows = figure.subfigures(len(columns), 1, height_ratios=heights, squeeze=False)[:, 0]
    return figure, [row.subplots(1, count, squeeze=False)[0] for row, count in zip(rows, columns, strict=True)]


def picture(axes: Axes, shown: Any, title: str = "", **how: Any) -> Any:
    """A picture or map in a panel, without ticks; pixels "c h w" in [0, 1] may be a tensor."""
    if isinstance(shown, Tensor) and shown.ndim == 3:
        shown = np.asarray(to_image(shown))
    drawn = axes.imshow(shown, **how)
    axes.set_xticks([])
    axes.set_yticks([])
    heading(axes, title)
    return drawn


def nothing(axes: Axes, size: Sequence[int], title: str = "") -> None:
    """What stands for a map "h w" that is the same everywhere."""
    axes.set_box_aspect(size[0] / size[1])
    axes.set_facecolor("#f0f0f0")
    axes.text(0.5, 0.5, "the same\neverywhere", fontsize=7, ha="center", va="center", transform=axes.transAxes)
    axes.set_xticks([])
    axes.set_yticks([])
    heading(axes, title)


def heading(axes: Axes, text: str) -> None:
    if text:
        axes.set_title(text, fontsize=8, color=INK)


def plain(axes: Axes, *, across: str, up: str, title: str = "") -> None:
    """A chart's axes: named, quiet, with its lower and left line alone."""
    axes.set_xlabel(across, fontsize=8, color=INK)
    axes.set_ylabel(up, fontsize=8, color=INK)
    axes.tick_params(labelsize=7.5, color=PALE, labelcolor=INK)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(PALE)
    heading(axes, title)


def line(
    axes: Axes, number: int, across: Sequence[float], up: Any, label: str, low: Any = None, high: Any = None
) -> None:
    """A line in the colour of its number, with the band of its interval where there is one."""
    colour, dash = COLOURS[number % len(COLOURS)], DASHES[number // len(COLOURS) % len(DASHES)]
    axes.plot(across, up, color=colour, linestyle=dash, linewidth=1.4, label=label)
    if low is not None and high is not None and None not in list(low) and None not in list(high):
        axes.fill_between(
            across, np.asarray(low, float), np.asarray(high, float), color=colour, alpha=0.15, linewidth=0
        )


def shortened(name: str, most: int = 24) -> str:
    return name if len(name) <= most else name[: most - 1].rstrip() + "…"
