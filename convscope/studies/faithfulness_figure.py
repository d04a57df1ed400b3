"""The figures of faithfulness: every score with its interval, and the curves."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from convscope.studies import drawing
from convscope.studies.faithfulness_told import LOWER, NAMED, Measured
from convscope.studies.interval import Estimate

if TYPE_CHECKING:
    from matplotlib.figure import Figure

BANDS = 3  # lines, beyond which bands hide each other
STYLES = {"random": ":", "centre": "--", "edges": "-."}


def scores_figure(found: Measured) -> Figure:
    """A panel a score, a row a map: a dot and its interval, beside it the control."""
    from matplotlib.figure import Figure as Blank

    leading = NAMED if NAMED in found.values else next(iter(found.values))
    means = {i: found.mean(leading, i).mean for i in found.rows("method")}
    sign = 1 if leading in LOWER else -1
    order = sorted(means, key=lambda i: (np.isnan(means[i]), sign * means[i])) + found.rows("baseline")
    figure = Blank(figsize=(1.9 + 1.75 * len(found.values), 0.9 + 0.27 * len(order)), layout="constrained")
    axes = figure.subplots(1, len(found.values), squeeze=False, sharey=True)[0]
    for panel, score in zip(axes, found.values, strict=True):
        for place, i in enumerate(order):
            known = found.entries[i].kind == "method"
            _dot(panel, found.mean(score, i), place, drawing.COLOURS[0] if known else drawing.PALE)
            for j in found.rows("control") if known else []:
                if found.entries[j].name == found.entries[i].name:
                    mean = found.mean(score, j).mean
                    panel.plot(mean, place + 0.22, "o", ms=3.5, mfc="white", mec=drawing.COLOURS[1], mew=1)
        blind = [found.mean(score, i).mean for i in found.rows("baseline")]
        if np.isfinite(blind).any():
            best = np.nanmin(blind) if score in LOWER else np.nanmax(blind)
            panel.axvline(best, color=drawing.PALE, linestyle="--", linewidth=0.9, zorder=0)
        panel.axhline(len(means) - 0.5, color="#dddddd", linewidth=0.8, zorder=0)
        title = "insertion\nless deletion" if score == NAMED else score
        drawing.plain(panel, across="← better" if score in LOWER else "better →", up="", title=title)
        panel.margins(x=0.12)
    axes[0].set_yticks(range(len(order)), [str(found.entries[i]) for i in order])
    axes[0].set_ylim(len(order) - 0.4, -0.6)
    for i, label in zip(order, axes[0].get_yticklabels(), strict=True):
        label.set_color(drawing.INK if found.entries[i].kind == "method" else drawing.PALE)
    return figure


def _dot(panel: Any, score: Estimate, place: float, colour: str) -> None:
    mean, low, high, photos = score
    if not photos:
        return
    if low is not None and high is not None:
        panel.plot([low, high], [place, place], color=colour, linewidth=1.6, alpha=0.6, solid_capstyle="butt")
    panel.plot(mean, place, "o", ms=4.5, color=colour)


def curves_figure(found: Measured) -> Figure:
    """A panel a kind of curve, with the methods in colours and the baselines in grey."""
    from matplotlib.figure import Figure as Blank

    figure = Blank(figsize=(3.3 * len(found.kinds) + 1.7, 3.3), layout="constrained")
    axes = figure.subplots(1, len(found.kinds), squeeze=False, sharey=True)[0]
    methods = found.rows("method")
    for number, (panel, kind) in enumerate(zip(axes, found.kinds, strict=True)):
        for i in found.rows("baseline"):
            mean = [one.mean for one in found.curve(number, i)]
            name = found.entries[i].name
            panel.plot(found.shares, mean, color=drawing.PALE, linestyle=STYLES[name], linewidth=1.3, label=name)
        for colour, i in enumerate(methods):
            each = found.curve(number, i)
            means = [one.mean for one in each]
            shown = len(methods) <= BANDS
            low, high = ([one[k] for one in each] if shown else None for k in (1, 2))
            drawing.line(panel, colour, found.shares, means, found.entries[i].name, low, high)
        taken = "filled" if kind == "deletion" else "put back"
        up = "probability of the class" if number == 0 else ""
        drawing.plain(panel, across=f"share {taken}", up=up, title=kind)
        panel.set_xlim(0, 1)
        panel.set_ylim(bottom=0)
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right center", fontsize=7, frameon=False)
    return figure
