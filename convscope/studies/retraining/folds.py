"""Photos that are kept apart to be measured on, and those that are learned from, drawn so many a class."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from convscope.data.catalog import Catalog
from convscope.data.listing import NONE, SPLITS, TEST, TRAIN, VAL
from convscope.data.quotas import dense, divide, seeded, units
from convscope.errors import UsageError

DRAWN = "photos to be measured on were drawn alike in every class; copies and groups were not parted"
SHARE = 0.3  # of a class's photos are kept apart where nobody says how many are learned from


@dataclass(frozen=True, eq=False)
class Apart:
    """``of`` int8 "n": TRAIN for photos that may be learned from, TEST for those kept apart, NONE for the others.

    ``own``: whether the source itself says which. ``remark``: what was done, in words.
    """

    found: Catalog
    of: np.ndarray
    own: bool
    remark: str

    @property
    def test(self) -> np.ndarray:
        """Rows of the photos kept apart."""
        return np.flatnonzero(self.of == TEST)

    @property
    def pool(self) -> np.ndarray:
        """Rows of the photos that may be learned from."""
        return np.flatnonzero(self.of == TRAIN)

    def counts(self, kind: int) -> np.ndarray:
        """Photos of each class that are of a kind, TRAIN or TEST."""
        return np.bincount(self.found.labels[self.of == kind], minlength=len(self.found.classes))

    def drawn(self, each: int | None, seed: int) -> np.ndarray:
        """Rows of photos to learn from: ``each`` of every class, at random by the photos' contents; by default all.

        What a seed draws for a smaller number is among what it draws for a larger one.
        """
        if each is None:
            return self.pool
        return np.sort(_first(self.found, self.pool, each, seed))

    def split(self, rows: np.ndarray) -> np.ndarray:
        """int8 "n": the split in which ``rows`` are learned from."""
        of = np.where(self.of == TEST, TEST, NONE).astype(np.int8)
        of[rows] = TRAIN
        return of


def keep_apart(found: Catalog, *, most: int | None, leaving: int | None = None, seed: int = 0) -> Apart:
    """Keep photos of each class apart: the source's own test photos, or its validation photos where it has no test.

    Without such, of each class all but ``leaving``, or a share of them, are drawn; of either at most ``most``. Copies,
    and groups that belong together, are on one side. UsageError where a class has too few photos for that.
    """
    labelled = found.labels >= 0
    given = np.where(labelled, found.given, NONE)
    which = next((kind for kind in (TEST, VAL) if (given == kind).any()), None)
    if which is None:
        of, remark = _divided(found, labelled, most, leaving, seed), DRAWN
    else:
        pool = given == TRAIN if (given == TRAIN).any() else labelled & (given == NONE)
        of = np.where(pool, TRAIN, np.where(given == which, TEST, NONE)).astype(np.int8)
        both = len(np.intersect1d(_contents(found, of == TRAIN), _contents(found, of == TEST)))
        remark = f"those measured on are the source's own {SPLITS[which]} photos"
        remark += f", of which {both:,} are also among its training photos" if both else ""
        if most is not None:
            test = np.flatnonzero(of == TEST)
            of[np.setdiff1d(test, _first(found, test, most, seed))] = NONE
    apart = Apart(found, of, which is not None, remark)
    there = np.bincount(found.labels[labelled], minlength=len(found.classes))
    for kind, least, words in ((TRAIN, leaving or 1, "to learn from"), (TEST, 1, "to measure on")):
        short = np.flatnonzero((there > 0) & (apart.counts(kind) < least))
        if which is not None and kind == TEST:
            continue  # a class that its test does not have is not measured
        if len(short):
            has = int(apart.counts(kind)[short[0]])
            more = f" ({len(short) - 1:,} more classes have too few)" if len(short) > 1 else ""
            raise UsageError(
                f"{found.source}: class {found.classes[short[0]]!r} has {has} of its {there[short[0]]} photos {words}, "
                f"and {least} are needed{more}: ask for fewer, or leave the class out"
            )
    return apart


def _divided(found: Catalog, labelled: np.ndarray, most: int | None, leaving: int | None, seed: int) -> np.ndarray:
    total = np.bincount(found.labels[labelled], minlength=len(found.classes))
    kept = np.rint(total * SHARE) if leaving is None else total - leaving
    if most is not None:
        kept = np.minimum(kept, most)
    kept = np.where(total > 0, np.clip(kept, 1, np.maximum(total - 1, 1)), 0).astype(np.int64)
    order, content = seeded(seed, found.hashes, len(found))
    unit = units(content, None if found.groups is None else dense(found.groups))
    rows = order[labelled[order]]
    quotas = np.stack([total - kept, np.zeros_like(kept), kept], 1)
    of = np.full(len(found), NONE, np.int8)
    of[rows] = divide(found.labels[rows], unit[rows], quotas, exact=False)
    return of


def _first(found: Catalog, rows: np.ndarray, each: int, seed: int) -> np.ndarray:
    """The first ``each`` rows of every class, in the order that the seed gives to their contents."""
    order, _ = seeded(seed, found.hashes[rows], len(rows))
    labels = found.labels[rows[order]]
    taken = [np.flatnonzero(labels == label)[:each] for label in np.unique(labels)]
    return rows[order[np.concatenate(taken)]] if taken else rows[:0]


def _contents(found: Catalog, which: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(found.hashes[which]).view([("high", np.uint64), ("low", np.uint64)]).ravel()
