"""Lettering on pictures: lines that fit a width, set in fonts that have their characters, and their height."""

from __future__ import annotations

import re
import unicodedata
from bisect import bisect_right
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from itertools import groupby
from typing import NamedTuple

from PIL import ImageDraw, ImageFont

from convscope.images.fonts import UNSEEN, font_files, has, lacking


class Line(NamedTuple):
    """A line of a label. Where it is too long, the name loses its middle; what is around it stays."""

    name: str
    before: str = ""
    after: str = ""


@dataclass(frozen=True, eq=False)
class Face:
    """Fonts of a size: a character is of the first that has it, and where the text before goes on, of that one."""

    size: int
    fonts: tuple[ImageFont.FreeTypeFont, ...]
    having: Mapping[str, tuple[int, ...]]  # which fonts have a character

    def runs(self, text: str) -> list[tuple[ImageFont.FreeTypeFont, str]]:
        """The parts of a text, each with its font. Accents stay with their letters, which a font sets together."""
        if len(self.fonts) == 1:
            return [(self.fonts[0], text)]
        parts: list[tuple[int, str]] = []
        for character in text:
            having, before = self.having.get(character, (0,)), parts[-1][0] if parts else 0
            goes_on = character == " " or _joins(character)
            which = before if not having or (goes_on and before in having) else having[0]
            if parts and which == before:
                parts[-1] = which, parts[-1][1] + character
            else:
                parts.append((which, character))
        return [(self.fonts[which], part) for which, part in parts]

    def getlength(self, text: str) -> float:
        return sum(font.getlength(part) for font, part in self.runs(text))

    def getmetrics(self) -> tuple[int, int]:
        """How far it reaches above the line that letters stand on, and below."""
        above, below = zip(*(font.getmetrics() for font in self.fonts), strict=True)
        return max(above), max(below)


def font(size: int, text: str) -> Face:
    """Pillow's own font knows ASCII alone; other text is set in matplotlib's, and in the system's where that lacks it.

    A character that is in no font is a box: ``spelled`` or ``class_label`` comes before.
    """
    if text.isascii():
        return Face(size, (_sized(None, size),), {})
    return _face(size, frozenset(text) | {" ", "…"})


@lru_cache(maxsize=64)
def _face(size: int, characters: frozenset[str]) -> Face:
    files = font_files(characters)
    having = {c: tuple(i for i, file in enumerate(files) if has(file, c)) for c in characters}
    return Face(size, tuple(_sized(file, size) for file in files), having)


@lru_cache(maxsize=64)
def _sized(file: str | None, size: int) -> ImageFont.FreeTypeFont:
    return ImageFont.load_default(size) if file is None else ImageFont.truetype(file, size)  # type: ignore[return-value]


# --- what is written where no font has the characters


def spelled(text: str) -> str:
    """One line that can be drawn: emoji that no font has are given by their names, other characters by their codes."""
    text = one_line(text)
    if text.isascii():
        return text
    files, missing = font_files(text), set(lacking(text))
    text = "".join(c for c in text if c not in UNSEEN or (not missing and any(has(file, c) for file in files)))
    parts = [(lacks, list(part)) for lacks, part in groupby(text, missing.__contains__)]
    return "".join(f"[{' '.join(map(_called, part))}]" if lacks else "".join(part) for lacks, part in parts)


def class_label(name: str, index: int) -> str:
    """A class's name as it can be drawn; where it would take codes, its number instead."""
    text = one_line(name)
    missing = set(lacking(text))
    if not any(_called(c).startswith("U+") for c in missing):
        return spelled(text)
    rest = " ".join(word for word in text.split() if missing.isdisjoint(word))
    return f"class {index}" + (f" ({rest})" if any(c.isalnum() for c in rest) else "")


def font_remark(texts: Iterable[str]) -> str | None:
    """What to tell somebody whose names no font on the machine has; None where all can be drawn."""
    text = " ".join(texts)
    if text.isascii() or not (missing := lacking(one_line(text))):
        return None
    some = ", ".join(missing[:5]) + (f" and {len(missing) - 5:,} more" if len(missing) > 5 else "")
    fonts = " and ".join(dict.fromkeys(map(_font_for, missing)))
    return (
        f"no font on this machine has the characters {some}: pictures give the numbers of such classes, from 0 in "
        f"their order, and codes for characters of other names; install {fonts} to see them"
    )


def _called(character: str) -> str:
    name = unicodedata.name(character, "") if unicodedata.category(character) == "So" else ""
    return name.lower() or f"U+{ord(character):04X}"


def _font_for(character: str) -> str:
    if not _called(character).startswith("U+"):
        return "Noto Emoji"
    script = unicodedata.name(character, "").split(" ")[0]
    if script in ("CJK", "HIRAGANA", "KATAKANA", "HANGUL", "BOPOMOFO", "IDEOGRAPHIC", "FULLWIDTH", "HALFWIDTH"):
        return "Noto Sans CJK"
    return f"Noto Sans {script.title()}" if unicodedata.category(character)[0] in "LM" else "Noto Sans"


# --- lines


def line_height(font: Face) -> int:
    return sum(font.getmetrics()) + 1


def one_line(text: str) -> str:
    """Text that a font can draw: no control characters, no halves of characters, accents joined to their letters."""
    text = unicodedata.normalize("NFC", text).encode("utf-8", "replace").decode("utf-8")
    return " ".join("".join(c if c.isprintable() or c in UNSEEN else " " for c in text).split())


def wrap(text: str, font: Face, width: int, most: int) -> list[str]:
    """Lines that fit the width, broken after spaces and punctuation, inside words only if need be; at most ``most``."""
    rest = one_line(text)
    lines: list[str] = []
    while rest:
        if len(lines) == most - 1 or font.getlength(rest) <= width:
            lines.append(_beginning(rest, font, width))
            break
        fits = _fitting(rest, font, width)
        breaks = [m.end() for m in re.finditer(r"[\s_\-/.:,;]", rest[: fits + 1]) if m.end() <= fits or m[0] == " "]
        cut = breaks[-1] if breaks else fits
        lines.append(rest[:cut].rstrip())
        rest = rest[cut:].lstrip()
    return lines


def shorten(text: str, font: Face, width: float) -> str:
    """The text if it fits, or else without its middle: names often begin, or end, alike."""
    if font.getlength(text) <= width or len(text) < 3:
        return text
    lengths = range(2, len(text))  # of what is kept
    fits = bisect_right(lengths, width, key=lambda kept: font.getlength(_without_middle(text, kept)))
    return _without_middle(text, lengths[max(fits - 1, 0)])


def fitted(line: Line, font: Face, width: float) -> str:
    """A line of a label within the width."""
    before, after = spelled(line.before + "|")[:-1], spelled("|" + line.after)[1:]  # the bar keeps their spaces
    room = width - font.getlength(before + after)
    return _beginning(f"{before}{shorten(spelled(line.name), font, room)}{after}", font, width)


def _without_middle(text: str, kept: int) -> str:
    end = text[len(text) - kept // 2 :].lstrip()
    while end and _joins(end[0]):  # its letter is gone
        end = end[1:]
    return f"{text[: kept - kept // 2].rstrip()}…{end}"


def _joins(character: str) -> bool:
    """Whether it belongs to the character before: accents, vowel signs, joiners."""
    return character in UNSEEN or unicodedata.category(character).startswith("M")


def _fitting(text: str, font: Face, width: float) -> int:
    """How many leading characters fit, at least one; none is parted from its accents."""
    count = 1
    while count < len(text) and font.getlength(text[: count + 1]) <= width:
        count += 1
    whole = count
    while whole > 1 and whole < len(text) and _joins(text[whole]):
        whole -= 1
    return whole if whole > 1 or count == 1 else count


def _beginning(text: str, font: Face, width: float) -> str:
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
    font: Face,
    left: int,
    top: int,
    ink: tuple[int, int, int],
    centred: int | None = None,
) -> None:
    above = font.getmetrics()[0]
    for i, line in enumerate(lines):
        x = left if centred is None else left + (centred - font.getlength(line)) / 2
        for part_font, part in font.runs(line):
            pen.text((x, top + i * line_height(font) + above), part, font=part_font, fill=ink, anchor="ls")
            x += part_font.getlength(part)
