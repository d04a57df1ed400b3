"""Pictures inside of the page: as data URIs, no larger than a screen shows."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass

from PIL import Image, features

PHOTO_SIDE = 1000  # longest side of a photo or overlay
SHEET_WIDTH = 1500
FEW_PIXELS = 100  # below, pixels are shown as squares instead of smoothed


@dataclass(frozen=True)
class Embedded:
    """A picture of a page. ``width``, ``height``: of what is embedded, in pixels."""

    uri: str
    width: int
    height: int

    @property
    def aspect(self) -> float:
        return self.width / self.height

    @property
    def coarse(self) -> bool:
        return max(self.width, self.height) < FEW_PIXELS


def embed(picture: Image.Image, *, side: int = PHOTO_SIDE, quality: int = 82) -> Embedded:
    """The picture, its longest side reduced to ``side`` where it is larger. Small pictures are kept without loss."""
    picture = picture.convert("RGB")
    if max(picture.size) > side:
        picture.thumbnail((side, side), Image.Resampling.LANCZOS)
    return Embedded(_uri(picture, quality), *picture.size)


def embed_sheet(picture: Image.Image) -> Embedded:
    """A contact sheet, which may be longer than it is wide."""
    if picture.width > SHEET_WIDTH:
        height = max(1, round(picture.height * SHEET_WIDTH / picture.width))
        picture = picture.resize((SHEET_WIDTH, height), Image.Resampling.LANCZOS)
    return embed(picture, side=max(picture.size), quality=70)


def _uri(picture: Image.Image, quality: int) -> str:
    lossless = max(picture.size) < FEW_PIXELS
    kind, settings = _format(picture, lossless, quality)
    buffer = io.BytesIO()
    picture.save(buffer, kind, **settings)
    return f"data:image/{kind.lower()};base64,{base64.b64encode(buffer.getvalue()).decode('ascii')}"


def _format(picture: Image.Image, lossless: bool, quality: int) -> tuple[str, dict[str, object]]:
    longest_of_webp = 16383
    if lossless:
        return "PNG", {"optimize": True}
    if features.check("webp") and max(picture.size) <= longest_of_webp:
        return "WEBP", {"quality": quality, "method": 2}  # more effort takes twice as long for a few percent
    return "JPEG", {"quality": quality, "optimize": True}
