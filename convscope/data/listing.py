"""A listing: which photos a source names, and what it says of each, before any is opened."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from convscope.data.store import Store
from convscope.errors import UsageError

NONE, TRAIN, VAL, TEST = -1, 0, 1, 2
SPLITS = ("train", "val", "test")
WORDS = {  # what people call the three
    **dict.fromkeys(("train", "training", "trn"), TRAIN),
    **dict.fromkeys(("val", "valid", "validation", "dev", "eval"), VAL),
    **dict.fromkeys(("test", "testing", "tst"), TEST),
}


class Refused(NamedTuple):
    """A photo, or a line of a list, that is left out, and why."""

    name: str
    reason: str
    label: str = ""


@dataclass(frozen=True, eq=False)
class Listing:
    """What a source names. ``labels`` index ``classes``, -1 where a photo has none; ``given`` is the source's own
    split; ``groups`` keeps what belongs together (one patient, one cat) by a number."""

    source: str
    kind: str  # folder, list, table, idx, shards, set
    store: Store
    classes: tuple[str, ...]
    labels: np.ndarray  # int32
    given: np.ndarray  # int8: NONE, TRAIN, VAL or TEST
    groups: np.ndarray | None = None  # int64
    refused: tuple[Refused, ...] = ()
    remarks: tuple[str, ...] = ()  # what was assumed


def listing(
    source: str,
    kind: str,
    store: Store,
    labels: Iterable[str | None],
    *,
    splits: Sequence[str | None] | None = None,
    groups: Sequence[str] | None = None,
    refused: Sequence[Refused] = (),
    remarks: Sequence[str] = (),
    classes: Sequence[str] | None = None,
) -> Listing:
    """A listing from what a source says in words. ``classes``: the names in order, where the source or user gives them;
    otherwise those that occur, in the order of numbers if all are numbers, else of the alphabet."""
    words = list(labels)
    found = {word for word in words if word is not None}
    known = tuple(classes) if classes is not None else tuple(_ordered(found))
    index: dict[str | None, int] = {name: i for i, name in enumerate(known)} | {None: -1}
    if strange := sorted(found - index.keys()):
        raise UsageError(
            f"{source}: {strange[0]!r} is not among the {len(known)} classes ({', '.join(known[:6])}"
            + (", ...)" if len(known) > 6 else ")")
        )
    given = np.full(len(words), NONE, np.int8)
    if splits is not None:
        given = np.array([NONE if split is None else _split(split, source) for split in splits], np.int8)
    numbers: dict[str, int] = {}
    return Listing(
        source,
        kind,
        store,
        known,
        np.array([index[word] for word in words], np.int32),
        given,
        None if groups is None else np.array([numbers.setdefault(g, len(numbers)) for g in groups], np.int64),
        tuple(refused),
        tuple(remarks),
    )


def _ordered(names: Iterable[str]) -> list[str]:
    """In the order of numbers if all are, else of the alphabet: the same in every process."""
    names = sorted(names)
    if all(name.isascii() and name.isdecimal() and len(name) < 19 for name in names):
        names.sort(key=int)
    return names


def _split(word: str, source: str) -> int:
    if word.strip().casefold() not in WORDS:
        raise UsageError(f"{source}: {word!r} is no split: train, val or test")
    return WORDS[word.strip().casefold()]
