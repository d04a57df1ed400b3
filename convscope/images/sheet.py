"""Contact sheets: many small pictures on one, each with its label whole or visibly shortened, never clipped."""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from PIL import Image, ImageDraw, ImageOps

from convscope.errors import ConvscopeError, UsageError
from convscope.images.convert import paper_colour
from convscope.images.lettering import Face, Line, fitted, font, line_height, one_line, spelled, wrap, write
from convscope.images.slug import no_device

Tile: TypeAlias = Image.Image | np.ndarray
Label: TypeAlias = str | Sequence[Line]

PAGE = 2200  # a sheet is made to be about as wide at most
LEGIBLE = 84  # what a small map is enlarged to at least
MARGIN = 12
GAP = 6
LABEL_LINES = 3
OUTLINE = (190, 190, 190)
MARK = (235, 64, 52)  # of dead units: seen on black and on white


def contact_sheet(
    tiles: Sequence[Tile],
    labels: Sequence[Label] | None = None,
    *,
    columns: int = 16,
    tile: int | None = None,
    title: str | None = None,
    dead: Collection[int] | Sequence[bool] | None = None,
    marks: Mapping[int, str] | None = None,
    background: str = "white",
) -> Image.Image:
    """Pictures (PIL images, or uint8 arrays "h w" or "h w 3") in rows, with labels under them and a title above.

    ``tile``: the longest side of a picture on the sheet, by default chosen by their number and size. Small maps are
    enlarged in whole pixels, large pictures reduced; each keeps its aspect. A label is a text, broken as it fits, or
    ``Line``s, which stay lines; what no font can draw is spelled out. ``dead``: the indices of dead units, or a truth
    value for each tile; they are crossed out and say so. ``marks``: other words for what is crossed out, by index.
    """
    images = [_image(item, i) for i, item in enumerate(tiles)]
    paper = paper_colour(background)
    if not images:
        raise UsageError("a contact sheet needs at least one picture")
    if columns < 1 or (tile is not None and tile < 1):
        raise UsageError(f"columns and tile must be positive, got {columns} and {tile}")
    if labels is not None and len(labels) != len(images):
        raise UsageError(f"{len(images)} pictures but {len(labels)} labels")
    columns = min(columns, len(images))
    marked = dict.fromkeys(_indices(dead, len(images)), "dead") | dict(marks or {})
    for i in marked:
        if not 0 <= i < len(images):
            raise UsageError(f"marks name picture {i}, but there are {len(images)}")
    side = tile if tile is not None else _side(max(max(image.size) for image in images), columns)
    images = [_fit(image, side) for image in images]
    for i, word in marked.items():
        _cross_out(images[i], word)
    texts: list[Label] = [""] * len(images) if labels is None else [_spelled(label) for label in labels]
    return _drawn(images, texts, columns, spelled(title or ""), paper)


def row(
    pictures: Sequence[Tile],
    labels: Sequence[str] | None = None,
    *,
    tile: int | None = None,
    title: str | None = None,
    background: str = "white",
) -> Image.Image:
    """Pictures side by side."""
    return contact_sheet(pictures, labels, columns=max(1, len(pictures)), tile=tile, title=title, background=background)


def fitted_to(picture: Image.Image, side: int) -> Image.Image:
    """The picture with its longest side so long, as a sheet shows it: the pixels of a small one stay visible."""
    return _fit(picture.convert("RGB"), side)


def outlined(picture: Image.Image, side: int) -> Image.Image:
    """A tile of a sheet with a thin line round it, so that white ones end somewhere."""
    return ImageOps.expand(fitted_to(picture, side - 2), 1, OUTLINE)


def stacked(pictures: Sequence[Image.Image]) -> Image.Image:
    """Pictures below one another, on white."""
    sheet = Image.new("RGB", (max(p.width for p in pictures), sum(p.height for p in pictures)), "white")
    top = 0
    for picture in pictures:
        sheet.paste(picture, (0, top))
        top += picture.height
    return sheet


def headed(picture: Image.Image, text: str) -> Image.Image:
    """A picture with a line or some above it, on white."""
    text = spelled(text)
    face = font(14, text)
    lines = wrap(text, face, picture.width - 2 * MARGIN, 100)
    top = MARGIN + len(lines) * line_height(face)
    sheet = Image.new("RGB", (picture.width, top + picture.height), "white")
    write(ImageDraw.Draw(sheet), lines, face, MARGIN, MARGIN, _ink((255, 255, 255)))
    sheet.paste(picture, (0, top))
    return sheet


def save_each(
    tiles: Sequence[Tile], labels: Sequence[str] | None, folder: str | Path, *, size: int | None = None
) -> list[Path]:
    """Each picture alone as a PNG in the folder, named by its label or else its number; returns the paths.

    ``size`` resizes the longest side to so many pixels, bilinearly.
    """
    images = [_image(item, i) for i, item in enumerate(tiles)]
    if labels is not None and len(labels) != len(images):
        raise UsageError(f"{len(images)} pictures but {len(labels)} labels")
    if size is not None and size < 1:
        raise UsageError(f"size must be positive, got {size}")
    digits = len(str(len(images) - 1))
    numbers = [f"{i:0{digits}d}" for i in range(len(images))]
    folder = Path(folder)
    paths = [folder / f"{name}.png" for name in _file_names(numbers if labels is None else labels, numbers)]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for image, path in zip(images, paths, strict=True):
            (image if size is None else image.resize(_scaled(image, size), Image.Resampling.BILINEAR)).save(path)
    except OSError as error:
        raise ConvscopeError(f"pictures cannot be saved in {folder}: {error.strerror or error}") from None
    return paths


def _drawn(
    images: list[Image.Image], labels: Sequence[Label], columns: int, title: str, paper: tuple[int, ...]
) -> Image.Image:
    """The sheet. Everything is measured first, so that nothing written can be larger than its place."""
    cell = max(image.width for image in images)
    small, large = font(max(11, min(15, cell // 8)), "".join(map(_text, labels))), font(18, title)
    if any(labels):
        cell = max(cell, 4 * small.size)  # a label of a few characters always fits
    width = columns * (cell + GAP) - GAP
    width = max(width, min(320, math.ceil(large.getlength(one_line(title)))))
    heading = wrap(title, large, width, 100)
    lines = [_lines(label, small, cell) for label in labels]
    rows = [range(i, min(i + columns, len(images))) for i in range(0, len(images), columns)]
    picture_h = [max(images[i].height for i in row) for row in rows]
    label_h = [max(len(lines[i]) for i in row) * line_height(small) for row in rows]
    top = MARGIN + len(heading) * line_height(large) + (GAP if heading else 0)
    height = top + sum(picture_h) + sum(label_h) + GAP * (len(rows) - 1) + MARGIN
    sheet = Image.new("RGB", (width + 2 * MARGIN, height), paper)
    pen, ink = ImageDraw.Draw(sheet), _ink(paper)
    write(pen, heading, large, MARGIN, MARGIN, ink)
    for row, picture, label in zip(rows, picture_h, label_h, strict=True):
        base = top + picture  # pictures stand on their labels, so that different heights have one baseline
        for left, i in zip(range(MARGIN, MARGIN + width, cell + GAP), row, strict=False):
            sheet.paste(images[i], (left + (cell - images[i].width) // 2, base - images[i].height))
            write(pen, lines[i], small, left, base + 1, ink, centred=cell)
        top = base + label + GAP
    return sheet


def _spelled(label: Label) -> Label:
    return list(label) if isinstance(label, (list, tuple)) else spelled(str(label))


def _text(label: Label) -> str:
    return label if isinstance(label, str) else "".join(spelled("|".join(line)) for line in label)


def _lines(label: Label, font: Face, width: int) -> list[str]:
    if isinstance(label, str):
        return wrap(label, font, width, LABEL_LINES)
    return [fitted(line, font, width - GAP) for line in label]  # so that full lines of neighbours stay apart


def _image(item: Tile, index: int) -> Image.Image:
    """A tile as an RGB image of our own."""
    if isinstance(item, Image.Image):
        image = item.convert("RGB")
    elif not isinstance(item, np.ndarray) or item.dtype != np.uint8:
        kind = f"array of {item.dtype}" if hasattr(item, "dtype") else type(item).__name__
        raise UsageError(f"picture {index} is a {kind}; turn numbers into uint8 colours first (grey, heat, signed)")
    elif item.ndim != 2 and not (item.ndim == 3 and item.shape[-1] == 3):
        raise UsageError(f'picture {index} has shape {" x ".join(map(str, item.shape))}; expected "h w" or "h w 3"')
    else:
        image = Image.fromarray(np.ascontiguousarray(item)).convert("RGB") if item.size else Image.new("RGB", (0, 0))
    if 0 in image.size:
        raise UsageError(f"picture {index} has no pixels")
    return image


def _ink(paper: tuple[int, ...]) -> tuple[int, int, int]:
    return (38, 38, 38) if 0.299 * paper[0] + 0.587 * paper[1] + 0.114 * paper[2] > 127 else (230, 230, 230)


def _indices(dead: Collection[int] | Sequence[bool] | None, count: int) -> list[int]:
    """Which tiles are marked, from indices or from a truth value for each."""
    marks = [] if dead is None else [mark.item() if hasattr(mark, "item") else mark for mark in dead]
    if marks and all(isinstance(mark, bool) for mark in marks):
        if len(marks) != count:
            raise UsageError(f"{count} pictures but {len(marks)} dead marks")
        return [i for i, mark in enumerate(marks) if mark]
    for mark in marks:
        if not 0 <= mark < count:
            raise UsageError(f"dead names picture {mark}, but there are {count}")
    return sorted(set(marks))


def _side(native: int, columns: int) -> int:
    """The longest side on the sheet for tiles of ``native`` pixels: small ones a whole multiple, as the page allows."""
    most = min(640, max(LEGIBLE, (PAGE - 2 * MARGIN) // columns - GAP))
    least = max(LEGIBLE, min(224, 672 // columns))
    if native >= least:
        return min(native, most)
    return native * min(math.ceil(least / native), max(1, most // native))


def _scaled(image: Image.Image, side: int) -> tuple[int, int]:
    scale = side / max(image.size)
    return max(1, round(image.width * scale)), max(1, round(image.height * scale))


def _fit(image: Image.Image, side: int) -> Image.Image:
    """The picture with its longest side so long. A map's few pixels stay visible as pixels."""
    size = _scaled(image, side)
    if size == image.size:
        return image
    is_map = max(image.size) < LEGIBLE and side > max(image.size)
    return image.resize(size, Image.Resampling.NEAREST if is_map else Image.Resampling.LANCZOS)


def _cross_out(image: Image.Image, word: str) -> None:
    """Draw a cross from corner to corner and a word in the middle."""
    pen, (width, height) = ImageDraw.Draw(image), image.size
    stroke = max(1, min(4, min(image.size) // 60))
    pen.line((0, 0, width - 1, height - 1), fill=MARK, width=stroke)
    pen.line((0, height - 1, width - 1, 0), fill=MARK, width=stroke)
    face = _face_for(word, width, height)
    centre = (width / 2, height / 2)
    left, top, right, bottom = pen.textbbox(centre, word, font=face, anchor="mm")
    pad = max(1, int(face.size) // 4)
    pen.rounded_rectangle((left - pad, top - pad, right + pad, bottom + pad), radius=pad, fill=MARK)
    pen.text(centre, word, font=face, anchor="mm", fill="white")


def _face_for(word: str, width: int, height: int) -> Any:
    """As large as leaves a tenth of the width on either side of the word, and is not too loud."""
    size = min(20, width // 5, height // 3)
    while size > 7 and font(size, word).getlength(word) > 0.8 * width:
        size -= 1
    (face,) = font(max(7, size), word).fonts
    return face


def _file_names(labels: Sequence[str], numbers: Sequence[str]) -> list[str]:
    """Names that every file system takes and tells apart, as near to the labels as that allows."""
    names: list[str] = []
    taken = set()
    for label, number in zip(labels, numbers, strict=True):
        name = no_device(re.sub(r"[^\w.\- ]+", "_", one_line(label))[:60].strip(" .") or number)
        unique, again = name, 1
        while unique.casefold() in taken:
            again += 1
            unique = f"{name}-{again}"
        taken.add(unique.casefold())
        names.append(unique)
    return names
