"""Fonts made for the tests, and machines that have no others."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from fontTools.fontBuilder import FontBuilder
from fontTools.pens.ttGlyphPen import TTGlyphPen
from matplotlib.font_manager import fontManager

from convscope.images import fonts, lettering


def bar(tall: int) -> TTGlyphPen:
    """A glyph: an upright bar of its own height, told from a box and from other glyphs by it."""
    pen = TTGlyphPen(None)
    for i, point in enumerate([(100, 0), (100, tall), (800, tall), (800, 0)]):
        (pen.lineTo if i else pen.moveTo)(point)
    pen.closePath()
    return pen


def font_with(characters: str, file: Path, family: str = "Own") -> str:
    """A font that has these characters and the space alone."""
    heights = {c: 200 + 600 * i // len(characters) for i, c in enumerate(characters)}
    builder = FontBuilder(1000, isTTF=True)
    names = {ord(c): f"u{ord(c):04x}" for c in characters}
    builder.setupGlyphOrder([".notdef", "space", *names.values()])
    builder.setupCharacterMap({32: "space"} | names)
    empty = TTGlyphPen(None).glyph()
    drawn = {names[ord(c)]: bar(tall).glyph() for c, tall in heights.items()}
    builder.setupGlyf({".notdef": bar(900).glyph(), "space": empty} | drawn)
    builder.setupHorizontalMetrics(dict.fromkeys([".notdef", "space", *names.values()], (900, 100)))
    builder.setupHorizontalHeader(ascent=900, descent=-200)
    builder.setupNameTable({"familyName": family, "styleName": "Regular", "fullName": family, "psName": family})
    builder.setupOS2(sTypoAscender=900, sTypoDescender=-200, usWinAscent=900, usWinDescent=200)
    builder.setupPost()
    file.parent.mkdir(parents=True, exist_ok=True)
    builder.save(file)
    return str(file)


@contextmanager
def only_fonts() -> Iterator[list[str]]:
    """A list of the files of a machine's fonts, whatever this one has: none but matplotlib's own, to begin with."""
    files: list[str] = []
    caches = (fonts._files, lettering._face, fontManager._findfont_cached)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fonts, "known_files", lambda: [])
        patch.setattr(fonts, "installed_files", lambda: files)
        patch.setattr(fontManager, "ttflist", list(fontManager.ttflist))
        for cache in caches:
            cache.cache_clear()
        yield files
    for cache in caches:
        cache.cache_clear()
