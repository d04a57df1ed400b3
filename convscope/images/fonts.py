"""Which fonts have the characters of a text: matplotlib's own, then the system's; and what none of them has."""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import cache, lru_cache
from pathlib import Path

import numpy as np
from PIL import ImageFont

# Left out where no font has them, and never asked for: joiners, variation selectors, skin tones.
UNSEEN = frozenset(map(chr, (0x200C, 0x200D, *range(0xFE00, 0xFE10), *range(0x1F3FB, 0x1F400))))
NEVER = re.compile("lastresort|blank|tofu")  # fonts that have every character, as a box
UNSUITED = re.compile("bold|black|heavy|light|thin|medium|italic|oblique|cond|narrow|mono|serif|sun|song|ming|mincho")
PREFERRED = (  # by their files, without spaces and hyphens
    *("notosans", "sourcehansans", "pingfang", "hiragino", "msyh", "yugoth", "meiryo", "malgun", "applesdgothic"),
    *("leelaw", "nirmala", "thonburi", "kohinoor", "arialunicode", "wqy", "droidsansfallback", "notoemoji", "segui"),
)


def font_files(characters: Iterable[str]) -> tuple[str, ...]:
    """Files of fonts that have the characters between them: matplotlib's own, then those of the system it takes."""
    return _files(frozenset(c for c in characters if not c.isascii() and not c.isspace() and c not in UNSEEN))


@lru_cache(maxsize=256)
def _files(characters: frozenset[str]) -> tuple[str, ...]:
    own = _own()
    missing = {c for c in characters if not has(own, c)}
    if not missing:
        return (own,)
    files, left = _chosen(known_files(), missing)
    if left:  # the other list takes longer, and has what was installed since matplotlib made its own
        files, _ = _chosen({*known_files(), *installed_files()}, missing)
    return own, *files


def _chosen(files: Iterable[str], missing: set[str]) -> tuple[list[str], set[str]]:
    """Of the files those that have most of the characters, as few as can be, and what is missing still."""
    candidates, chosen = set(files), []
    while missing and (best := _best(candidates, missing)):
        candidates.remove(best)
        if taken := {c for c in missing if has(best, c) and _draws(best, c)}:
            chosen.append(best)
            missing = missing - taken
    return chosen, missing


def _best(files: Iterable[str], missing: Iterable[str]) -> str | None:
    """The font that has most of the characters, and of several the most suitable."""
    counts = {file: sum(has(file, c) for c in missing) for file in files}
    return min((file for file in files if counts[file]), key=lambda file: (-counts[file], *_rank(file)), default=None)


def _rank(file: str) -> tuple[int, int, str]:
    name = re.sub(r"[\W_]", "", Path(file).stem.lower())
    liked = next((i for i, known in enumerate(PREFERRED) if known in name), len(PREFERRED))
    return len(UNSUITED.findall(name.replace("sansserif", ""))), liked, file


def _own() -> str:
    import matplotlib  # only here: seldom needed

    return str(Path(matplotlib.get_data_path(), "fonts", "ttf", "DejaVuSans.ttf"))


def known_files() -> list[str]:
    """The fonts on matplotlib's list, which is as old as its cache."""
    from matplotlib.font_manager import fontManager

    return _usable(entry.fname for entry in fontManager.ttflist)


@lru_cache(maxsize=1)
def installed_files() -> list[str]:
    """The fonts in the system's folders, and a user's own: on Linux, macOS and Windows."""
    from matplotlib.font_manager import findSystemFonts

    return _usable(findSystemFonts())


def _usable(files: Iterable[str]) -> list[str]:
    return [file for file in files if not NEVER.search(re.sub(r"[\W_]", "", Path(file).stem.lower()))]


def has(file: str, character: str) -> bool:
    known = _characters(file)
    place = int(np.searchsorted(known, ord(character)))
    return place < len(known) and int(known[place]) == ord(character)


@cache
def _characters(file: str) -> np.ndarray:
    """The code points that a font has glyphs for, sorted; none where it cannot be read."""
    from matplotlib.ft2font import FT2Font

    try:
        return np.array(sorted(FT2Font(file).get_charmap()), np.uint32)
    except (OSError, RuntimeError, ValueError):
        return np.zeros(0, np.uint32)


def _draws(file: str, character: str) -> bool:
    """Whether ink comes of it: fonts of coloured pictures have no outlines."""
    try:
        return ImageFont.truetype(file, 20).getmask(character).getbbox() is not None
    except (OSError, ValueError):
        return False


def lacking(text: str) -> list[str]:
    """The characters of a text, in its order, that no font on the machine has."""
    if text.isascii():
        return []
    files = font_files(text)
    odd = dict.fromkeys(c for c in text if not c.isascii() and not c.isspace() and c not in UNSEEN)
    return [c for c in odd if not any(has(file, c) for file in files)]
