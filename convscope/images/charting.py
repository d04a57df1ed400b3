"""Charts the same on every machine: matplotlib's own defaults whatever a user's matplotlibrc says, and fonts that have
the characters of the names.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from PIL import Image

from convscope.images import fonts

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@contextmanager
def defaults() -> Iterator[None]:
    """Matplotlib as it comes, and quiet about the joiners that its font lacks."""
    import matplotlib

    with matplotlib.rc_context(), warnings.catch_warnings():
        matplotlib.rcdefaults()
        matplotlib.rcParams["svg.hashsalt"] = "convscope"  # else the names inside are random
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        yield


def use_fonts_for(text: str) -> None:
    """Let matplotlib fall back on fonts that have the text's characters, until the defaults are left."""
    import matplotlib
    from matplotlib.font_manager import FontProperties, fontManager

    families = []
    for file in fonts.font_files(text):
        if not any(entry.fname == file for entry in fontManager.ttflist):
            fontManager.addfont(file)
        families.append(FontProperties(fname=file).get_name())
    matplotlib.rcParams["font.family"] = families


def drawn(figure: Figure, dots: int) -> Image.Image:
    """A figure as a picture, at so many dots an inch."""
    with io.BytesIO() as buffer:
        figure.savefig(buffer, format="png", dpi=dots)
        return Image.open(buffer).convert("RGB")
