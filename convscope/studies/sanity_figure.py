"""The figures of a sanity check."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from convscope.studies import drawing
from convscope.studies.likeness import MEASURES
from convscope.studies.result import Figure
from convscope.studies.sanity_course import CASCADE, Course
from convscope.studies.subject import Album

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Drawn

SIDE = 1.3  # inches of a map
COLUMNS = 9  # maps of a row: of more steps some are shown


def figures(album: Album, courses: Sequence[Course], verdicts: Mapping[str, str], below: float) -> list[Figure]:
    """The maps of the first photo, and how alike they are step by step, of each order."""
    found = []
    for course in courses:
        cascading = course.order == CASCADE
        what = "from the last layer down to the one named, all are random" if cascading else "the layer named is random"
        maps = (
            f"{album.names[0]}: each method's map of the trained network, and then of networks in which {what}; after "
            "Adebayo et al. 2018, figure 2. Of each map the magnitude, from its least value to its 99th percentile. A "
            "row that hardly changes is of a method that does not notice."
        )
        across = (
            "the number of random layers, from the last" if cascading else "the random layer's place, from the last"
        )
        rule = f" A method passes whose mean over the cascade, in the first panel, stays below {below:g}."
        lines = (
            "How like the maps are to the trained network's, mean over the photos with its 95 % interval: 1 is the "
            f"same map. Across, {across}.{rule if cascading else ''}"
        )
        found += [
            Figure(f"{course.order}-maps", maps, partial(_pictures, album, course, verdicts)),
            Figure(f"{course.order}-likeness", lines, partial(_charts, course)),
        ]
    return found


def _pictures(album: Album, course: Course, verdicts: Mapping[str, str]) -> Drawn:
    size = album.images.shape[-2:]
    at = _some(len(course.steps), COLUMNS - 2)
    figure, axes = drawing.panels(len(course.shown), len(at) + 2, width=SIDE, height=SIDE + 0.12, names=album.names[0])
    for row, (method, shown) in enumerate(course.shown.items()):
        panels = iter(axes[row])
        first = next(panels)
        if row == 0:
            drawing.picture(first, album.images[0], drawing.shortened(album.names[0], 18))
        else:
            first.axis("off")
        _map(next(panels), shown[0], size, "trained" if row == 0 else "")
        axes[row, 1].set_ylabel(
            f"{method}\n{verdicts[method]}" if course.order == CASCADE else method, fontsize=7, color=drawing.INK
        )
        for step in at:
            _map(next(panels), shown[step + 1], size, _title(course, step) if row == 0 else "")
    return figure


def _title(course: Course, step: int) -> str:
    one = course.steps[step]
    layer = one.layer if len(one.layer) <= 18 else "…" + one.layer[-17:]
    place = f"{one.count} of {course.depth}" if course.order == CASCADE else f"number {one.count}"
    return f"{place}\n{layer}"


def _map(axes: Any, shown: Any, size: Sequence[int], title: str) -> None:
    if shown is None:
        drawing.nothing(axes, size, title)
    else:
        drawing.picture(axes, shown, title, cmap="inferno", vmin=0, vmax=1)


def _some(count: int, most: int) -> list[int]:
    """At most so many steps, evenly, the first and the last with them."""
    if count <= most:
        return list(range(count))
    return [round(i * (count - 1) / (most - 1)) for i in range(most)]


def _charts(course: Course) -> Drawn:
    figure, axes = drawing.panels(2, 2, width=4.2, height=2.7)
    counts = [step.count for step in course.steps]
    start = [0] if course.order == CASCADE else []  # nothing random: the same map
    across = "random layers, from the last" if course.order == CASCADE else "the random layer, from the last"
    for panel, (measure, about) in zip(axes.flat, MEASURES.items(), strict=True):
        for number, method in enumerate(course.likeness):
            found = [course.at(method, step, measure) for step in range(len(counts))]
            if any(one.photos for one in found):
                before = [1.0] * len(start)
                low, high = [*before, *(one.low for one in found)], [*before, *(one.high for one in found)]
                means = [*before, *(one.mean for one in found)]
                drawing.line(panel, number, [*start, *counts], means, method, low, high)
                if len(means) == 1:
                    panel.plot(
                        counts, [found[0].mean], "o", markersize=4, color=drawing.COLOURS[number % len(drawing.COLOURS)]
                    )
        panel.axhline(0, color=drawing.PALE, linewidth=0.6)
        panel.set_ylim(top=1.03)
        drawing.plain(panel, across=across, up=measure, title=about)
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=4, fontsize=7.5, frameon=False)
    return figure
