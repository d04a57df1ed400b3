"""A listing: which photos a source names, and what it says of each, before any is opened."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from convscope.data.store import Store

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
