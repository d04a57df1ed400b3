"""How alike two maps of one photo are."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from convscope.studies.extra import extra

WINDOW = 11  # of SSIM's Gaussian, in pixels
BRIGHTEST = 99  # per cent: what a picture's scale ends at, so that a single pixel does not set it
BLOCK = 3  # cells in a row of HOG's blocks
MEASURES = {
    "rank": "Spearman's rank correlation of the maps' magnitudes",
    "signed rank": "Spearman's rank correlation of the maps with their sign",
    "SSIM": "structural similarity of the maps' magnitudes, as their pictures show them",
    "HOG": "correlation of the same pictures' histograms of oriented gradients",
}


def ranks(values: np.ndarray) -> np.ndarray:
    """The rank of each value among all, from 1; equal ones share the mean of theirs.

    Not torchmetrics', whose sums overflow where most of a large map is equal, as rectified ones are.
    """
    _, place, count = np.unique(values, return_inverse=True, return_counts=True)
    shared: np.ndarray = (count.cumsum() - (count - 1) / 2)[place.reshape(values.shape)]
    return shared


def standard_ranks(map: np.ndarray) -> np.ndarray | None:
    """A map's ranks, less their mean, of length 1; None of one that is the same everywhere or not finite: it puts
    nothing before anything else."""
    if not np.isfinite(map).all() or map.min() == map.max():
        return None
    own = ranks(map.ravel())
    own = own - own.mean()
    length: np.ndarray = own / math.sqrt(own @ own)
    return length


def rank_correlation(one: np.ndarray | None, other: np.ndarray | None) -> float:
    """Spearman's, of two maps' ``standard_ranks``; NaN where one has none."""
    return math.nan if one is None or other is None else float(one @ other)


def stretched(map: np.ndarray) -> np.ndarray | None:
    """A map as its picture is: from its least value to that which 99 % do not exceed, clipped to [0, 1]. None of one
    that is the same everywhere or not finite."""
    if not np.isfinite(map).all() or map.min() == map.max():
        return None
    low, high = float(map.min()), float(np.percentile(map, BRIGHTEST))
    if high == low:
        high = float(map.max())
    shown: np.ndarray = ((map - low) / (high - low)).clip(0, 1)
    return shown


def needs_scikit_image(what: str) -> None:
    """Say so, where it is not there."""
    for module in ("skimage.feature", "skimage.metrics"):
        extra(module, "scikit-image", what)


def ssim(one: np.ndarray | None, other: np.ndarray | None) -> float:
    """Structural similarity (Wang et al. 2004) of two stretched maps, -1 to 1: a Gaussian window of 11 pixels.

    NaN where one has no picture, or where they are smaller than the window.
    """
    from skimage.metrics import structural_similarity

    if one is None or other is None or min(one.shape) < WINDOW:
        return math.nan
    how: dict[str, Any] = {"gaussian_weights": True, "use_sample_covariance": False}
    return float(structural_similarity(one, other, data_range=1.0, **how))


def hog(shown: np.ndarray | None, cell: int) -> np.ndarray | None:
    """Histograms of oriented gradients (Dalal & Triggs 2005) of a stretched map, by ``cell`` pixels: 9 orientations,
    blocks of 3x3 cells. None of a map that has no picture or less than a block."""
    from skimage.feature import hog as features

    if shown is None or min(shown.shape) < BLOCK * cell:
        return None
    found: np.ndarray = features(
        shown, orientations=9, pixels_per_cell=(cell, cell), cells_per_block=(BLOCK, BLOCK), block_norm="L2-Hys"
    )
    return found


def pearson(one: np.ndarray | None, other: np.ndarray | None) -> float:
    """The correlation of two lists of numbers; NaN where one is missing or all the same."""
    if one is None or other is None or one.min() == one.max() or other.min() == other.max():
        return math.nan
    return float(np.corrcoef(one, other)[0, 1])


@dataclass(frozen=True, eq=False)
class Sight:
    """What of a map is compared with another: its ranks, those with sign where it has one, its picture and HOG."""

    ranks: np.ndarray | None
    signed: np.ndarray | None
    picture: np.ndarray | None
    hog: np.ndarray | None
    blank: bool  # the same everywhere, which is no NaN

    @classmethod
    def of(cls, map: np.ndarray, signed: np.ndarray | None, cell: int) -> Sight:
        magnitude = np.abs(map)
        picture = stretched(magnitude)
        with_sign = None if signed is None else standard_ranks(signed)
        blank = bool(np.isfinite(map).all()) and picture is None
        return cls(standard_ranks(magnitude), with_sign, picture, hog(picture, cell), blank)

    def like(self, other: Sight) -> tuple[float, float, float, float]:
        """As ``MEASURES``; NaN for what cannot be said."""
        return (
            rank_correlation(self.ranks, other.ranks),
            rank_correlation(self.signed, other.signed),
            ssim(self.picture, other.picture),
            pearson(self.hog, other.hog),
        )
