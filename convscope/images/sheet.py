"""Contact sheets: many small pictures on one, each with its label whole or visibly shortened, never clipped."""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TypeAlias

import numpy as np
from PIL import Image, ImageColor, ImageDraw, ImageFont

from convscope.errors import ConvscopeError, UsageError

Tile: TypeAlias = Image.Image | np.ndarray

PAGE = 2200  # a sheet is made to be about as wide at most
LEGIBLE = 84  # what a small map is enlarged to at least
MARGIN = 12
GAP = 6
LABEL_LINES = 3
MARK = (235, 64, 52)  # of dead units: seen on black and on white


def contact_sheet(
    tiles: Sequence[Tile],
    labels: Sequence[str] | None = None,
    *,
    columns: int = 16,
    tile: int | None = None,
    title: str | None = None,
    dead: Collection[int] | Sequence[bool] | None = None,
    background: str = "white",
) -> Image.Image:
    """Pictures (PIL images, or uint8 arrays "h w" or "h w 3") in rows, with labels under them and a title above.

    ``tile``: the longest side of a picture on the sheet, by default chosen by their number and size. Small maps are
    enlarged in whole pixels, large pictures reduced; each keeps its aspect. ``dead``: the indices of dead units, or a
    truth value for each tile; they are crossed out and say so.
    """
    images = [_image(item, i) for i, item in enumerate(tiles)]
    paper = _paper(background)
    if not images:
        raise UsageError("a contact sheet needs at least one picture")
    if columns < 1 or (tile is not None and tile < 1):
        raise UsageError(f"columns and tile must be positive, got {columns} and {tile}")
    if labels is not None and len(labels) != len(images):
        raise UsageError(f"{len(images)} pictures but {len(labels)} labels")
    columns = min(columns, len(images))
    marked = _indices(dead, len(images))
    side = tile if tile is not None else _side(max(max(image.size) for image in images), columns)
    images = [_fit(image, side) for image in images]
    for i in marked:
        images[i] = _crossed_out(images[i])
    return _Page(images, labels, columns, title or "", paper).draw()


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


@dataclass(frozen=True)
class _Page:
    """The measured sheet: what goes where is settled before anything is drawn."""

    images: list[Image.Image]
    labels: Sequence[str] | None
    columns: int
    title: str
    paper: tuple[int, ...]

    def draw(self) -> Image.Image:
        cell_w = max(image.width for image in self.images)
        cell_h = max(image.height for image in self.images)
        small, large = _font(_label_size(cell_w), self._text()), _font(18, self.title)
        if self.labels is not None:
            cell_w = max(cell_w, 4 * small.size)  # a label of a few characters always fits
        lines = [_wrap(label, small, cell_w, LABEL_LINES) for label in self.labels or [""] * len(self.images)]
        width = self.columns * (cell_w + GAP) - GAP
        width = max(width, min(320, math.ceil(large.getlength(_one_line(self.title)))))
        heading = _wrap(self.title, large, width, 100) if self.title else []
        rows = [lines[i : i + self.columns] for i in range(0, len(lines), self.columns)]
        label_h = [max(map(len, row)) * _line_height(small) + (2 if any(row) else 0) for row in rows]
        top = MARGIN + len(heading) * _line_height(large) + (MARGIN if heading else 0)
        size = (width + 2 * MARGIN, top + sum(cell_h + GAP + h for h in label_h) - GAP + MARGIN)
        sheet = Image.new("RGB", size, self.paper)
        pen, ink = ImageDraw.Draw(sheet), _ink(self.paper)
        _write(pen, heading, large, MARGIN, MARGIN, ink)
        for r, (row_lines, height) in enumerate(zip(rows, label_h, strict=True)):
            for c, text in enumerate(row_lines):
                image, left = self.images[r * self.columns + c], MARGIN + c * (cell_w + GAP)
                # Pictures stand on their labels, so that rows of different heights keep one line.
                sheet.paste(image, (left + (cell_w - image.width) // 2, top + cell_h - image.height))
                _write(pen, text, small, left, top + cell_h + 2, ink, centred=cell_w)
            top += cell_h + GAP + height
        return sheet

    def _text(self) -> str:
        return "".join(self.labels or ())


def _image(item: Tile, index: int) -> Image.Image:
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


def _paper(background: str) -> tuple[int, ...]:
    try:
        return ImageColor.getrgb(background)[:3]
    except ValueError:
        raise UsageError(f"unknown colour {background!r} (a CSS name such as white, or #rrggbb)") from None


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
    """The longest side on the sheet for tiles of ``native`` pixels: whole multiples of it, as far as the page allows."""
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


def _crossed_out(image: Image.Image) -> Image.Image:
    """The picture with a cross from corner to corner and the word "dead" in its middle."""
    image = image.copy()
    pen, (width, height) = ImageDraw.Draw(image), image.size
    stroke = max(1, min(image.size) // 50)
    pen.line((0, 0, width - 1, height - 1), fill=MARK, width=stroke)
    pen.line((0, height - 1, width - 1, 0), fill=MARK, width=stroke)
    font = _font(max(7, min(28, min(width // 4, height // 3))), "dead")
    centre = (width / 2, height / 2)
    left, top, right, bottom = pen.textbbox(centre, "dead", font=font, anchor="mm")
    pad = max(1, font.size // 4)
    pen.rounded_rectangle((left - pad, top - pad, right + pad, bottom + pad), radius=pad, fill=MARK)
    pen.text(centre, "dead", font=font, anchor="mm", fill="white")
    return image


def _label_size(cell: int) -> int:
    return max(10, min(15, cell // 8))


@lru_cache(maxsize=32)
def _plain_font(size: int) -> ImageFont.FreeTypeFont:
    return ImageFont.load_default(size)  # type: ignore[return-value]


@lru_cache(maxsize=32)
def _wide_font(size: int) -> ImageFont.FreeTypeFont:
    import matplotlib  # only here: seldom needed

    return ImageFont.truetype(str(Path(matplotlib.get_data_path(), "fonts", "ttf", "DejaVuSans.ttf")), size)


def _font(size: int, text: str) -> ImageFont.FreeTypeFont:
    """Pillow's own font knows ASCII alone; other text is set in the one that comes with matplotlib."""
    return _plain_font(size) if text.isascii() else _wide_font(size)


def _line_height(font: ImageFont.FreeTypeFont) -> int:
    return sum(font.getmetrics()) + 1


def _one_line(text: str) -> str:
    """Text that a font can draw: no control characters, no halves of characters, accents joined to their letters."""
    text = unicodedata.normalize("NFC", text).encode("utf-8", "replace").decode("utf-8")
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())


def _wrap(text: str, font: ImageFont.FreeTypeFont, width: int, most: int) -> list[str]:
    """Lines that fit the width, broken after spaces and punctuation, inside words only if need be; at most ``most``."""
    rest, lines = _one_line(text), []
    while rest:
        if len(lines) == most - 1 or font.getlength(rest) <= width:
            lines.append(_shortened(rest, font, width))
            break
        fits = _fitting(rest, font, width)
        breaks = [m.end() for m in re.finditer(r"[\s_\-/.:,;]", rest[: fits + 1]) if m.end() <= fits or m[0] == " "]
        cut = breaks[-1] if breaks else fits
        lines.append(rest[:cut].rstrip())
        rest = rest[cut:].lstrip()
    return lines


def _fitting(text: str, font: ImageFont.FreeTypeFont, width: int) -> int:
    """How many leading characters fit, at least one."""
    count = 1
    while count < len(text) and font.getlength(text[: count + 1]) <= width:
        count += 1
    return count


def _shortened(text: str, font: ImageFont.FreeTypeFont, width: int) -> str:
    """The text, or its beginning and an ellipsis."""
    if font.getlength(text) <= width:
        return text
    count = _fitting(text, font, width)
    while count and font.getlength(text[:count].rstrip() + "…") > width:
        count -= 1
    return text[:count].rstrip() + "…"


def _write(
    pen: ImageDraw.ImageDraw,
    lines: Iterable[str],
    font: ImageFont.FreeTypeFont,
    left: int,
    top: int,
    ink: tuple[int, int, int],
    centred: int | None = None,
) -> None:
    for i, line in enumerate(lines):
        x = left if centred is None else left + (centred - font.getlength(line)) / 2
        pen.text((x, top + i * _line_height(font)), line, font=font, fill=ink)


def _file_names(labels: Sequence[str], numbers: Sequence[str]) -> list[str]:
    """Names that every file system takes and tells apart, as near to the labels as that allows."""
    names: list[str] = []
    taken = set()
    for label, number in zip(labels, numbers, strict=True):
        name = re.sub(r"[^\w.\- ]+", "_", _one_line(label))[:60].strip(" .") or number
        if re.fullmatch(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", name, re.IGNORECASE):
            name = f"_{name}"
        unique, again = name, 1
        while unique.casefold() in taken:
            again += 1
            unique = f"{name}-{again}"
        taken.add(unique.casefold())
        names.append(unique)
    return names
