"""Where the bytes of photos are: files, members of tar shards, or arrays that are in memory anyway."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from convscope.data.names import Names
from convscope.images.read import read_content


class Store(ABC):
    """Photos by their number. Small when pickled or forked: a data loader's workers each get one."""

    names: Names  # one a photo, by which people know it

    def __len__(self) -> int:
        return len(self.names)

    @abstractmethod
    def content(self, index: int) -> bytes:
        """What the photo consists of; two photos with the same content are the same photo. OSError if not there."""

    @abstractmethod
    def stamps(self) -> np.ndarray:
        """int64 "n 2": while a photo's two numbers (size, time of change) stay, so does its content. (-1, 0): gone."""

    @abstractmethod
    def take(self, rows: np.ndarray) -> Store:
        """The store of these photos alone, in this order."""

    def photo(self, index: int, background: str = "white") -> Image.Image:
        """The photo, upright: RGB, or L where it is grey all through. ImageError, OSError, UsageError if it is not."""
        return read_content(self.content(index), self.names[index], background=background)

    def path(self, index: int) -> Path | None:
        """The photo's file, where it has one of its own."""
        return None


@dataclass(frozen=True, eq=False)
class Files(Store):
    """Files below ``root``; names are relative to it, or absolute."""

    root: Path
    names: Names

    def content(self, index: int) -> bytes:
        return (self.root / self.names[index]).read_bytes()

    def stamps(self) -> np.ndarray:
        return np.array([_stamp(self.root / name) for name in self.names], np.int64).reshape(-1, 2)

    def take(self, rows: np.ndarray) -> Files:
        return replace(self, names=self.names[rows])

    def path(self, index: int) -> Path:
        return self.root / self.names[index]


def _stamp(path: Path) -> tuple[int, int]:
    """The time of change is that of the file's entry too: a file put in the place of another, or whose time was set,
    as unpacking does, is a changed one."""
    try:
        found = path.stat()
    except (OSError, ValueError):
        return -1, 0
    return found.st_size, (found.st_mtime_ns * 1_000_003 + found.st_ctime_ns) % 2**62


@dataclass(frozen=True, eq=False)
class Members(Store):
    """Members of tar files, read in place by where they begin and how long they are."""

    shards: Names
    names: Names
    shard: np.ndarray  # int32
    start: np.ndarray  # int64
    size: np.ndarray  # int64

    def content(self, index: int) -> bytes:
        wanted = int(self.size[index])
        # Opened each time: there may be more shards than files that a process may have open.
        with open(self.shards[int(self.shard[index])], "rb", buffering=0) as shard:
            found = os.pread(shard.fileno(), wanted, int(self.start[index]))
        if len(found) != wanted:
            raise OSError("its shard is shorter than it was")
        return found

    def stamps(self) -> np.ndarray:
        of_shard = np.array([_stamp(Path(shard)) for shard in self.shards], np.int64).reshape(-1, 2)
        changed = of_shard[:, 1] * 1_000_003 + of_shard[:, 0]  # a member changes with its shard
        gone = of_shard[self.shard, 0] < 0
        stamps = np.stack([self.size, changed[self.shard] + self.start], 1)
        return np.where(gone[:, None], np.array([-1, 0]), stamps)

    def take(self, rows: np.ndarray) -> Members:
        parts = {name: getattr(self, name)[rows] for name in ("names", "shard", "start", "size")}
        return replace(self, **parts)


@dataclass(frozen=True, eq=False)
class Arrays(Store):
    """Pictures of one size that are in memory: uint8 "n h w" (grey) or "n h w 3"."""

    pixels: np.ndarray
    names: Names

    def content(self, index: int) -> bytes:
        return self.pixels[index].tobytes()

    def stamps(self) -> np.ndarray:
        return np.zeros((len(self), 2), np.int64)  # never to be trusted: a scan is quick enough

    def take(self, rows: np.ndarray) -> Arrays:
        return replace(self, pixels=self.pixels[rows], names=self.names[rows])

    def photo(self, index: int, background: str = "white") -> Image.Image:
        return Image.fromarray(self.pixels[index])


def members(found: Sequence[tuple[str, str, int, int]]) -> Members:
    """A store of tar members from (shard, name, start, size), in this order."""
    shards = {shard: i for i, shard in enumerate(dict.fromkeys(shard for shard, *_ in found))}
    columns: Any = zip(*found, strict=True) if found else ((), (), (), ())
    shard, names, start, size = columns
    return Members(
        Names.of(shards),
        Names.of(names),
        np.array([shards[s] for s in shard], np.int32),
        np.array(start, np.int64),
        np.array(size, np.int64),
    )
