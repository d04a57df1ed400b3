"""Building an atlas: a pass over a catalog in batches, put away now and then, and gone on with after a kill.

Batches are always the same ones, and each of several processes takes every n-th. What is cut off after the last time of
putting away is done again, batch by batch as before: the result is that of a pass that nothing interrupted.
"""

from __future__ import annotations

import math
import platform
import re
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from accelerate import Accelerator

from convscope import __version__
from convscope.atlas.filing import read_figures, write_figures, write_units
from convscope.atlas.photos import fingerprint
from convscope.atlas.store import Store, alone
from convscope.atlas.streaming import Pass
from convscope.data.cache import key_of
from convscope.data.catalog import digest
from convscope.data.loading import Batch, Loader, Photos, cut, pixels_of, workers_for
from convscope.data.store import Members
from convscope.errors import Cancelled, ConvscopeError, UsageError
from convscope.images.own import make_own
from convscope.instrument.address import LOGITS
from convscope.instrument.receptive_field import Field, receptive_field
from convscope.instrument.state import undisturbed
from convscope.instrument.trace import trace
from convscope.instrument.weights import answers, weights_key
from convscope.models.classifier import Classifier
from convscope.parallel import from_first, gathered, led, most, on_own_device
from convscope.progress import cancelled, track

# Images in a batch: always the same ones, so that a pass that was cut off gives the same figures.
AT_ONCE = {"cpu": 32}  # elsewhere MANY
MANY = 256
SECONDS = 60.0  # between two times of putting away, or longer where that takes long; 0: after each batch
DONE, SIZE, COMPLETE, STATE, MADE_OF = "batches done", "batch", "complete", "state", "made of"
ALIKE = 0.02  # the answers of one network on two devices, one of which rounds products to ten bits
DUE, STOP, FAILED = 1, 2, 3  # what a process says after a batch, the most urgent last

T = TypeVar("T")


@dataclass(frozen=True, eq=False)
class Build:
    """What an atlas is made of, and where. ``told``: what is needed to find the model and the photos again."""

    classifier: Classifier
    photos: Photos
    layers: tuple[str, ...]
    folder: Path
    top: int = 9
    told: Mapping[str, Any] = field(default_factory=dict)

    def made_of(self) -> dict[str, str]:
        """Everything that figures depend on; another of it is another atlas."""
        classifier, photos = self.classifier, self.photos
        return {
            **identity(classifier),
            "photos": digest(photos.catalog),
            "framing": str((photos.framing, photos.channels, photos.background)),
            "layers": ",".join(self.layers),
            "top": str(self.top),
        }


def identity(classifier: Classifier) -> dict[str, str]:
    """What tells a classifier from any that answers otherwise."""
    return {
        "weights": weights_key(classifier.network),
        "network": key_of(re.sub(r" at 0x[0-9a-f]+", "", str(classifier.network))),
        "answers": " ".join(answers(classifier, [LOGITS], classifier.blank())),
        "normalisation": str((classifier.mean, classifier.std, str(classifier.dtype))),
    }


def differences(wanted: Mapping[str, str], there: Mapping[str, str]) -> list[str]:
    """What of an atlas is other than it should be. Answers may differ as much as those of two devices do."""
    other = [name for name, value in wanted.items() if name != "answers" and there.get(name) != value]
    if "answers" in wanted and not {"weights", "network", "normalisation"} & set(other):
        own, its = ([float(word) for word in one.get("answers", "").split()] for one in (wanted, there))
        if len(own) != len(its) or not all(math.isclose(*pair, rel_tol=ALIKE) for pair in zip(own, its, strict=True)):
            other.append("code")
    return other


def build(job: Build, *, workers: int | None = None, every: float = SECONDS) -> Path:
    """Make the atlas, or go on with it; its folder. Started by torchrun, the processes share the photos."""
    found = job.photos.catalog
    if not len(found):
        raise UsageError(f"{found.source} holds no photos")
    if not job.layers:
        raise UsageError("an atlas needs at least one layer")
    if job.top < 1:
        raise UsageError(f"top is the number of patches of each unit, at least 1, got {job.top}")
    with on_own_device(job.classifier, job.classifier.device) as accelerator:
        _build(job, workers, every, accelerator)
    return job.folder


def _build(job: Build, workers: int | None, every: float, accelerator: Accelerator) -> None:
    _agree(job, accelerator)
    with ExitStack() as stack:
        store = _led(accelerator, lambda: _opened(job, stack))
        done, complete, states, size = from_first(_so_far(store), accelerator)
        parts = cut(np.arange(len(job.photos.catalog)), size)
        if complete:
            return
        running = _figures(job, states, accelerator)
        if done < len(parts):
            _look(job, store, running, parts, done, workers, every, accelerator)
        # The files of all are there by now, and the first process puts them together.
        _led(accelerator, lambda: _finish(job, store))


def _agree(job: Build, accelerator: Accelerator) -> None:
    """Several processes look at one network and the same photos; one that is made anew differs in each."""
    if accelerator.num_processes == 1:
        return
    classifier, found = job.classifier, job.photos.catalog
    weights, photos = zip(*gathered((weights_key(classifier.network), digest(found)), accelerator), strict=True)
    if len(set(weights)) > 1:
        raise UsageError(f"{classifier.name} has other weights in each process: load some, weights= or --weights")
    if len(set(photos)) > 1:
        raise UsageError(f"{found.source} holds other photos for each process: let all of them see the same")


def _led(accelerator: Accelerator, work: Callable[[], T]) -> T | None:
    """What the first process does, whose errors are those of all: none is left waiting for it."""
    found: T | None = None
    with led(accelerator):
        if accelerator.is_main_process:
            found = work()
    return found


def _opened(job: Build, stack: ExitStack) -> Store:
    """The database, held alone until the stack ends, of an atlas that is begun."""
    layers = list(_layer_rows(job))  # refused before there is a folder
    try:
        make_own(job.folder)
    except (FileExistsError, NotADirectoryError):
        raise ConvscopeError(f"{job.folder} cannot be made: a file is where a folder should be") from None
    except OSError as error:
        raise ConvscopeError(f"{job.folder} cannot be made: {error.strerror}") from error
    stack.enter_context(alone(job.folder))
    store = stack.enter_context(closing(Store(job.folder, write=True)))
    wanted, meta = job.made_of(), store.meta()
    if DONE in meta:
        if other := differences(wanted, meta[MADE_OF]):
            raise UsageError(
                f"{job.folder} is an atlas of other {' and '.join(other)}: give another folder, or delete it first"
            )
        with store.transaction():  # the photos and the model may lie elsewhere now
            store.set_meta(_told_anew(job.told, meta))
        return store
    told = {"model": job.classifier.name, "top": job.top, "begun": datetime.now().astimezone().isoformat()}
    versions = {"convscope": __version__, "torch": torch.__version__, "python": platform.python_version()}
    with store.transaction():
        store.put("images", _image_rows(job.photos))
        store.put("classes", enumerate(job.photos.catalog.classes))
        store.put("layers", layers)
        store.set_meta(
            {
                MADE_OF: wanted,
                DONE: 0,
                SIZE: AT_ONCE.get(job.classifier.device.type, MANY),
                COMPLETE: False,
                STATE: [],
                "versions": versions,
            }
        )
        store.set_meta({**told, **job.told})
    return store


def _told_anew(told: Mapping[str, Any], before: Mapping[str, Any]) -> dict[str, Any]:
    """Where things are found now, with what was known before and is not said this time."""
    kept = {name: value for name, value in told.items() if value is not None}
    return {**kept, "projected": list(dict.fromkeys([*kept.get("projected", ()), *before.get("projected", ())]))}


def _so_far(store: Store | None) -> tuple[int, bool, list[str], int]:
    meta = store.meta() if store is not None else {}
    return meta.get(DONE, 0), meta.get(COMPLETE, False), meta.get(STATE, []), meta.get(SIZE, MANY)


def _image_rows(photos: Photos) -> Iterator[tuple[Any, ...]]:
    """What is known of each photo, and where it lies when it is not a file of its own name."""
    found, store = photos.catalog, photos.catalog.store
    labels = np.where(found.labels >= 0, found.labels, -1).tolist()
    for row, label in enumerate(labels):
        place: tuple[Any, ...] = (None, None, None)
        if isinstance(store, Members):
            place = store.shards[int(store.shard[row])], int(store.start[row]), int(store.size[row])
        content = fingerprint(found.hashes[row])
        sides = int(found.height[row]), int(found.width[row])
        yield row, store.names[row], None if label < 0 else label, *sides, content, *place, None


def _layer_rows(job: Build) -> Iterator[tuple[Any, ...]]:
    taken = trace(job.classifier.network, job.classifier.blank(), through=job.classifier)
    for number, layer in enumerate(job.layers):
        event = taken.event(layer)
        if event is None or event.value is None or len(event.value.shape) not in (2, 4):
            raise UsageError(f"layer {layer} gives neither maps nor numbers: name one that does")
        shape = event.value.shape
        maps = shape[2:] if len(shape) == 4 else (None, None)
        seen = receptive_field(taken, event.value) if len(shape) == 4 else Field("whole", job.classifier.canvas, None)
        yield number, layer, event.kind, shape[1], *maps, seen.status, *seen.size, *(seen.stride or (None, None))


def _figures(job: Build, states: list[str], accelerator: Accelerator) -> Pass:
    """The running figures, as far as they were put away: of each process its own, of more processes also others'."""
    found = job.photos.catalog
    running = Pass(job.classifier, job.layers, len(found), top=job.top, classes=len(found.classes))
    for file in states[accelerator.process_index :: accelerator.num_processes]:
        running.merge(read_figures(job.folder / file, job.layers, job.classifier.device))
    return running


def _look(
    job: Build,
    store: Store | None,
    running: Pass,
    parts: list[np.ndarray],
    done: int,
    workers: int | None,
    every: float,
    accelerator: Accelerator,
) -> None:
    """The pass over what is left, in rounds of a batch for each process."""
    together = accelerator.num_processes
    own = parts[done + accelerator.process_index :: together]
    ends = [min(i + together, len(parts)) for i in range(done, len(parts), together)]  # batches done after each round
    loader, errors = Loader(job.photos, workers_for(job.photos, workers)), dict[int, str]()
    put_away, took = time.monotonic(), 0.0
    weigh = np.diff([parts[done][0], *(parts[end - 1][-1] + 1 for end in ends)]).tolist()
    with closing(loader), undisturbed(job.classifier, grad=False):
        batches = loader.batches(own)
        rounds = track(range(len(ends)), "photos", weigh=lambda number: weigh[number], stoppable=False)
        for number in rounds:
            failed = None
            try:
                if number < len(own):
                    errors |= _see(job, running, own[number], next(batches))
            except ConvscopeError as error:
                failed = error
            last = ends[number] == len(parts)
            due = last or time.monotonic() - put_away > (max(every, 20 * took) if every else 0)
            # All do the same: what the most urgent of them says.
            verdict = most(FAILED if failed else STOP if cancelled() else DUE if due else 0, accelerator)
            if verdict == FAILED:
                raise failed or ConvscopeError("another process failed")
            if verdict:
                begun = time.monotonic()
                _put_away(job, store, running, ends[number], errors, accelerator)
                put_away = time.monotonic()
                took, errors = put_away - begun, {}
            if verdict == STOP:
                raise Cancelled(f"interrupted; what is done is in {job.folder}, the same command goes on with it")


def _see(job: Build, running: Pass, part: np.ndarray, batch: Batch) -> dict[int, str]:
    """Take in a batch; the photos of it that could not be read, and why."""
    if len(batch.rows):
        running.see(pixels_of(batch.images.to(job.classifier.device)), batch.rows, batch.labels.numpy())
    lost = np.setdiff1d(part, batch.rows).tolist()
    return {row: why.reason for row, why in zip(lost, batch.lost, strict=True)}


def _put_away(
    job: Build, store: Store | None, running: Pass, batches: int, errors: Mapping[int, str], accelerator: Accelerator
) -> None:
    """Every process's figures, and once all are there the word of the first that they are."""
    number, together = accelerator.process_index, accelerator.num_processes
    file = f"state-{batches:06d}" + (f"-{number}of{together}" if together > 1 else "") + ".safetensors"
    failed = None
    try:
        write_figures(job.folder / file, job.layers, running.figures)
    except ConvscopeError as error:
        failed = str(error)
    told = gathered((file, dict(errors), failed), accelerator)
    if reasons := [reason for _, _, reason in told if reason]:
        raise ConvscopeError(reasons[0])
    files = [file for file, _, _ in told]
    lost = {row: reason for _, errors, _ in told for row, reason in errors.items()}
    _led(accelerator, lambda: _say(job, store, running if together == 1 else _merged(job, files), batches, files, lost))


def _say(
    job: Build, store: Store | None, found: Pass, batches: int, files: list[str], errors: Mapping[int, str]
) -> None:
    """In the database, all at once: what is known of every unit by now, and which files hold the figures."""
    assert store is not None
    before = store.meta()[STATE]
    with store.transaction():
        store.set_errors(errors)
        write_units(store, job.layers, found.figures)
        store.set_meta({DONE: batches, STATE: files})
    for file in set(before) - set(files):
        (job.folder / file).unlink(missing_ok=True)


def _merged(job: Build, files: list[str]) -> Pass:
    """The figures of all processes as one."""
    found = Pass(job.classifier, job.layers, len(job.photos.catalog), top=job.top)
    for file in files:
        found.merge(read_figures(job.folder / file, job.layers, job.classifier.device))
    return found


def _finish(job: Build, store: Store | None) -> None:
    """One file of all figures, and the atlas is complete."""
    assert store is not None
    files = store.meta()[STATE]
    found = _merged(job, files)
    if not found.figures:
        raise ConvscopeError(f"{job.photos.catalog.source}: no photo could be read")
    if len(files) > 1:
        write_figures(job.folder / "state.safetensors", job.layers, found.figures)
    with store.transaction():
        kept = ["state.safetensors"] if len(files) > 1 else files
        store.set_meta({COMPLETE: True, STATE: kept})
    for file in set(files) - set(kept):
        (job.folder / file).unlink(missing_ok=True)
