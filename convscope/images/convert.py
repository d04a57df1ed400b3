"""From what files and arrays hold (any mode, depth, profile, transparency) to 8-bit RGB."""

from __future__ import annotations

import io
from functools import cache
from typing import Any

import numpy as np
from PIL import Image, ImageCms, ImageColor

from convscope.errors import ImageError, UsageError


def paper_colour(background: str) -> tuple[int, ...]:
    """A colour's name as RGB."""
    try:
        return ImageColor.getrgb(background)[:3]
    except ValueError:
        raise UsageError(f"unknown colour {background!r} (a CSS name such as white, or #rrggbb)") from None


def flatten(image: Image.Image, paper: tuple[int, ...], label: str) -> Image.Image:
    """Any mode -> RGB over the paper, in sRGB."""
    profile = image.info.get("icc_profile")
    if image.mode.startswith("I") or image.mode == "F":
        return _eight_bit(image, label).convert("RGB")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        colours = _to_srgb(image.convert("RGB"), profile)
        return Image.composite(colours, Image.new("RGB", image.size, paper), image.getchannel("A"))
    return _to_srgb(image if image.mode in ("L", "RGB", "CMYK") else image.convert("RGB"), profile)


def _eight_bit(image: Image.Image, label: str) -> Image.Image:
    """Grey of 16 or 32 bits -> 8 bits, over the range that its type or else its values span."""
    values = np.asarray(image, dtype=np.float64)
    if not np.isfinite(values).all():
        raise ImageError(f"{label} holds NaN or infinite values; replace them first")
    low, high = float(values.min()), float(values.max())
    tops = {"F": (1.0, 255.0), "I": (255.0, 65535.0)}.get(image.mode, (65535.0,))
    top = next((top for top in tops if low >= 0 and high <= top), None)
    if top is not None:
        low, high = 0.0, top
    return Image.fromarray(np.rint((values - low) * (255 / max(high - low, 1e-300))).astype(np.uint8))


def _to_srgb(image: Image.Image, profile: bytes | None) -> Image.Image:
    """RGB as a screen shows it. A profile that is broken, or of another kind than the image, is passed over."""
    if profile:
        try:
            given = ImageCms.ImageCmsProfile(io.BytesIO(profile))
            if not ImageCms.getProfileDescription(given).startswith("sRGB"):  # converting would only add rounding
                converted = ImageCms.profileToProfile(image, given, _srgb(), outputMode="RGB")
                return image.convert("RGB") if converted is None else converted
        except (ImageCms.PyCMSError, OSError, ValueError, TypeError):
            pass
    return image.convert("RGB")


@cache
def _srgb() -> Any:
    return ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB"))


def from_array(array: np.ndarray, label: str) -> Image.Image:
    """An array "h w", "h w 1", "h w 3" or "h w 4" (uint8, uint16, or floats in [0, 1]) as a PIL image of 8 bits."""
    takes = 'a photo is "h w", "h w 3" or "h w 4"'
    if array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[-1] not in (1, 3, 4)):
        shape = " x ".join(map(str, array.shape)) or "scalar"
        hint = "; move the channels last: array.transpose(1, 2, 0)" if array.ndim == 3 and array.shape[0] <= 4 else ""
        hint = "; pass one image of the batch" if array.ndim == 4 else hint
        raise UsageError(f"{label} is an array of shape {shape}, but {takes}{hint}")
    if array.size == 0:
        raise UsageError(f"{label} is an array without pixels, of shape {' x '.join(map(str, array.shape))}")
    if array.dtype == np.uint16:
        array = np.rint(array / 257.0).astype(np.uint8)
    elif array.dtype.kind == "f":
        array = np.rint(_unit(array, label) * 255).astype(np.uint8)
    elif array.dtype != np.uint8:
        raise UsageError(f"{label} is an array of {array.dtype}; a photo is uint8, uint16, or floats in [0, 1]")
    return Image.fromarray(np.ascontiguousarray(array[..., 0] if array.shape[2:] == (1,) else array))


def _unit(array: np.ndarray, label: str) -> np.ndarray:
    """Floats that lie in [0, 1] but for rounding: half a grey level over is what a resize leaves."""
    low, high = float(array.min()), float(array.max())
    if not (np.isfinite(low) and np.isfinite(high)):
        raise UsageError(f"{label} is an array with NaN or infinite values; a photo's floats lie in [0, 1]")
    if low < -0.5 / 255 or high > 1 + 0.5 / 255:
        hint = "; divide by 255" if low >= 0 and 1 < high <= 255 else ""
        raise UsageError(f"{label} is an array from {low:.4g} to {high:.4g}; a photo's floats lie in [0, 1]{hint}")
    return np.clip(array, 0, 1)
