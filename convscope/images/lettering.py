"""Lettering on pictures: fonts that have the characters, lines that fit a width, and their height."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path

from PIL import ImageDraw, ImageFont


@lru_cache(maxsize=32)
def _plain_font(size: int) -> ImageFont.FreeTypeFont:
    return ImageFont.load_default(size)  # type: ignore[return-value]


@lru_cache(maxsize=32)
def _wide_font(size: int) -> ImageFont.FreeTypeFont:
    import matplotlib  # only here: seldom needed

    return ImageFont.truetype(str(Path(matplotlib.get_data_path(), "fonts", "ttf", "DejaVuSans.ttf")), size)


def font(size: int, text: str) -> ImageFont.FreeTypeFont:
    """Pillow's own font knows ASCII alone; other text is set in the one that comes with matplotlib."""
    return _plain_font(size) if text.isascii() else _wide_font(size)


def line_height(font: ImageFont.FreeTypeFont) -> int:
    return sum(font.getmetrics()) + 1


def one_line(text: str) -> str:
    """Text that a font can draw: no control characters, no halves of characters, accents joined to their letters."""
    text = unicodedata.normalize("NFC", text).encode("utf-8", "replace").decode("utf-8")
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())


def wrap(text: str, font: ImageFont.FreeTypeFont, width: int, most: int) -> list[str]:
    """Lines that fit the width, broken after spaces and punctuation, inside words only if need be; at most ``most``."""
    rest = one_line(text)
    lines: list[str] = []
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


def write(
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
        pen.text((x, top + i * line_height(font)), line, font=font, fill=ink)
