"""Building an atlas: a pass over a catalog in batches, put away now and then, and gone on with after a kill.

Each time, the figures so far go into a file of tensors, and one transaction of the database names it and says how many
batches it holds. What is cut off before that is done again, batch by batch as before: the result is that of a pass
that nothing interrupted.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from convscope.atlas.neighbours import duplicates, neighbours
from convscope.atlas.sample import PLACED
from convscope.atlas.store import Store, alone
from convscope.atlas.streaming import Figures, Pass
from convscope.atlas.topk import NOWHERE
from convscope.data.cache import key_of, replacing
from convscope.data.catalog import digest
from convscope.data.loading import Loader, Photos, cut, pixels_of, workers_for
from convscope.errors import Cancelled, ConvscopeError, UsageError
from convscope.instrument.address import LOGITS
from convscope.instrument.receptive_field import Field, receptive_field
from convscope.instrument.state import undisturbed
from convscope.instrument.trace import trace
from convscope.instrument.weights import answers, weights_key
from convscope.models.classifier import Classifier
from convscope.progress import cancelled, track

AT_ONCE = 32  # images in a batch: always the same ones, so that a pass that was cut off gives the same figures
SECONDS = 60.0  # between two times of putting away, or longer where that takes long; 0: after each batch
QUANTILES = (0.1, 0.5, 0.9)
EXAMPLES = 9  # random images of each unit, and as many about its median
DONE, COMPLETE = "batches done", "complete"


@dataclass(frozen=True, eq=False)
class Build:
    """What an atlas is made of, and where."""

    classifier: Classifier
    photos: Photos
    layers: tuple[str, ...]
    folder: Path
    top: int = 9

    def made_of(self) -> dict[str, str]:
        """Everything that figures depend on; another of it is another atlas."""
        classifier, photos = self.classifier, self.photos
        return {
            "weights": weights_key(classifier.network),
            "network": key_of(str(classifier.network), answers(classifier, [LOGITS], classifier.blank())),
            "photos": digest(photos.catalog),
            "framing": str((photos.framing, photos.channels, photos.background)),
            "normalisation": str((classifier.mean, classifier.std, str(classifier.dtype))),
            "layers": ",".join(self.layers),
            "top": str(self.top),
        }


def build(job: Build, *, workers: int | None = None, every: float = SECONDS) -> Path:
    """Make the atlas, or go on with it; its folder."""
    found = job.photos.catalog
    if not len(found):
        raise UsageError(f"{found.source} holds no photos")
    if not job.layers:
        raise UsageError("an atlas needs at least one layer")
    try:
        job.folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConvscopeError(f"{job.folder} cannot be made: {error.strerror}") from error
    with alone(job.folder), closing(Store(job.folder, write=True)) as store:
        done = _begun(job, store)
        parts = cut(np.arange(len(found)), AT_ONCE)
        if not store.meta()[COMPLETE]:
            running = _figures(job, store)
            if done < len(parts):
                _look(job, store, running, parts, done, workers, every)
            with store.transaction():
                _write_units(job, store, running)
                store.set_meta({COMPLETE: True})
    return job.folder


def _begun(job: Build, store: Store) -> int:
    """How many batches are done; the images and layers are listed when an atlas begins."""
    wanted, meta = job.made_of(), store.meta()
    if DONE in meta:
        if other := [name for name, value in wanted.items() if meta["made of"].get(name) != value]:
            raise UsageError(
                f"{job.folder} is an atlas of other {' and '.join(other)}: give another folder, or delete it first"
            )
        return int(meta[DONE])
    found, labelled = job.photos.catalog, job.photos.catalog.labels >= 0
    names, labels = found.store.names, np.where(labelled, found.labels, -1).tolist()
    with store.transaction():
        sides = zip(found.height.tolist(), found.width.tolist(), strict=True)
        store.put(
            "images",
            (
                (row, names[row], None if label < 0 else label, height, width, None)
                for row, (label, (height, width)) in enumerate(zip(labels, sides, strict=True))
            ),
        )
        store.put("classes", enumerate(found.classes))
        store.put("layers", _layer_rows(job))
        told = {"model": job.classifier.name, "source": found.source, "top": job.top, COMPLETE: False}
        store.set_meta({"made of": wanted, DONE: 0, **told})
    return 0


def _layer_rows(job: Build) -> Iterator[tuple[Any, ...]]:
    taken = trace(job.classifier.network, job.classifier.blank(), through=job.classifier)
    for number, layer in enumerate(job.layers):
        event = taken.event(layer)
        if event is None or event.value is None or len(event.value.shape) not in (2, 4):
            raise UsageError(f"layer {layer} gives neither maps nor numbers: name one that does")
        shape = event.value.shape
        maps = shape[2:] if len(shape) == 4 else (None, None)
        field = receptive_field(taken, event.value) if len(shape) == 4 else Field("whole", job.classifier.canvas, None)
        yield number, layer, event.kind, shape[1], *maps, field.status, *field.size, *(field.stride or (None, None))


def _figures(job: Build, store: Store) -> Pass:
    """The running figures, as far as they were put away."""
    found = job.photos.catalog
    running = Pass(job.classifier, job.layers, len(found), top=job.top, classes=len(found.classes))
    file = store.meta().get("state")
    if file is not None:
        try:
            tensors = load_file(job.folder / file)
        except OSError as error:
            raise ConvscopeError(f"{job.folder / file} cannot be read: {error}") from error
        for number, layer in enumerate(job.layers):
            own = {name.split("/", 1)[1]: value for name, value in tensors.items() if name.startswith(f"{number}/")}
            running.figures[layer] = Figures.of_tensors(own, job.classifier.device)
    return running


def _look(
    job: Build,
    store: Store,
    running: Pass,
    parts: Sequence[np.ndarray],
    done: int,
    workers: int | None,
    every: float,
) -> None:
    """The pass over what is left."""
    loader, left = Loader(job.photos, workers_for(job.photos, workers)), parts[done:]
    errors: dict[int, str] = {}
    put_away, took = time.monotonic(), 0.0
    with closing(loader), undisturbed(job.classifier, grad=False):
        told = track(left, "photos", weigh=len, stoppable=False)
        for i, (part, batch) in enumerate(zip(told, loader.batches(left), strict=True), done + 1):
            if len(batch.rows):
                running.see(pixels_of(batch.images.to(job.classifier.device)), batch.rows, batch.labels.numpy())
            lost = np.setdiff1d(part, batch.rows).tolist()
            errors |= {row: why.reason for row, why in zip(lost, batch.lost, strict=True)}
            stop = cancelled()
            if stop or i == len(parts) or time.monotonic() - put_away > (max(every, 20 * took) if every else 0):
                begun = time.monotonic()
                _put_away(job, store, running, i, errors)
                put_away = time.monotonic()
                took, errors = put_away - begun, {}
            if stop:
                raise Cancelled(f"interrupted; what is done is in {job.folder}, the same command goes on with it")
    if not running.figures:
        raise ConvscopeError(f"{job.photos.catalog.source}: no photo could be read")


def _put_away(job: Build, store: Store, running: Pass, batches: int, errors: Mapping[int, str]) -> None:
    before, file = store.meta().get("state"), f"state-{batches:06d}.safetensors"
    tensors: dict[str, Tensor] = {}
    for number, layer in enumerate(job.layers):
        if layer in running.figures:
            own = running.figures[layer].tensors()
            # Clones, because safetensors refuses tensors that share memory.
            tensors |= {f"{number}/{name}": value.contiguous().clone() for name, value in own.items()}
    try:
        with replacing(job.folder / file) as draft:
            save_file(tensors, draft)
    except OSError as error:
        raise ConvscopeError(f"cannot write {job.folder}: {error.strerror or error}; what is there is kept") from error
    with store.transaction():
        store.set_errors(errors)
        store.set_meta({DONE: batches, "state": file})
    if before is not None and before != file:
        (job.folder / before).unlink(missing_ok=True)


def _write_units(job: Build, store: Store, running: Pass) -> None:
    for number, layer in enumerate(job.layers):
        own = running.figures[layer]
        assert own.statistics is not None
        assert own.sample is not None
        cols = own.maps[1] if own.maps else 0
        others, correlations = neighbours(own.sample.maxima)
        selectivity, best = own.statistics.selectivity()
        seen = own.sample.maxima[~own.sample.maxima.isnan().any(1)].double()
        quantiles = torch.quantile(seen, torch.tensor(QUANTILES, dtype=torch.float64, device=seen.device), dim=0)
        std, mean = own.statistics.std, own.statistics.mean
        dead = std <= 1e-6 * mean.abs()
        columns = (
            *(mean, std, own.top.value[:, 0], own.statistics.fraction_active, *quantiles),
            *(selectivity, best, dead, duplicates(others, correlations)),
        )
        values = zip(*(column.tolist() for column in columns), strict=True)
        rows = ((unit, *map(_known, row[:8]), *map(_numbered, row[8:])) for unit, row in enumerate(values))
        store.put("units", ((number, *row) for row in rows))
        store.put("patches", _patches(number, own, cols))
        pairs = zip(others.tolist(), correlations.tolist(), strict=True)
        store.put(
            "neighbours",
            (
                (number, unit, rank, other, value)
                for unit, (row, found) in enumerate(pairs)
                for rank, (other, value) in enumerate(zip(row, found, strict=True))
                if other >= 0
            ),
        )


def _patches(layer: int, own: Figures, cols: int) -> Iterator[tuple[Any, ...]]:
    """Rows of the table: the top ones, random ones, and those nearest to the median of the sample's placed images."""

    def place(flat: int) -> tuple[int | None, int | None]:
        return divmod(flat, cols) if cols and flat != NOWHERE else (None, None)

    top = (own.top.value.tolist(), own.top.image.tolist(), own.top.place.tolist())
    for unit, row in enumerate(zip(*top, strict=True)):
        for rank, (value, image, flat) in enumerate(zip(*row, strict=True)):
            if image != NOWHERE:
                yield layer, unit, "top", rank, image, value, *place(flat)
    assert own.sample is not None
    maxima = own.sample.maxima[:PLACED]
    there = (~maxima.isnan().any(1)).nonzero().squeeze(1)
    maxima, places, numbers = maxima[there], own.sample.places[there], own.sample.numbers[there.cpu()]
    if not len(maxima):
        return
    middle = (maxima - maxima.double().quantile(0.5, dim=0)).abs().sort(dim=0, stable=True).indices[:EXAMPLES]
    random = torch.arange(min(EXAMPLES, len(maxima)), device=maxima.device)[:, None].expand(-1, maxima.shape[1])
    for kind, chosen in (("random", random), ("middle", middle)):
        found = (maxima.gather(0, chosen).T, numbers.to(chosen.device)[chosen].T, places.gather(0, chosen).T)
        for unit, row in enumerate(zip(*(one.tolist() for one in found), strict=True)):
            for rank, (value, image, flat) in enumerate(zip(*row, strict=True)):
                yield layer, unit, kind, rank, image, value, *place(flat)


def _known(value: float) -> float | None:
    return None if value != value else value  # NaN


def _numbered(value: int | bool) -> int | None:
    return int(value) if value >= 0 else None
