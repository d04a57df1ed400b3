"""The scan: every photo is opened and decoded once, in parallel, before anything relies on it.

What was found is kept in the cache by name, size and time of change. So a scan that was interrupted goes on where it
was, and the next one opens only what is new or changed.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, fields
from hashlib import blake2b
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file, save_file

from convscope.data.cache import cache_folder, key_of, replacing
from convscope.data.listing import Listing
from convscope.data.names import Names
from convscope.data.store import Arrays, Store
from convscope.errors import ConvscopeError
from convscope.images.read import look_at, printable
from convscope.progress import track

SEEN, BROKEN, ROTATED, TRANSPARENT, GREY, DEEP = (1 << bit for bit in range(6))
FORMAT = "1"  # of the file in the cache; another one is not read
CHUNK = 16  # photos a task: enough to make its overhead small, few enough to spread
KEEP_EVERY = 10.0  # seconds; what is lost when the process is killed


@dataclass(frozen=True, eq=False)
class Facts:
    """What a scan found, an array an entry. ``reasons``: why a photo is broken, "" where it is not."""

    height: np.ndarray  # int32, upright
    width: np.ndarray  # int32
    flags: np.ndarray  # uint16
    hashes: np.ndarray  # uint64 "n 2", of the content
    reasons: list[str]

    @classmethod
    def empty(cls, count: int) -> Facts:
        whole = np.zeros(count, np.int32)
        return cls(whole, whole.copy(), np.zeros(count, np.uint16), np.zeros((count, 2), np.uint64), [""] * count)

    def put(self, index: int, found: Found) -> None:
        self.height[index], self.width[index], self.flags[index], self.hashes[index] = found[:4]
        self.reasons[index] = found[4]

    def adopt(self, rows: np.ndarray, other: Facts, others: np.ndarray) -> None:
        """Take over what another scan knew of the same photos."""
        for field in fields(self)[:4]:
            getattr(self, field.name)[rows] = getattr(other, field.name)[others]
        for row, other_row in zip(rows.tolist(), others.tolist(), strict=True):
            self.reasons[row] = other.reasons[other_row]


Found = tuple[int, int, int, tuple[int, int], str]


def cores() -> int:
    """The cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def content_hash(content: bytes) -> tuple[int, int]:
    digest = blake2b(content, digest_size=16).digest()
    return int.from_bytes(digest[:8], "little"), int.from_bytes(digest[8:], "little")


def scan(listing: Listing) -> Facts:
    """Facts of every photo of a listing. Broken ones are facts too; nothing is raised for them."""
    store = listing.store
    facts = Facts.empty(len(store))
    if isinstance(store, Arrays):
        _scan_arrays(store, facts)
        return facts
    stamps = store.stamps()
    place = cache_folder("scans") / f"{key_of(FORMAT, listing.kind, os.path.abspath(listing.source))}.safetensors"
    _recall(place, store.names, stamps, facts)
    missing = np.flatnonzero(facts.flags == 0)
    kept = Keeper(place, store.names, stamps, facts)
    try:
        for index, found in _looked(store, missing):
            facts.put(index, found)
            kept.now_and_then()
    finally:
        if len(missing):
            kept.now()
    return facts


def _scan_arrays(store: Arrays, facts: Facts) -> None:
    facts.height[:], facts.width[:] = store.pixels.shape[1:3]
    facts.flags[:] = SEEN | (GREY if store.pixels.ndim == 3 else 0)
    for index in range(len(store)):
        facts.hashes[index] = content_hash(store.content(index))


def _looked(store: Store, rows: np.ndarray) -> Iterator[tuple[int, Found]]:
    """Look at photos with a thread for each core: decoding lets go of Python's lock."""
    tasks = [rows[i : i + CHUNK] for i in range(0, len(rows), CHUNK)]
    workers = cores()
    with ThreadPoolExecutor(workers, "scan") as pool:
        waiting: list[Future[list[Found]]] = []
        try:
            for number, task in enumerate(track(tasks, "photos checked", weigh=len)):
                while len(waiting) + number < len(tasks) and len(waiting) <= 2 * workers:
                    waiting.append(pool.submit(_look_at_all, store, tasks[number + len(waiting)]))
                yield from zip(task.tolist(), waiting.pop(0).result(), strict=True)
        finally:
            for future in waiting:
                future.cancel()


def _look_at_all(store: Store, rows: np.ndarray) -> list[Found]:
    return [_look(store, index) for index in rows.tolist()]


def _look(store: Store, index: int) -> Found:
    nothing = (0, 0)
    try:
        content = store.content(index)
    except (OSError, ValueError) as error:
        return 0, 0, SEEN | BROKEN, nothing, why(error, store.names[index])
    digest = content_hash(content)
    name = store.names[index]
    try:
        look = look_at(content, name)
    except ConvscopeError as error:
        return 0, 0, SEEN | BROKEN, digest, why(error, name)
    flags = SEEN
    for flag, holds in zip((ROTATED, TRANSPARENT, GREY, DEEP), look[2:], strict=True):
        flags |= flag if holds else 0
    return look.height, look.width, flags, digest, ""


def why(error: Exception, name: str) -> str:
    """The reason alone: the name stands beside it wherever it is told."""
    reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
    reason = reason.removeprefix(printable(name)).lstrip(": ").removeprefix("is ")
    return reason[:1].lower() + reason[1:]


class Keeper:
    """Writes what a scan has found so far, seldom enough not to slow it down."""

    def __init__(self, place: Path, names: Names, stamps: np.ndarray, facts: Facts) -> None:
        self.place, self.names, self.stamps, self.facts = place, names, stamps, facts
        self.next = time.monotonic() + KEEP_EVERY

    def now_and_then(self) -> None:
        if time.monotonic() >= self.next:
            start = time.monotonic()
            self.now()
            took = time.monotonic() - start
            self.next = time.monotonic() + max(KEEP_EVERY, 20 * took)

    def now(self) -> None:
        """A cache that cannot be written is no cache; the scan itself goes on."""
        facts = self.facts
        reasons = Names.of(facts.reasons)
        arrays = {
            "names": self.names.blob,
            "name_ends": self.names.ends,
            "stamps": self.stamps,
            "height": facts.height,
            "width": facts.width,
            "flags": facts.flags,
            "hashes": facts.hashes,
            "reasons": reasons.blob,
            "reason_ends": reasons.ends,
        }
        try:
            with replacing(self.place) as draft:
                save_file({**arrays, "digest": _digest(arrays)}, draft)
        except Exception:  # a full disk, a folder that may not be written: safetensors has errors of its own
            self.next = float("inf")


def _recall(place: Path, names: Names, stamps: np.ndarray, facts: Facts) -> None:
    """Take over from an earlier scan what has the same name and stamp."""
    try:
        found = load_file(place)
        if not np.array_equal(found.pop("digest"), _digest(found)):
            return
        old = Facts(found["height"], found["width"], found["flags"], found["hashes"], [])
        old.reasons.extend(Names(found["reasons"], found["reason_ends"]))
        old_names, old_stamps = Names(found["names"], found["name_ends"]), found["stamps"]
    except Exception:  # no scan yet, or a damaged file, of which safetensors has errors of its own
        return
    if np.array_equal(old_names.blob, names.blob) and np.array_equal(old_names.ends, names.ends):
        rows = others = np.arange(len(names))
    else:
        _, rows, others = np.intersect1d(_fingerprints(names), _fingerprints(old_names), return_indices=True)
    read = (old.hashes[others] != 0).any(1)  # what could not be opened may be there today
    there = (stamps[rows, 0] >= 0) & (stamps[rows] == old_stamps[others]).all(1)
    same = read & there & (old.flags[others] != 0)
    facts.adopt(rows[same], old, others[same])


def _digest(arrays: dict[str, np.ndarray]) -> np.ndarray:
    """uint8: whatever a disk does to a file of facts, no wrong one is taken for true."""
    parts = (part for name, a in sorted(arrays.items()) for part in (name, a.dtype.str, a.shape, a.tobytes()))
    return np.frombuffer(key_of(*parts).encode(), np.uint8)


def _fingerprints(names: Names) -> np.ndarray:
    return np.array([content_hash(name.encode("utf-8", "surrogateescape"))[0] for name in names], np.uint64)
