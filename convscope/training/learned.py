"""Which photos a run has learned from, by their content: so that what it is tested on can be told from them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from safetensors.numpy import load_file, save_file

from convscope.data.cache import replacing

LEARNED = "learned.safetensors"  # "hashes": int64 "n 2", the content of each photo


def write_learned(run: Path, hashes: np.ndarray, before: Path | None) -> None:
    """Note photos' hashes, and those that the run it goes on from had learned from."""
    every = np.concatenate([hashes, learned(before)]) if before is not None else hashes
    unique = np.unique(np.ascontiguousarray(every, np.uint64), axis=0)
    with replacing(run / LEARNED) as draft:
        save_file({"hashes": unique.view(np.int64)}, draft)


def learned(run: Path) -> np.ndarray:
    """uint64 "n 2": the photos that a run has learned from; none of a run that does not say."""
    try:
        return load_file(run / LEARNED)["hashes"].view(np.uint64)
    except Exception:  # there is none, or it is damaged, of which safetensors has errors of its own
        return np.zeros((0, 2), np.uint64)


def seen_by(run: Path, hashes: np.ndarray) -> np.ndarray:
    """Which of these photos a run has learned from."""
    pair = np.dtype([("a", np.uint64), ("b", np.uint64)])
    own, theirs = (np.ascontiguousarray(found).view(pair).ravel() for found in (hashes, learned(run)))
    return np.isin(own, theirs)
