"""A layer's units side by side, each by its nine strongest patches beside their projections (Zeiler & Fergus 2013,
figure 2)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from PIL import Image

from convscope.atlas.renders import PHOTO
from convscope.errors import UsageError
from convscope.images.lettering import Line
from convscope.images.sheet import contact_sheet, fitted_to
from convscope.progress import track

if TYPE_CHECKING:
    from convscope.atlas.atlas import Atlas
    from convscope.atlas.unit import Unit

SIDE = 3  # patches in a row of a block
CELL, SEAM = 66, 2
APART, MARGIN = 8, 12  # pixels between the halves of a block, and round it
COLUMNS = 4
PAPER = "white"


def layer_sheet(atlas: Atlas, layer: str, units: Sequence[int], method: str) -> Image.Image:
    """Of each unit nine projections on the left, and on the right the patches of photos that they are of."""
    if not units:
        raise UsageError(f"no unit of {layer} is named")
    own = [atlas.unit(f"{layer}:{unit}") for unit in units]
    neurons = [unit.neuron(patch) for unit in own if not unit.dead for patch in unit.top[: SIDE * SIDE]]
    found = atlas.pictures(layer, neurons, [method])
    tiles, labels = [], []
    for unit in track(own, "units") if len(own) > 64 else own:
        keys = [(unit.number, patch.number) for patch in unit.top[: SIDE * SIDE]]
        halves = [[found[*key, what].image for key in keys if (*key, what) in found] for what in (method, PHOTO)]
        tiles.append(_blocks(halves))
        labels.append(_label(unit))
    title = f"{layer} of {atlas.model}: what excites each unit, by {method}, and in which photos"
    dead = [unit.dead for unit in own]
    return contact_sheet(tiles, labels, columns=min(COLUMNS, len(tiles)), tile=tiles[0].width, title=title, dead=dead)


def _label(unit: Unit) -> list[Line]:
    told = [Line(f"unit {unit.number}", "", f", at most {unit.max:.3g}")]
    return told if unit.class_name is None or unit.dead else [*told, Line(unit.class_name, "most for ")]


def _blocks(halves: Sequence[Sequence[Image.Image]]) -> Image.Image:
    side = SIDE * (CELL + SEAM) - SEAM
    sheet = Image.new("RGB", (2 * side + APART + 2 * MARGIN, side), PAPER)
    for half, pictures in enumerate(halves):
        for place, picture in enumerate(pictures):
            row, col = divmod(place, SIDE)
            tile = fitted_to(picture, CELL)
            left = MARGIN + half * (side + APART) + col * (CELL + SEAM) + (CELL - tile.width) // 2
            sheet.paste(tile, (left, row * (CELL + SEAM) + (CELL - tile.height) // 2))
    return sheet
