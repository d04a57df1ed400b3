"""A picture for a notebook: as PNG, or as a matplotlib figure."""

from __future__ import annotations

import io
from typing import Any

from PIL import Image


def png_of(picture: Image.Image) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    return buffer.getvalue()


def figure_of(picture: Image.Image) -> Any:
    """The picture alone, a pixel a pixel at 100 dots an inch."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(picture.width / 100, picture.height / 100), dpi=100)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.imshow(picture)
    axes.axis("off")
    return figure
