"""What a data set should be looked at for before anything learns from it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from convscope.data.catalog import Catalog, catalog
from convscope.data.listing import SPLITS
from convscope.data.scan import DEEP, GREY, ROTATED, TRANSPARENT
from convscope.data.sources import SourceOptions
from convscope.errors import some
from convscope.progress import reporting_unless_listened

IMBALANCE = 3.0  # times as many photos in the largest class as in the smallest, from which on the small one suffers
FEWEST = 3  # photos of a class: one to train, one to choose by, one to test
SMALLEST = 32  # pixels of the shorter side below which there is little to see


@dataclass(frozen=True)
class Finding:
    """One kind of thing that was found: how many photos, what it means, and which they are."""

    kind: str
    count: int
    text: str
    photos: tuple[str, ...]


def check(source: str | Path, **options: Any) -> tuple[Catalog, list[Finding]]:
    """What a data set is like, every photo of it decoded, and what should be mended before it is learned from.

    ``source``: what ``convscope.train`` takes. ``options``: how it is read, such as ``columns`` or ``root``.
    """
    with reporting_unless_listened():
        found = catalog(source, SourceOptions.of(options))
    return found, findings(found)


def findings(found: Catalog) -> list[Finding]:
    """Everything in a catalog that a person should know of; nothing of a data set without fault."""
    return [*_left_out(found), *_odd(found), *_copies(found), *_uneven(found)]


def _left_out(found: Catalog) -> Iterator[Finding]:
    reasons: dict[str, list[str]] = {}
    for one in found.refused:
        reasons.setdefault(one.reason, []).append(one.name)
    for reason, names in sorted(reasons.items(), key=lambda item: -len(item[1])):
        yield Finding("left out", len(names), f"left out: {reason}", tuple(names))


def _odd(found: Catalog) -> Iterator[Finding]:
    grey = (found.flags & GREY) != 0
    kinds = (
        ("rotated", (found.flags & ROTATED) != 0, "turned by their EXIF data; they are put upright"),
        ("alpha", (found.flags & TRANSPARENT) != 0, "with transparency; it is laid over white (--background)"),
        # Where all are grey, that is what they are.
        ("grey", grey & (not grey.all()), "grey among colour photos; a class should not be told by that"),
        ("deep", (found.flags & DEEP) != 0, "of more than 8 bits a channel; they are brought to 8"),
        ("small", np.minimum(found.height, found.width) < _smallest(found), "much smaller than the others"),
    )
    for kind, which, text in kinds:
        if which.any():
            yield Finding(kind, int(which.sum()), text, _names(found, np.flatnonzero(which)))


def _smallest(found: Catalog) -> float:
    """Sets that are small all through, as digits are, have no small photos."""
    typical = float(np.median(np.minimum(found.height, found.width))) if len(found) else 0.0
    return min(SMALLEST, typical / 2)


def _copies(found: Catalog) -> Iterator[Finding]:
    if not len(found):
        return
    _, which, counts = np.unique(found.hashes, axis=0, return_inverse=True, return_counts=True)
    which = which.ravel()
    several = counts[which] > 1
    if not several.any():
        return
    rows = np.flatnonzero(several)
    rows = rows[np.argsort(which[rows], kind="stable")]
    yield Finding(
        "duplicate",
        int(counts[counts > 1].sum() - (counts > 1).sum()),
        "the same as another photo; the split keeps such together",
        _names(found, rows),
    )
    for kind, values, text in (
        ("two classes", found.labels, "the same as a photo of another class: at most one of the labels is right"),
        ("two splits", found.given, "the same as a photo of another split: what is tested was trained on"),
    ):
        apart = _apart(which, values, rows)
        if len(apart):
            yield Finding(kind, len(apart), text, _names(found, apart))


def _apart(which: np.ndarray, values: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Of rows in groups, those whose group has more than one value; rows without a value (-1) aside."""
    rows = rows[values[rows] >= 0]
    pairs = np.unique(np.stack([which[rows], values[rows]], 1), axis=0)[:, 0]
    mixed = np.flatnonzero(np.bincount(pairs, minlength=1) > 1) if len(pairs) else pairs
    return rows[np.isin(which[rows], mixed)]


def _uneven(found: Catalog) -> Iterator[Finding]:
    counts = found.counts()
    if not len(counts) or not counts.sum():
        return
    few = [name for name, count in zip(found.classes, counts, strict=True) if count < FEWEST]
    if few:
        yield Finding(
            "few", len(few), f"classes with fewer than {FEWEST} photos: {some(few, 5)}; not every split has one", ()
        )
    low, high = int(counts.min()), int(counts.max())
    if low and high / low > IMBALANCE:
        small, large = found.classes[int(counts.argmin())], found.classes[int(counts.argmax())]
        yield Finding(
            "imbalance",
            len(counts),
            f"uneven: {large} has {high:,} photos, {small} {low:,}; train with --balance weights, or add photos",
            (),
        )


def _names(found: Catalog, rows: np.ndarray) -> tuple[str, ...]:
    return tuple(found.store.names[i] for i in rows.tolist())


def sizes(found: Catalog) -> str:
    """Heights and widths, in a few words."""
    common = Counter(zip(found.height.tolist(), found.width.tolist(), strict=True)).most_common(1)
    if not common:
        return "no photos"
    (height, width), count = common[0]
    if count == len(found):
        return f"all {width}x{height}"
    low = f"{int(found.width.min())}x{int(found.height.min())}"
    middle = f"{int(np.median(found.width))}x{int(np.median(found.height))}"
    return f"width x height from {low} to {int(found.width.max())}x{int(found.height.max())}, median {middle}"


def by_split(found: Catalog) -> dict[str, list[int]]:
    """Photos of each class in the source's own splits; all of them where it has none."""
    if not (found.given >= 0).any():
        return {"photos": found.counts().tolist()}
    labelled = found.labels >= 0
    return {
        name: np.bincount(found.labels[labelled & (found.given == i)], minlength=len(found.classes)).tolist()
        for i, name in enumerate(SPLITS)
        if (found.given == i).any()
    }
