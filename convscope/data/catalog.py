"""The catalog: the photos of a source that can be used, what is known of each, and what was left out and why."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from convscope.data.cache import key_of
from convscope.data.listing import Listing, Refused
from convscope.data.scan import BROKEN, Facts, scan
from convscope.data.sources import SourceOptions, open_source
from convscope.data.store import Store


@dataclass(frozen=True, eq=False)
class Catalog:
    """Photos by their number, in arrays: a million cost some 100 MB, and forked workers copy none of it.

    ``labels`` index ``classes``, -1 where a photo has none. ``refused``: what was left out, with the reason; photos
    that are here were decoded to the last pixel.
    """

    source: str
    kind: str
    store: Store
    classes: tuple[str, ...]
    labels: np.ndarray  # int32
    given: np.ndarray  # int8, the source's own split
    groups: np.ndarray | None  # int64
    height: np.ndarray  # int32, upright
    width: np.ndarray  # int32
    flags: np.ndarray  # uint16, of scan
    hashes: np.ndarray  # uint64 "n 2"
    refused: tuple[Refused, ...] = ()
    remarks: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.labels)

    def __repr__(self) -> str:
        return f"<{self.source}: {len(self):,} photos in {len(self.classes):,} classes, {len(self.refused):,} left out>"

    def counts(self) -> np.ndarray:
        """Photos of each class."""
        return np.bincount(self.labels[self.labels >= 0], minlength=len(self.classes))

    def take(self, rows: np.ndarray) -> Catalog:
        """The catalog of these photos alone, in this order; classes stay as they are."""
        arrays = {name: getattr(self, name)[rows] for name in ARRAYS}
        groups = None if self.groups is None else self.groups[rows]
        return replace(self, store=self.store.take(rows), groups=groups, **arrays)


ARRAYS = ("labels", "given", "height", "width", "flags", "hashes")


def catalog(source: str | Path, options: SourceOptions | None = None) -> Catalog:
    """List a source and decode every photo of it; see ``sources`` for what can be one.

    Photos that cannot be read are refused with the reason, and never keep anything from running. Long scans tell of
    their progress, can be cancelled, and go on where they were.
    """
    listed = open_source(str(source), options or SourceOptions())
    return catalog_of(listed, scan(listed))


def digest(found: Catalog) -> str:
    """Names, labels and contents of all photos, in one word."""
    labels = np.ascontiguousarray(found.labels)
    return key_of(found.store.names.blob.tobytes(), labels.tobytes(), found.hashes.tobytes(), found.classes)


def catalog_of(listed: Listing, facts: Facts) -> Catalog:
    """The photos of a listing that turned out whole."""
    broken = (facts.flags & BROKEN) != 0
    refused = tuple(
        Refused(
            listed.store.names[i], facts.reasons[i], listed.classes[listed.labels[i]] if listed.labels[i] >= 0 else ""
        )
        for i in np.flatnonzero(broken).tolist()
    )
    found = Catalog(
        listed.source,
        listed.kind,
        listed.store,
        listed.classes,
        listed.labels,
        listed.given,
        listed.groups,
        facts.height,
        facts.width,
        facts.flags,
        facts.hashes,
        (*listed.refused, *refused),
        listed.remarks,
    )
    return found.take(np.flatnonzero(~broken)) if broken.any() else found
