"""Numbers to colours. Only what is shown is scaled here; results keep their own values.

Maps are torch tensors (any device, any float type) or numpy arrays. NaN or infinity in one is an error, never a colour.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TypeAlias

import numpy as np
from PIL import Image
from torch import Tensor

from convscope.errors import ConvscopeError, UsageError, unknown
from convscope.types import Picture

Values: TypeAlias = Tensor | np.ndarray
Box: TypeAlias = tuple[int, int, int, int]  # top, left, bottom, right

LEVELS = 257  # odd, so that a diverging colour map has a middle for zero


def stretch(maps: Values) -> np.ndarray:
    """Each map "... h w" linearly from its own [min, max] to [0, 1]; a constant one stays as it is, clipped to that."""
    values = _numbers(maps, 2)
    low, high = values.min((-2, -1), keepdims=True), values.max((-2, -1), keepdims=True)
    flat = high == low
    return np.where(flat, values.clip(0, 1), (values - low) / np.where(flat, 1, high - low)).astype(np.float32)


def merge(maps: Values) -> np.ndarray:
    """Maps "... c h w" -> one "... h w" in [0, 1]: the sum of the stretched maps, stretched again."""
    return stretch(stretch(_numbers(maps, 3)).sum(-3, dtype=np.float64))


def squash(maps: Values) -> np.ndarray:
    """Any numbers to (0, 1) by the sigmoid, for looking at a map without regard to its own range."""
    return (0.5 + 0.5 * np.tanh(0.5 * _numbers(maps, 0))).astype(np.float32)


def robust_limit(values: Values, percent: float = 99.5) -> float:
    """The magnitude that ``percent`` of the values do not exceed, so that a few outliers do not set the scale.

    Values that are zero are not counted: what surrounds a small spot says nothing of its scale. Zero where all are.
    """
    magnitude = np.abs(_numbers(values, 0))
    magnitude = magnitude[magnitude > 0]
    return float(np.percentile(magnitude, percent)) if magnitude.size else 0.0


def grey(map: Values, *, limit: float | None = None) -> Picture:
    """A non-negative map "h w" from black (0, and whatever is below) to white (``limit``, or else its maximum)."""
    level = np.rint(255 * _share(_plane(map), limit)).astype(np.uint8)
    return np.repeat(level[..., None], 3, axis=-1)


def heat(map: Values, cmap: str = "inferno", *, limit: float | None = None) -> Picture:
    """A non-negative map "h w" in the colours of ``cmap``, from 0 to ``limit`` or else its maximum."""
    return _coloured(_share(_plane(map), limit), cmap)


def signed(map: Values, cmap: str = "RdBu_r", *, limit: float | None = None) -> Picture:
    """A signed map "h w" in diverging colours: zero is the middle, red above, blue below.

    The scale is symmetric and ends at ``limit``, or else where 99.5 % of the values lie (``robust_limit``).
    """
    values = _plane(map)
    return _coloured(0.5 + 0.5 * _signed_share(values, limit), cmap)


def pixels(raw: Values, *, limit: float | None = None) -> Picture:
    """Signed pixel attributions "c h w" (c is 1 or 3) as a picture: zero is mid-grey, scaled as in ``signed``."""
    values = _numbers(raw, 3)
    if values.ndim != 3 or values.shape[0] not in (1, 3):
        raise UsageError(f'pixel attributions are "1 h w" or "3 h w", got {_shape(values)}')
    level = np.rint(127.5 + 127.5 * _signed_share(values, limit)).astype(np.uint8)
    return np.ascontiguousarray(np.broadcast_to(level, (3, *level.shape[1:])).transpose(1, 2, 0))


def overlay(
    photo: Image.Image,
    map: Values,
    *,
    alpha: float = 0.75,
    cmap: str = "inferno",
    limit: float | None = None,
    seen: Box | None = None,
) -> Picture:
    """A non-negative map "h w" over the photo at the photo's size; the larger a value the more opaque, up to ``alpha``.

    The map covers the whole photo (one on the network's canvas goes through ``Placement.to_photo`` first); where it is
    smaller it is enlarged smoothly. Outside of ``seen``, which the network did not see, the photo is dimmed.
    """
    share = _share(_fitted(_plane(map), photo), limit)
    return _blend(photo, share, share, cmap, alpha, seen)


def overlay_signed(
    photo: Image.Image,
    map: Values,
    *,
    alpha: float = 0.8,
    cmap: str = "RdBu_r",
    limit: float | None = None,
    seen: Box | None = None,
) -> Picture:
    """A signed map "h w" over the photo as in ``overlay``: red is above zero, blue below, and zero leaves the photo.

    The photo is grey, as its own red and blue would be taken for the map's.
    """
    share = _signed_share(_fitted(_plane(map), photo), limit)
    return _blend(photo.convert("L"), 0.5 + 0.5 * share, np.abs(share), cmap, alpha, seen)


def _blend(
    photo: Image.Image, place: np.ndarray, strength: np.ndarray, cmap: str, alpha: float, seen: Box | None
) -> Picture:
    """Colours by their place in ``cmap``, as opaque as they are strong, and more so where middling, to be seen."""
    if not 0 <= alpha <= 1:
        raise UsageError(f"alpha is an opacity from 0 to 1, got {alpha:g}")
    picture = np.array(_dimmed(photo.convert("RGB"), seen))
    for start in range(0, len(picture), 256):  # band by band: as floats, a large photo would fill the memory
        band = slice(start, start + 256)
        opacity = (alpha * strength[band] ** 0.75)[..., None].astype(np.float32)
        under = picture[band].astype(np.float32)
        picture[band] = np.rint(under + opacity * (_coloured(place[band], cmap) - under))
    return picture


def _dimmed(photo: Image.Image, seen: Box | None) -> Image.Image:
    """The photo, dark and without colour outside of the box."""
    if seen is None:
        return photo
    top, left, bottom, right = seen
    if not (0 <= top < bottom <= photo.height and 0 <= left < right <= photo.width):
        size = f"{photo.height}x{photo.width}"
        raise UsageError(f"seen is top, left, bottom, right inside of the photo of {size} (h x w), got {seen}")
    dim = photo.convert("L").point([round(0.45 * level) for level in range(256)]).convert("RGB")
    dim.paste(photo.crop((left, top, right, bottom)), (left, top))
    return dim


def _fitted(values: np.ndarray, photo: Image.Image) -> np.ndarray:
    if values.shape == (photo.height, photo.width):
        return values
    small = Image.fromarray(values.astype(np.float32))
    return np.asarray(small.resize(photo.size, Image.Resampling.BICUBIC), dtype=np.float64)


def _share(values: np.ndarray, limit: float | None) -> np.ndarray:
    """Values as a share of the limit (or else of their maximum), in [0, 1]."""
    top = float(values.max()) if limit is None else _checked(limit)
    return (values / top).clip(0, 1) if top > 0 else np.zeros_like(values)


def _signed_share(values: np.ndarray, limit: float | None) -> np.ndarray:
    """Values as a share of the limit (or else of a robust magnitude), in [-1, 1]."""
    top = robust_limit(values) if limit is None else _checked(limit)
    return (values / top).clip(-1, 1) if top > 0 else np.zeros_like(values)


def _checked(limit: float) -> float:
    if not (np.isfinite(limit) and limit > 0):
        raise UsageError(f"limit is the value at the end of the scale and must be positive, got {limit:g}")
    return float(limit)


def _coloured(share: np.ndarray, cmap: str) -> Picture:
    return _table(cmap)[np.rint((LEVELS - 1) * share).astype(np.intp)]


@lru_cache(maxsize=16)
def _table(cmap: str) -> np.ndarray:
    import matplotlib  # only here: it costs more to import than to use

    if cmap not in matplotlib.colormaps:
        raise unknown("colour map", cmap, [name for name in matplotlib.colormaps if not name.endswith("_r")])
    return matplotlib.colormaps[cmap].resampled(LEVELS)(np.linspace(0, 1, LEVELS), bytes=True)[:, :3]


def _plane(map: Values) -> np.ndarray:
    values = _numbers(map, 2)
    if values.ndim != 2:
        raise UsageError(f'a map to draw is "h w", got {_shape(values)}; draw them one by one')
    return values


def _numbers(values: Values, least: int) -> np.ndarray:
    """Finite numbers as float64, in which no difference of float32 values overflows or vanishes."""
    if isinstance(values, Tensor):
        values = values.detach().cpu().double().numpy()
    numbers = np.asarray(values, dtype=np.float64)
    if numbers.ndim < least or numbers.size == 0:
        raise UsageError(f"expected maps with at least {least} dimensions and some pixels, got {_shape(numbers)}")
    bad = numbers.size - np.count_nonzero(np.isfinite(numbers))
    if bad:
        raise ConvscopeError(
            f"{bad} of {numbers.size} values of a map are NaN or infinite; check the network's weights and the input"
        )
    return numbers


def _shape(values: np.ndarray) -> str:
    return "a single number" if values.ndim == 0 else "shape " + " x ".join(map(str, values.shape))
