"""A snapshot of a unit at a moment of a training: what is kept of it, its picture, and the sheet of all of them."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from PIL import Image, ImageDraw, ImageOps
from torch import Tensor

from convscope.errors import ConvscopeError, UsageError
from convscope.images.colour import Box
from convscope.images.frame import to_image
from convscope.images.lettering import Line
from convscope.images.sheet import contact_sheet
from convscope.instrument.address import Address
from convscope.instrument.receptive_field import unit_box
from convscope.instrument.trace import trace
from convscope.methods import display
from convscope.methods.registry import Traits
from convscope.models.classifier import Classifier

Place: TypeAlias = tuple[int, int] | None  # row and column; a layer without maps has none

WHOLE = 0.9  # of height and width
CLOSE_UP = 224  # the longest side of what is kept of a small field, about
SEAM = 4  # between projection and photo
PAGE, LEAST, MOST = 2200, 84, 160  # about a sheet's width at most, and the sides of its pictures
RIM = 5  # round a cell, for the frame of a jump
JUMP = (235, 120, 0)


@dataclass(frozen=True)
class Snapshot:
    """A unit at a step: the photo that excited it most and where. ``jumped``: another photo than before did.

    ``index``: the photo's number in the pass. ``field``: the part of the canvas that is shown, top, left, bottom,
    right: the receptive field, or where that is nearly the whole canvas, what holds 95 % of the projection's energy.
    ``dead``: zero on every photo. ``empty``: nothing of it reached the pixels. ``picture``: its file in the folder.
    ``row`` and ``col`` are None in a layer without maps. ``pattern``: the file of a synthetic picture of what the unit
    wants, where one was asked for.
    """

    step: int
    unit: str
    value: float
    photo: str
    index: int
    row: int | None
    col: int | None
    field: Box
    jumped: bool
    dead: bool
    empty: bool
    picture: str = ""
    pattern: str = ""


def read_snapshots(path: Path) -> list[Snapshot]:
    """The snapshots of a folder; none where there is no such file."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    except (OSError, UnicodeDecodeError) as error:
        raise ConvscopeError(f"{path} cannot be read: {error}") from None
    found = []
    for number, line in enumerate(lines, start=1):
        try:
            values = json.loads(line)
            top, left, bottom, right = values.pop("field")
            found.append(Snapshot(**values, field=(top, left, bottom, right)))
        except (ValueError, TypeError, KeyError, AttributeError):
            raise ConvscopeError(f"{path}: line {number} is no snapshot: mend it, or name another folder") from None
    return found


def shown_field(classifier: Classifier, photo: Tensor, layer: Address, place: Place, raw: Tensor) -> Box:
    """A neuron's receptive field on the canvas, all of it where that is not known; ``raw`` is its projection.

    A field that is nearly the whole canvas shrinks to a box that holds 95 % of the projection's energy.
    """
    top, left, bottom, right = _receptive_field(classifier, photo, layer, place)
    covered = min((bottom - top) / raw.shape[1], (right - left) / raw.shape[2])
    if covered < WHOLE or not (raw.any() and raw.isfinite().all()):
        return top, left, bottom, right
    return display.energy_box(raw)


def _receptive_field(classifier: Classifier, photo: Tensor, layer: Address, place: Place) -> Box:
    taken = trace(classifier.network, photo[None], through=classifier)
    event = taken.event(layer.key)
    if place is not None and event is not None and event.value is not None:
        _, ((top, bottom), (left, right)) = unit_box(taken, event.value, *place)
        if top <= bottom and left <= right:
            return top, left, bottom + 1, right + 1
    return 0, 0, int(photo.shape[1]), int(photo.shape[2])


def close_up(raw: Tensor, photo: Tensor, field: Box, traits: Traits) -> Image.Image:
    """The projection and the photo on a field, side by side; small ones with their pixels as squares."""
    top, left, bottom, right = field
    box = (slice(None), slice(top, bottom), slice(left, right))
    return side_by_side(display.picture(raw[box], traits), to_image(photo[box]))


def side_by_side(back: Image.Image, seen: Image.Image) -> Image.Image:
    """A projection and a photo of one size, as a snapshot keeps them: enlarged alike where they are small."""
    times = max(1, CLOSE_UP // max(back.size))
    halves = [ImageOps.scale(half, times, Image.Resampling.NEAREST) for half in (back, seen)]
    pair = Image.new("RGB", (2 * halves[0].width + SEAM, halves[0].height), "white")
    for half, start in zip(halves, (0, halves[0].width + SEAM), strict=True):
        pair.paste(half, (start, 0))
    return pair


def _cell(folder: Path, snapshot: Snapshot | None, side: int, count: int) -> Image.Image:
    """Kept pictures as a sheet shows them: projection, photo and maybe a pattern below each other; or nothing."""
    cell = Image.new("RGB", (side + 2 * RIM, count * (side + SEAM) - SEAM + 2 * RIM), "white")
    if snapshot is None:
        return cell
    pair = _kept(folder / snapshot.picture)
    width = (pair.width - SEAM) // 2
    parts = [pair.crop((start, 0, start + width, pair.height)) for start in (0, width + SEAM)]
    if snapshot.pattern:
        parts.append(_kept(folder / snapshot.pattern))
    for i, part in enumerate(parts):
        fitted = ImageOps.contain(part, (side, side))
        top = RIM + i * (side + SEAM)
        cell.paste(fitted, (RIM + (side - fitted.width) // 2, top + (side - fitted.height) // 2))
    if snapshot.jumped:
        ImageDraw.Draw(cell).rectangle((0, 0, cell.width - 1, cell.height - 1), outline=JUMP, width=RIM - 2)
    return cell


def _kept(file: Path) -> Image.Image:
    try:
        with Image.open(file) as opened:
            return opened.convert("RGB")
    except OSError:
        raise ConvscopeError(f"{file} is gone or cannot be read") from None


def _stacked(pictures: Sequence[Image.Image]) -> Image.Image:
    """Strips below each other, in as many columns as fit the page: few snapshots make narrow ones."""
    width = max(p.width for p in pictures)
    columns = max(1, min(PAGE // width, math.ceil(math.sqrt(sum(p.height for p in pictures) / width))))
    each = math.ceil(len(pictures) / columns)
    stacks = [pictures[i : i + each] for i in range(0, len(pictures), each)]
    height = max(sum(p.height for p in stack) for stack in stacks)
    sheet = Image.new("RGB", (width * len(stacks), height), "white")
    for column, stack in enumerate(stacks):
        top = 0
        for picture in stack:
            sheet.paste(picture, (width * column, top))
            top += picture.height
    return sheet


def snapshot_sheet(folder: Path, snapshots: Sequence[Snapshot], units: Sequence[str], label: str) -> Image.Image:
    """A row a unit and a column a step; ``label`` says what a step is."""
    rows: dict[str, dict[int, Snapshot]] = {unit: {} for unit in units}
    for snapshot in snapshots:
        if snapshot.unit in rows:
            rows[snapshot.unit][snapshot.step] = snapshot
    steps = sorted({step for row in rows.values() for step in row})
    if not steps:
        raise UsageError(f"{folder} has no snapshots to show")
    side = max(LEAST, min(MOST, PAGE // len(steps) - 2 * RIM))
    strips = [_strip(folder, unit, [row.get(step) for step in steps], label, side) for unit, row in rows.items()]
    return _stacked(strips)


def _strip(folder: Path, unit: str, row: Sequence[Snapshot | None], label: str, side: int) -> Image.Image:
    count = 3 if any(one is not None and one.pattern for one in row) else 2
    tiles = [_cell(folder, one, side, count) for one in row]
    labels = [[] if one is None else _label(one, label) for one in row]
    dead = [one is not None and one.dead for one in row]
    jumps = [str(one.step) for one in row if one is not None and one.jumped]
    title = f"unit {unit}" + (f", another photo at {label} {', '.join(jumps)}" if jumps else "")
    return contact_sheet(tiles, labels, columns=len(tiles), tile=max(tiles[0].size), title=title, dead=dead)


def _label(one: Snapshot, label: str) -> list[Line]:
    nothing = ("nothing reached", "the pixels") if one.empty and not one.dead else ()
    return [Line(text) for text in (f"{label} {one.step}", f"activation {one.value:.3g}", *nothing)]
