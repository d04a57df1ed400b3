"""Where the faces of a photo are, and the cut to one of them."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from convscope.errors import ConvscopeError, UsageError
from convscope.images.convert import flatten

WINDOW = 24  # pixels, the side of the cascade's window
LONGEST = 1600  # of the reduced copy that is searched: a panorama must not take minutes
BORDER = 0.1  # of the short side: what the copy is widened by, for faces that fill their photo
# The first look is for anything like a face, at steps that find one somewhere near. The second counts, of some 7000
# windows around it, those that agree: nearly all faces get more than 30, nearly all that resembles one fewer. There
# are many more places for a small face than for a large one, and so more of them that resemble one: these need 45.
SIZES, STEP, NEAR = 1.1, 2, 0.4
CLOSE_SIZES = 1.08 ** np.arange(-3, 4)
TILTS = (-10, 10)
UPRIGHT_VOTES, VOTES, VOTES_IF_SMALL = 4, 30, 45
SMALL = 0.2  # of the short side


class Face(NamedTuple):
    """A face's box, from the brows to the chin, in the photo's pixels."""

    top: int
    left: int
    bottom: int
    right: int


def find_faces(photo: Image.Image, *, smallest: float = 0.1) -> list[Face]:
    """The frontal faces of a photo, the largest first (Liao 2007: a cascade of local binary patterns, scikit-image's).

    The cascade is asked on a reduced grey copy and its mirror image, and again, at close sizes and tilts, around what
    it found. Profiles, and heads tilted by more than some 15 degrees, are not found. ``smallest``: the least side of a
    face, as a share of the photo's short side; the time goes with the inverse of its square. A face of fewer than 24
    pixels is not found.
    """
    if not 0 < smallest <= 1:
        raise UsageError(f"smallest is a share of the photo's short side, over 0 up to 1: got {smallest}")
    cascade = _cascade()
    grey, scale, border = _reduced(photo, smallest)
    seen = [_second_look(cascade, grey, box) for box in _merged(_first_look(cascade, grey))]
    boxes = _distinct(sorted((found for found in seen if found is not None), reverse=True))
    faces = [_on_photo((box - (border, border, 0)) / scale, photo) for box in boxes]
    return sorted((face for face in faces if face is not None), key=lambda face: (face.top - face.bottom, face))


@cache
def _cascade() -> Any:
    try:
        from skimage.data import lbp_frontal_face_cascade_filename
        from skimage.feature import Cascade
    except ImportError:
        raise ConvscopeError("finding faces needs scikit-image: pip install 'convscope[faces]'") from None
    return Cascade(lbp_frontal_face_cascade_filename())


def _reduced(photo: Image.Image, smallest: float) -> tuple[Image.Image, float, int]:
    """The grey copy in which the smallest face is as large as the window, how much smaller it is, and its border."""
    if photo.mode not in ("L", "RGB"):
        photo = flatten(photo, (255, 255, 255), "the photo")
    scale = min(1.0, WINDOW / smallest / min(photo.size), LONGEST / max(photo.size))
    size = (max(1, round(photo.width * scale)), max(1, round(photo.height * scale)))
    if (times := int(0.5 / scale)) > 1:
        photo = photo.reduce(times)
    grey = np.asarray(photo.convert("L").resize(size, Image.Resampling.BILINEAR))
    border = round(BORDER * min(size))
    return Image.fromarray(np.pad(grey, border, mode="edge")), scale, border


def _hits(cascade: Any, grey: Image.Image, step: int) -> np.ndarray:
    """Windows that the cascade takes for a face, "n 2": top and left."""
    # One size of window, that which it was trained at: for others its own search rounds the features' places. It never
    # asks at the last row and column, hence one more of each. It sums in float32: around zero the sums stay exact.
    pixels = np.pad(np.asarray(grey, np.int64), ((0, 1), (0, 1)), mode="edge")
    pixels -= int(pixels.mean())
    only = {"min_size": (WINDOW, WINDOW), "max_size": (WINDOW + 1, WINDOW + 1), "scale_factor": 1.5}
    # A cluster for each window: its own merging depends on the order of the windows.
    apart = {"min_neighbor_number": 1, "intersection_score_threshold": 1.0}
    found = cascade.detect_multi_scale(pixels, step_ratio=step, **only, **apart)
    return np.array([(hit["r"], hit["c"]) for hit in found], np.float64).reshape(-1, 2)


def _first_look(cascade: Any, grey: Image.Image) -> np.ndarray:
    """Windows of all sizes, every other size on the mirror image, "n 3": top, left, side."""
    found = [np.zeros((0, 3))]
    sides = WINDOW * SIZES ** np.arange(100)
    for number, side in enumerate(sides[sides <= min(grey.size)]):
        scale = WINDOW / side
        level = grey.resize((round(grey.width * scale), round(grey.height * scale)), Image.Resampling.BILINEAR)
        hits = _hits(cascade, level, STEP) if number % 2 == 0 else _mirrored_hits(cascade, level, STEP)
        found.append(np.column_stack([hits / scale, np.full(len(hits), side)]))
    return np.concatenate(found)


def _mirrored_hits(cascade: Any, grey: Image.Image, step: int) -> np.ndarray:
    """The windows of the mirror image, where they are on the image itself. The cascade is not symmetric."""
    hits = _hits(cascade, grey.transpose(Image.Transpose.FLIP_LEFT_RIGHT), step)
    hits[:, 1] = grey.width - WINDOW - hits[:, 1]
    return hits


def _merged(boxes: np.ndarray) -> list[np.ndarray]:
    """Boxes "n 3" -> the mean of each that many others are near to, and these others; the largest crowd first."""
    near = _shared(boxes, boxes, union=True) >= NEAR
    left = np.ones(len(boxes), bool)
    merged = []
    while left.any():
        crowd = near[int(np.argmax((near & left).sum(1) * left))] & left
        merged.append(boxes[crowd].mean(0))
        left &= ~crowd
    return merged


def _shared(a: np.ndarray, b: np.ndarray, *, union: bool) -> np.ndarray:
    """What boxes "n 3" and "m 3" share, "n m": of their union, or of the smaller one."""
    spans = []
    for axis in (0, 1):
        start = np.maximum(a[:, None, axis], b[None, :, axis])
        end = np.minimum((a[:, axis] + a[:, 2])[:, None], (b[:, axis] + b[:, 2])[None])
        spans.append((end - start).clip(0))
    both = spans[0] * spans[1]
    areas = a[:, None, 2] ** 2, b[None, :, 2] ** 2
    return both / (areas[0] + areas[1] - both if union else np.minimum(*areas))


def _second_look(cascade: Any, grey: Image.Image, box: np.ndarray) -> tuple[int, tuple[float, ...]] | None:
    """How many windows around a box agree, and the box that they agree on; None where it is no face."""
    upright = [_around(cascade, grey, box, size, 0) for size in CLOSE_SIZES]
    agreed = np.concatenate(upright)
    if len(agreed) < UPRIGHT_VOTES:
        return None
    votes = len(agreed) + sum(len(_around(cascade, grey, box, size, tilt)) for size in CLOSE_SIZES for tilt in TILTS)
    short = min(grey.size) / (1 + 2 * BORDER)
    needed = VOTES_IF_SMALL if box[2] < SMALL * short else VOTES
    return (votes, tuple(np.median(agreed, 0).tolist())) if votes >= needed else None


def _around(cascade: Any, grey: Image.Image, box: np.ndarray, size: float, tilt: float) -> np.ndarray:
    """Windows of a size relative to the box's, up to a quarter of the box away from it, tilted both ways: "n 3"."""
    side = box[2] * size
    scale = WINDOW / side
    extent = round((side + box[2] / 2) * scale)
    row, col = box[:2] + box[2] / 2
    half = extent / scale / 2
    part = grey.transform(
        (extent, extent),
        Image.Transform.EXTENT,
        (col - half, row - half, col + half, row + half),
        Image.Resampling.BILINEAR,
    )
    if tilt:
        part = part.rotate(tilt, Image.Resampling.BILINEAR)
    hits = np.concatenate([_hits(cascade, part, 1), _mirrored_hits(cascade, part, 1)])
    return np.column_stack([hits / scale + (row - half, col - half), np.full(len(hits), side)])


def _distinct(found: Sequence[tuple[int, tuple[float, ...]]]) -> list[np.ndarray]:
    """Of boxes one in another, such as a mouth in a face, the one with the most votes. ``found``: by votes."""
    kept: list[np.ndarray] = []
    for _, box in found:
        if not kept or _shared(np.array([box]), np.array(kept), union=False).max() <= NEAR:
            kept.append(np.array(box))
    return kept


def _on_photo(box: np.ndarray, photo: Image.Image) -> Face | None:
    """The part of a box that is on the photo; None where most of it is not."""
    top, left, side = box
    rows = [round(min(max(row, 0), photo.height)) for row in (top, top + side)]
    cols = [round(min(max(col, 0), photo.width)) for col in (left, left + side)]
    seen = (rows[1] - rows[0]) * (cols[1] - cols[0])
    return Face(rows[0], cols[0], rows[1], cols[1]) if seen > side**2 / 2 else None


def crop_face(photo: Image.Image, face: Face, *, margin: float = 0.3, square: bool = True) -> Image.Image:
    """The face with a margin on each side, a share of the face's side; nothing is distorted or filled.

    ``square``: a square around the face's centre; where it does not fit it is shifted into the photo, and where it is
    larger than the photo's short side it is as large as this. Otherwise the margin ends where the photo does.
    """
    check_margin(margin)
    height, width = face.bottom - face.top, face.right - face.left
    if height < 1 or width < 1 or min(face) < 0 or face.bottom > photo.height or face.right > photo.width:
        raise UsageError(f"{tuple(face)} is no box (top, left, bottom, right) in a photo {photo.width}x{photo.height}")
    if not square:
        down, across = round(margin * height), round(margin * width)
        right, bottom = min(face.right + across, photo.width), min(face.bottom + down, photo.height)
        return photo.crop((max(face.left - across, 0), max(face.top - down, 0), right, bottom))
    side = min(round(max(height, width) * (1 + 2 * margin)), photo.width, photo.height)
    top = min(max((face.top + face.bottom - side) // 2, 0), photo.height - side)
    left = min(max((face.left + face.right - side) // 2, 0), photo.width - side)
    return photo.crop((left, top, left + side, top + side))


def check_margin(margin: float) -> None:
    if not 0 <= margin <= 10:
        raise UsageError(f"a margin is a share of the face's side, from 0 to 10: got {margin}")
