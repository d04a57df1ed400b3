"""Small pieces of real photos, as files of every kind that people have, whole and broken."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from skimage import data

PHOTOS = tuple(Image.fromarray(photo) for photo in (data.chelsea(), data.coffee(), data.astronaut()))
ORIENTATION = 0x0112


def piece(number: int, height: int = 40, width: int = 56) -> Image.Image:
    """A piece of a photo; another number is another piece."""
    photo = PHOTOS[number % len(PHOTOS)]
    rng = np.random.default_rng(number)
    left, top = (int(rng.integers(0, most)) for most in (photo.width - width, photo.height - height))
    return photo.crop((left, top, left + width, top + height))


def encoded(image: Image.Image, form: str = "JPEG", **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, form, **options)
    return file.getvalue()


def turned(number: int, orientation: int) -> bytes:
    """A JPEG that its EXIF data says how to turn."""
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    return encoded(piece(number), exif=exif)


def sixteen(number: int) -> Image.Image:
    """A grey picture of 16 bits."""
    grey = np.asarray(piece(number).convert("L")).astype(np.uint16)
    return Image.fromarray(grey * 256 + 77)


def half(content: bytes) -> bytes:
    """What a copy leaves that was interrupted."""
    return content[: len(content) // 2]


def flipped(content: bytes, place: float = 0.5) -> bytes:
    """One bit is another, as a failing disk leaves it."""
    at = int(len(content) * place)
    return content[:at] + bytes([content[at] ^ 0x10]) + content[at + 1 :]


HEIC = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(200)


def folder(root: Path, files: dict[str, bytes]) -> Path:
    """These files below a folder."""
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return root
