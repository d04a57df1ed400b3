"""Many strings in two arrays: a million file names cost their bytes, and forked workers never copy them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True, eq=False)
class Names(Sequence[str]):
    """Strings as one blob of UTF-8 and the place where each ends. File names that are no UTF-8 survive."""

    blob: np.ndarray  # uint8
    ends: np.ndarray  # int64

    @classmethod
    def of(cls, texts: Iterable[str]) -> Names:
        parts = [text.encode("utf-8", "surrogateescape") for text in texts]
        ends = np.cumsum(np.fromiter(map(len, parts), np.int64, len(parts)), dtype=np.int64)
        return cls(np.frombuffer(b"".join(parts), np.uint8), ends)

    def __len__(self) -> int:
        return len(self.ends)

    def __getitem__(self, index: Any) -> Any:
        """A string by its index; for an array of indices the Names of these."""
        if isinstance(index, (slice, np.ndarray)):
            return Names.of(self[int(i)] for i in np.arange(len(self))[index])
        index = range(len(self))[index]
        start = int(self.ends[index - 1]) if index else 0
        return self.blob[start : int(self.ends[index])].tobytes().decode("utf-8", "surrogateescape")

    def __iter__(self) -> Iterator[str]:
        return (self[i] for i in range(len(self)))
