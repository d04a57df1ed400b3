"""The figure of where the evidence lies."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from torch import Tensor

from convscope.images.frame import to_image
from convscope.studies import drawing

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Drawn

    from convscope.studies.diagnosis.patient import Patient

CLASSES, PHOTOS = 5, 5  # rows, and photos in each
GUILTY, PLAIN = "#ff2d2d", "#ffffff"
CAPTION = (
    "For each class, those with a finding first: the mean of its photos' evidence, and single photos, the darker the "
    "less evidence. Dashed is what the border encloses; the square is the corner without which the class's probability "
    "falls most, red where it falls too much. Where no class has six photos: photos alone."
)


class Shown(NamedTuple):
    """A class in the figure: its photos' rows and evidence, its worst corner, and whether there is a finding."""

    label: int
    rows: Sequence[int]
    maps: Tensor
    corner: Any
    guilty: bool


def figure_of(patient: Patient, maps: Tensor, classes: Sequence[Shown], some: Sequence[int], inside: Any) -> Drawn:
    """The classes in the order of showing; of none, photos alone."""
    if not classes:
        return _photos_alone(patient, maps, list(some)[: 2 * PHOTOS], inside)
    classes = classes[:CLASSES]
    names = " ".join([*patient.names, *(patient.classes.short(one.label) for one in classes)])
    figure, axes = drawing.panels(len(classes), PHOTOS + 1, names=names)
    for one, panels in zip(classes, axes, strict=True):
        mean = (one.maps / one.maps.sum((1, 2), keepdim=True).clamp(min=1e-30)).mean(0).numpy()
        name = drawing.shortened(patient.classes.short(one.label))
        drawing.picture(panels[0], mean, f"{name}: mean of {len(one.rows)}", cmap="magma")
        for panel, row in zip(panels[1:], [*one.rows[:PHOTOS], *[None] * PHOTOS], strict=False):
            if row is None:
                panel.axis("off")
            else:
                _photo(panel, patient, maps, row)
        for panel in panels[: len(one.rows) + 1]:
            _frame(panel, inside, PLAIN, dashed=True)
            _frame(panel, one.corner, GUILTY if one.guilty else PLAIN)
    return figure


def _photos_alone(patient: Patient, maps: Tensor, rows: Sequence[int], inside: Any) -> Drawn:
    columns = min(PHOTOS, len(rows))
    figure, axes = drawing.panels(-(-len(rows) // columns), columns, names=" ".join(patient.names))
    for panel, row in zip(axes.flat, [*rows, *[None] * columns], strict=False):
        if row is None:
            panel.axis("off")
        else:
            _photo(panel, patient, maps, row)
            _frame(panel, inside, PLAIN, dashed=True)
    return figure


def _photo(panel: Any, patient: Patient, maps: Tensor, row: int) -> None:
    """The photo, dark where there is no evidence."""
    photo = np.asarray(to_image(patient.pixels([row])[0].cpu()).convert("RGB"), float) / 255
    light = (maps[row] / maps[row].amax().clamp(min=1e-12)).numpy()[..., None]
    drawing.picture(panel, photo * (0.25 + 0.75 * light), drawing.shortened(patient.names[row], 22))


def _frame(panel: Any, box: Any, colour: str, dashed: bool = False) -> None:
    from matplotlib.patches import Rectangle

    place, high, wide = (box.left - 0.5, box.top - 0.5), box.bottom - box.top, box.right - box.left
    how = {"linestyle": "--", "linewidth": 0.7} if dashed else {"linewidth": 1.5}
    panel.add_patch(Rectangle(place, wide, high, fill=False, edgecolor=colour, **how))
