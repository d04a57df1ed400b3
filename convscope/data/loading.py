"""From a catalog to batches of canvases, for any number of workers the same."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from types import TracebackType
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler, get_worker_info

from convscope.data.augment import Augmentation
from convscope.data.catalog import Catalog
from convscope.data.listing import Refused
from convscope.data.scan import cores, why
from convscope.data.store import Arrays
from convscope.errors import ConvscopeError, UsageError
from convscope.images.frame import Framing
from convscope.progress import track

IN_MEMORY = 2**30  # bytes of canvases that are kept instead of being read again every epoch
CHUNK = 32
AHEAD = 4  # batches that each worker has ready
_ENDING = {getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)}
_HEARD = {signal.SIGTERM} if hasattr(signal, "sigtimedwait") else set()  # by a worker, from its main process alone


class Batch(NamedTuple):
    """Photos that go through the network together. ``lost``: those that could not be read any more."""

    images: Tensor  # uint8 "b c h w"
    labels: Tensor  # int64 "b"
    rows: np.ndarray  # of the catalog
    lost: tuple[Refused, ...] = ()


class Wanted(NamedTuple):
    """What the loader is asked for: rows of the catalog, and the epoch, which the augmentation depends on."""

    epoch: int
    rows: np.ndarray


@dataclass(frozen=True, eq=False)
class Photos(Dataset[Batch]):
    """Batches by what is wanted. A function of it alone: not of the order, the workers or what came before."""

    catalog: Catalog
    framing: Framing
    channels: int
    augmentation: Augmentation = field(default_factory=Augmentation)
    seed: int = 0
    background: str = "white"
    canvases: Tensor | None = None  # uint8 "n c h w", of all photos: then none is read
    absent: tuple[Refused | None, ...] = ()  # of those, what could not be read

    def __post_init__(self) -> None:
        if self.framing.size is None:
            raise UsageError("photos of different sizes cannot be one batch: give the network's canvas, --size")

    def __getitem__(self, wanted: Wanted) -> Batch:
        epoch, rows = wanted
        labels = torch.from_numpy(self.catalog.labels[rows].astype(np.int64))
        if self.canvases is not None:
            images, lost = self.canvases[torch.from_numpy(rows)], []
            if self.absent:
                lost = [(i, self.absent[row]) for i, row in enumerate(rows.tolist()) if self.absent[row] is not None]
        else:
            images, lost = self._read(rows, epoch)
        keys = self.catalog.hashes[rows, 0]  # what randomness is a function of: the content
        if lost:
            whole = np.setdiff1d(np.arange(len(rows)), [i for i, _ in lost])
            kept = torch.from_numpy(whole)
            images, labels, rows, keys = images[kept], labels[kept], rows[whole], keys[whole]
        if self.augmentation.on_canvas and len(rows):
            images = self.augmentation.apply(images, keys, seed=self.seed, epoch=epoch)
        return Batch(images, labels, rows, tuple(why for _, why in lost if why is not None))

    def _read(self, rows: np.ndarray, epoch: int) -> tuple[Tensor, list[tuple[int, Refused | None]]]:
        assert self.framing.size is not None
        images = torch.zeros(len(rows), self.channels, *self.framing.size, dtype=torch.uint8)
        lost: list[tuple[int, Refused | None]] = []
        for i, row in enumerate(rows.tolist()):
            found = self.one(row, epoch)
            if isinstance(found, Refused):
                lost.append((i, found))
            else:
                images[i] = found
        return images, lost

    def one(self, row: int, epoch: int) -> Tensor | Refused:
        """A photo's canvas, or why it cannot be had: the scan read it, but that may be long ago."""
        try:
            photo = self.catalog.store.photo(row, self.background)
            part = None
            if self.augmentation.crop and self.framing.size is not None:
                key = int(self.catalog.hashes[row, 0])
                part = self.augmentation.box(
                    key, photo.height, photo.width, self.framing.size, seed=self.seed, epoch=epoch
                )
            return self.framing.canvas(photo, self.channels, part)
        except (ConvscopeError, OSError) as error:
            name, label = self.catalog.store.names[row], int(self.catalog.labels[row])
            reason = f"cannot be read any more: {why(error, name)}"
            return Refused(name, reason, self.catalog.classes[label] if label >= 0 else "")

    def in_memory(self, limit: int = IN_MEMORY) -> Photos:
        """With the canvases read once and kept, if they fit into ``limit`` bytes and are the same in every epoch."""
        assert self.framing.size is not None
        height, width = self.framing.size
        count = len(self.catalog)
        if self.canvases is not None or self.augmentation.crop or count * self.channels * height * width > limit:
            return self
        store = self.catalog.store
        if isinstance(store, Arrays):
            grey, sides = store.pixels.ndim == 3, store.pixels.shape[1:3]
            if grey == (self.channels == 1) and self.framing.place(*sides).resized == sides == (height, width):
                pixels = torch.from_numpy(np.require(store.pixels, requirements=("C", "W")))  # IDX files' are not
                return replace(self, canvases=pixels[:, None] if grey else pixels.permute(0, 3, 1, 2))
        canvases = torch.zeros(count, self.channels, height, width, dtype=torch.uint8)
        absent: list[Refused | None] = [None] * count
        rows = [range(i, min(i + CHUNK, count)) for i in range(0, count, CHUNK)]
        with ThreadPoolExecutor(cores(), "canvases") as pool:
            for part in track_all(pool, self, rows):
                for row, found in part:
                    if isinstance(found, Refused):
                        absent[row] = found
                    else:
                        canvases[row] = found
        return replace(self, canvases=canvases, absent=tuple(absent) if any(absent) else ())


def track_all(
    pool: ThreadPoolExecutor, photos: Photos, rows: Sequence[range]
) -> Iterator[list[tuple[int, Tensor | Refused]]]:
    """The canvases of rows, in order, a few parts ahead."""
    ahead = 2 * cores() + 1
    waiting = [pool.submit(_several, photos, part) for part in rows[:ahead]]
    try:
        for number, _ in enumerate(track(rows, "photos read", weigh=len)):
            found = waiting.pop(0).result()
            if number + ahead < len(rows):
                waiting.append(pool.submit(_several, photos, rows[number + ahead]))
            yield found
    finally:
        for future in waiting:
            future.cancel()


def _several(photos: Photos, rows: range) -> list[tuple[int, Tensor | Refused]]:
    return [(row, photos.one(row, 0)) for row in rows]


def workers_for(photos: Photos, asked: int | None = None, *, beside_gpu: bool = False) -> int:
    """How many processes read photos beside the one that trains: none where there is nothing to decode.

    What is in memory is augmented by the process that trains, which costs a hundredth of a step on a CPU; beside a GPU
    it would be waited for.
    """
    if asked is not None:
        return asked
    in_memory = photos.canvases is not None or isinstance(photos.catalog.store, Arrays)
    if in_memory and not (beside_gpu and photos.augmentation.on_canvas):
        return 0
    return min(cores(), 8) if cores() > 1 else 0


class Loader:
    """Reads batches ahead in ``workers`` processes, which live as long as this does."""

    def __init__(self, photos: Photos, workers: int = 0, *, pin: bool = False) -> None:
        self.photos, self._pin = photos, pin
        self._queue = _Queue()
        options: dict[str, Any] = {"persistent_workers": True, "prefetch_factor": AHEAD} if workers else {}
        self._loader: DataLoader[Batch] = DataLoader(
            photos,
            batch_size=None,
            sampler=self._queue,
            num_workers=workers,
            worker_init_fn=_quietly,
            generator=torch.Generator(),  # its own: the user's is not drawn from
            collate_fn=_sent,  # type: ignore[arg-type] # without a batch size it is given one item
            **options,
        )

    def batches(self, wanted: Sequence[np.ndarray], epoch: int = 0) -> Iterator[Batch]:
        """Batches of these rows, in this order."""
        self._queue.wanted = [Wanted(epoch, rows) for rows in wanted]
        with _uninterrupted():  # workers may begin here
            found = iter(self._loader)
        return map(self._received, found)

    def _received(self, batch: Batch) -> Batch:
        images, labels = torch.as_tensor(batch.images), torch.as_tensor(batch.labels)
        return batch._replace(images=images.pin_memory() if self._pin else images, labels=labels)

    def close(self) -> None:
        """End the workers now: left to the end of the process, they would be killed, and complain of it."""
        running = getattr(self._loader, "_iterator", None)
        if running is not None:
            running._shutdown_workers()
            self._loader._iterator = None


def _sent(batch: Batch) -> Batch:
    """A worker hands tensors on in shared memory, where that has room for all that may be under way; else arrays
    through a pipe. A container often has little of it, and where a batch does not fit everything waits for ever."""
    worker = get_worker_info()
    if worker is None or _shared_memory() > 2 * batch.images.nbytes * AHEAD * (worker.num_workers + 1):
        return batch
    return batch._replace(images=batch.images.numpy(), labels=batch.labels.numpy())  # type: ignore[arg-type]


def _shared_memory() -> int:
    """Bytes that are free there; 0 where it is not known."""
    try:
        found = os.statvfs("/dev/shm")
    except (OSError, AttributeError):  # not Linux
        return 0
    return found.f_bavail * found.f_frsize


@contextmanager
def _uninterrupted() -> Iterator[None]:
    """Keep signals waiting: they would end a worker that has not yet come to ignore them."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _ENDING)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


class _Queue(Sampler[Wanted]):
    """What is wanted next; looked at anew each time the loader is asked to begin."""

    def __init__(self) -> None:
        self.wanted: Sequence[Wanted] = ()

    def __iter__(self) -> Iterator[Wanted]:
        return iter(self.wanted)

    def __len__(self) -> int:
        return len(self.wanted)


def _quietly(_: int) -> None:
    """Signals are the main process's to answer: terminals and schedulers send them to all processes of a job.

    Were a worker to die of one, the main process would lose the batch that it still waits for.
    """
    for number in _ENDING:
        signal.signal(number, signal.SIG_DFL if number == signal.SIGTERM else signal.SIG_IGN)
    if hasattr(signal, "pthread_sigmask"):  # one that waited since the worker began is dropped now
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _ENDING - _HEARD)
        signal.pthread_sigmask(signal.SIG_BLOCK, _HEARD)
    sys.excepthook = _unless_left  # of the thread that hands over batches, alone
    parent, process = os.getppid(), multiprocessing.parent_process()
    main = parent if process is None or process.pid is None else process.pid
    threading.Thread(target=_end_with, args=(parent, main), daemon=True).start()


def _end_with(parent: int, main: int) -> None:
    """End when the main process says so, and with one that was killed: a batch that nobody takes would be waited for.

    The parent may be a server that forks for the main process.
    """
    while os.getppid() == parent:
        if not _HEARD:
            time.sleep(1)
        elif (heard := signal.sigtimedwait(_HEARD, 1)) is not None and heard.si_pid == main:
            break
    os._exit(1)


def _unless_left(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """A main process that ends while it is being handed a batch is no news."""
    if not issubclass(kind, ConnectionError | EOFError):
        sys.__excepthook__(kind, error, trace)


def pixels_of(images: Tensor) -> Tensor:
    """A batch's bytes as floats in [0, 1], which are nobody else's."""
    return images.to(torch.float32, copy=True).div_(255)  # a second allocation costs more than the arithmetic


def order(seed: int, epoch: int, rows: np.ndarray) -> np.ndarray:
    """The rows shuffled, by seed and epoch alone."""
    return np.random.Generator(np.random.Philox(key=[seed, epoch])).permutation(rows)


def balanced(seed: int, epoch: int, rows: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """As many rows, drawn so that every class that is there comes equally often, give or take one.

    Each class goes through all of its photos before one comes again.
    """
    rng = np.random.Generator(np.random.Philox(key=[seed, epoch]))
    present = np.unique(labels)
    share = np.full(len(present), len(rows) // len(present))
    share[rng.permutation(len(present))[: len(rows) % len(present)]] += 1
    drawn = []
    for label, count in zip(present.tolist(), share.tolist(), strict=True):
        own = rows[labels == label]
        rounds = [rng.permutation(own) for _ in range(-(-count // len(own)))]
        drawn.append(np.concatenate(rounds)[:count] if rounds else own[:0])
    return rng.permutation(np.concatenate(drawn))


def cut(rows: np.ndarray, size: int, *, drop_last: bool = False, least: int = 1) -> list[np.ndarray]:
    """Rows in batches of ``size``; the last one may be smaller, but one of less than ``least`` joins the one before."""
    parts = [rows[i : i + size] for i in range(0, len(rows), size)]
    if len(parts) < 2 or len(parts[-1]) == size:
        return parts
    if drop_last:
        return parts[:-1]
    return parts if len(parts[-1]) >= least else [*parts[:-2], np.concatenate(parts[-2:])]
