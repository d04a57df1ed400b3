"""Pictures of neurons: the patch of the photo that each sees, and its projections there, as PNGs for the store."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from itertools import groupby
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from convscope.atlas.projections import Neuron, Piece, Projector
from convscope.data.scan import cores
from convscope.errors import ConvscopeError
from convscope.images import colour
from convscope.images.colour import Box
from convscope.images.frame import to_image
from convscope.images.show import png_of
from convscope.instrument.batches import AT_ONCE
from convscope.methods import configure
from convscope.methods.display import energy_box
from convscope.progress import track

PHOTO, PATTERN, CONTROL = "photo", "pattern", "control"
BOXING = "guided"  # whose projection says what of the canvas is shown, where the receptive field is nearly all of it
BEYOND = (205, 214, 232)  # the canvas's border: no photo's black or white, and no projection's grey
AHEAD = 4 * AT_ONCE  # photos that are read together

Render = tuple[Any, ...]  # a row of the table, without its layer


def control_of(method: str) -> str:
    """What a picture is called that shows the same without anything learned."""
    return f"{method}, {CONTROL}"


def render(
    projector: Projector,
    canvas: Callable[[int], Tensor],
    neurons: Collection[Neuron],
    methods: Mapping[str, Any],
    boxes: Mapping[tuple[int, int], Box],
    troubles: dict[int, str],
    *,
    control: bool = False,
    label: str = "projections",
) -> Iterator[list[Render]]:
    """Pictures of neurons, some at a time: their patches, and for each method the projection.

    ``canvas(image)``: an image's pixels as bytes; why there are none goes into ``troubles``. ``boxes``: of neurons, by
    unit and image, whose patch is there already. ``control``: also each projection with the weights shuffled.
    """
    ordered = sorted(neurons, key=lambda neuron: (neuron.image, neuron.unit))
    by_image = {image: list(group) for image, group in groupby(ordered, key=lambda neuron: neuron.image)}
    images = list(by_image)
    parts = [images[i : i + AHEAD] for i in range(0, len(images), AHEAD)]

    def weight(part: Sequence[int]) -> int:
        return sum(len(by_image[image]) for image in part)

    def read(image: int) -> Tensor | str:
        try:
            return canvas(image)
        except ConvscopeError as error:
            return str(error)

    with ThreadPoolExecutor(cores(), "canvases") as pool:
        for part in track(parts, label, weigh=weight) if len(parts) > 1 else parts:
            found = dict(zip(part, pool.map(read, part), strict=True))
            troubles.update({image: one for image, one in found.items() if isinstance(one, str)})
            canvases = {image: one for image, one in found.items() if isinstance(one, Tensor)}
            own = [neuron for image in canvases for neuron in by_image[image]]
            for start in range(0, len(own), AT_ONCE):
                few = own[start : start + AT_ONCE]
                yield _rendered(projector, canvases, few, methods, boxes, control)


def _rendered(
    projector: Projector,
    canvases: Mapping[int, Tensor],
    neurons: Sequence[Neuron],
    methods: Mapping[str, Any],
    known: Mapping[tuple[int, int], Box],
    control: bool,
) -> list[Render]:
    pieces = [projector.piece(canvases[neuron.image], neuron) for neuron in neurons]
    raws: dict[str, Tensor] = {}
    settled = torch.ones(len(pieces), dtype=torch.bool)
    for name, method in methods.items():
        raws[name], close = projector.project(method, pieces)
        settled &= close
    if projector.windows is not None and methods and not bool(settled.all()):
        # On its window one answers otherwise: all of these on their whole canvas, so that the batch is of one size.
        pieces = [projector.piece(canvases[neuron.image], neuron, whole=True) for neuron in neurons]
        raws = {name: projector.project(method, pieces)[0] for name, method in methods.items()}
    boxes = _boxes(projector, pieces, raws, known)
    rows = []
    for piece, box in zip(pieces, boxes, strict=True):
        own = piece.neuron
        if (own.unit, own.image) not in known:
            seen = to_image(piece.pixels[:, *piece.within(box)] / 255)
            rows.append((own.unit, own.image, PHOTO, png_of(_placed(seen, piece, box)), *box, "{}"))
    for name, raw in raws.items():
        about = [asdict(one) for one in projector.carried(pieces, raw, boxes)]
        rows += _pictures(name, pieces, raw, boxes, about)
        if control:
            rows += _pictures(control_of(name), pieces, projector.project_control(methods[name], pieces), boxes, None)
    return rows


def _boxes(
    projector: Projector, pieces: Sequence[Piece], raws: Mapping[str, Tensor], known: Mapping[tuple[int, int], Box]
) -> list[Box]:
    """What of the canvas is shown of each neuron: its receptive field, or what holds most of its projection."""
    found = [known.get((piece.neuron.unit, piece.neuron.image)) or projector.field(piece.neuron) for piece in pieces]
    missing = [i for i, box in enumerate(found) if box is None]
    if missing:
        some = [pieces[i] for i in missing]
        raw = raws[BOXING][missing] if BOXING in raws else projector.project(configure(BOXING), some)[0]
        for i, one in zip(missing, raw, strict=True):
            found[i] = energy_box(one)
    return [box for box in found if box is not None]


def _pictures(
    what: str, pieces: Sequence[Piece], raws: Tensor, boxes: Sequence[Box], about: Sequence[Mapping[str, Any]] | None
) -> list[Render]:
    rows = []
    for i, (piece, raw, box) in enumerate(zip(pieces, raws, boxes, strict=True)):
        seen = raw[:, *piece.within(box)]
        picture = _placed(Image.fromarray(colour.pixels(seen)), piece, box)
        told = json.dumps({"empty": not bool(seen.any()), **(about[i] if about is not None else {})})
        rows.append((piece.neuron.unit, piece.neuron.image, what, png_of(picture), *box, told))
    return rows


def _placed(picture: Image.Image, piece: Piece, box: Box) -> Image.Image:
    """A part of the canvas where it lies in its box; what is beyond the canvas is bluish. So fields keep their size
    and the unit its place in the middle.
    """
    top, left, bottom, right = box
    if picture.size == (right - left, bottom - top):
        return picture
    whole = Image.new("RGB", (right - left, bottom - top), BEYOND)
    rows, cols = piece.within(box)
    whole.paste(picture, (cols.start + piece.left - left, rows.start + piece.top - top))
    return whole
