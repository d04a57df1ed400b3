"""A run from beginning to end: settings in, a folder out that holds a classifier and all there is to know of it."""

from __future__ import annotations

import shlex
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator

from convscope.data.cache import replacing
from convscope.data.listing import NONE, SPLITS, TEST, TRAIN, VAL
from convscope.data.loading import Batch, Loader, Photos, cut, pixels_of
from convscope.errors import Cancelled
from convscope.images.lettering import font_remark
from convscope.models.device import best_device
from convscope.parallel import accelerated
from convscope.training import artifacts
from convscope.training.beginning import Job, discard, new_job, resumed_job
from convscope.training.config import Config
from convscope.training.evolution import LINES, Evolution
from convscope.training.fit import Task, fit, parts
from convscope.training.folder import point_last
from convscope.training.health import LayerHealth, health, not_learned, said
from convscope.training.learned import seen_by
from convscope.training.metrics import Metrics, measure
from convscope.training.optim import make_optimizer
from convscope.training.optimizers import HEAD
from convscope.training.outputs import outputs
from convscope.training.prepare import Machine, counts, photos_for, rows_of, sources
from convscope.training.saver import Progress

LOOKED_AT = 64  # photos on which dead layers are looked for


@dataclass(frozen=True, repr=False)
class Trained:
    """What a run came to. ``metrics``: of the test photos, or of the validation photos where there are none."""

    folder: Path
    progress: Progress
    rows: list[dict[str, Any]]
    metrics: Metrics | None
    measured: str  # which split
    remarks: list[str] = field(default_factory=list)
    layers: list[LayerHealth] = field(default_factory=list)
    seen: int = 0  # test photos that the run it goes on from had learned from
    leads: bool = True  # of several processes one speaks

    def __repr__(self) -> str:
        found = self.metrics
        of = "" if found is None else f", accuracy {found.accuracy:.1%} on {found.count:,} {self.measured} photos"
        return f"<run {self.folder}: {len(self.rows)} epochs{of}>"


@dataclass(frozen=True)
class Epoch:
    """An epoch that has been: its row of metrics.jsonl, and what it is part of."""

    row: dict[str, Any]
    done: Progress
    config: Config
    folder: Path


@dataclass(frozen=True)
class Told:
    """Who hears of a run: of what there is to know, and of every epoch."""

    remark: Callable[[str], None] = lambda text: None
    epoch: Callable[[Epoch], None] = lambda epoch: None


def run(
    config: Config,
    *,
    out: Path | None = None,
    resume: Path | None = None,
    machine: Machine | None = None,
    told: Told | None = None,
) -> Trained:
    """Train as ``config`` says, into ``out`` (a new folder under runs/ by default), or go on with the run ``resume``.

    Photos that cannot be used are left out, counted and listed in the run; a run that is cancelled has a checkpoint.
    Random states, the environment and the user's files are left as they are.
    """
    machine, told = machine or Machine(), told or Told()
    device = machine.device or best_device()
    with torch.random.fork_rng(), _reproducible(device), accelerated(device, config.training.precision) as accelerator:
        job = resumed_job(config, resume, accelerator) if resume is not None else new_job(config, out, accelerator)
        try:
            return _carry_out(job, accelerator, machine, told)
        except BaseException as error:
            if isinstance(error, Cancelled) and accelerator.is_main_process:
                told.remark(f"to go on: convscope train --resume {shlex.quote(str(job.folder.path))}")
            if accelerator.is_main_process and job.folder.is_unbegun:
                discard(job.folder)
            raise


def _carry_out(job: Job, accelerator: Accelerator, machine: Machine, told: Told) -> Trained:
    used = np.flatnonzero(job.assigned != NONE)
    if len(used) < len(job.catalog):  # what a subset leaves out is not read again
        job = replace(job, catalog=job.catalog.take(used), assigned=job.assigned[used])
    classifier, training = job.begun.classifier.to(accelerator.device), job.config.training
    leads = accelerator.is_main_process
    tell = told.remark if leads else lambda text: None
    for remark in job.remarks:
        tell(remark)

    def first(compute: Callable[[], Any]) -> Any:
        with accelerator.main_process_first():
            return compute()

    begun = time.monotonic()
    with closing(sources(job.begun, job.chosen, job.catalog, training, machine, first=first)) as fed:
        for remark in fed.remarks:
            tell(remark)
        task = Task(
            fed.forward,
            classifier.network,
            job.chosen,
            fed.augmented,
            fed.plain,
            job.catalog.labels,
            rows_of(job.assigned, TRAIN),
            rows_of(job.assigned, VAL),
            len(job.catalog.classes),
            training,
            *_evolution(job, accelerator, tell),
        )
        make_optimizer(classifier.network, job.chosen, training)  # what is wrong with its settings shows now
        tell(_summary(job))
        if job.checkpoint is not None and (training.epochs or 0) <= job.checkpoint.state["epoch"]:
            tell(f"its {training.epochs} epochs are done: nothing is left to learn, --epochs asks for more")
        prepared = time.monotonic() - begun  # of reading photos, and of the frozen base's features
        done = fit(
            task,
            job.folder,
            accelerator,
            resumed=job.checkpoint,
            begun=lambda: point_last(job.folder.path) if leads else None,
            told=lambda row, so_far: told.epoch(Epoch(row, so_far, job.config, job.folder.path)) if leads else None,
        )
        if job.config.evolution.at is not None and not (job.folder.path / "evolution" / LINES).exists():
            tell("no snapshot of features was taken: training ended before the first that --evolve asks for")
        return _concluded(job, task, done, prepared, accelerator, tell)


def _summary(job: Job) -> str:
    """What is about to be trained on what."""
    network = job.begun.classifier.network
    sizes = {name: parameter.numel() for name, parameter in network.named_parameters()}
    learned = f"{sum(sizes[name] for name in job.chosen):,} of {sum(sizes.values()):,} parameters learn"
    found = {name: sum(photos) for name, photos in counts(job.catalog, job.assigned).items()}
    photos = ", ".join(f"{count:,} {name}" for name, count in found.items())
    return f"{len(job.catalog.classes)} classes, photos: {photos}; {job.begun.spec}, {learned}"


def _concluded(
    job: Job, task: Task, done: Progress, prepared: float, accelerator: Accelerator, tell: Callable[[str], None]
) -> Trained:
    """Measure the best epoch's network on photos that had no part in it, and write down what there is to know."""
    classifier = job.begun.classifier
    measured: dict[str, Metrics] = {}
    for which in (VAL, TEST):
        rows = rows_of(job.assigned, which)
        if not len(rows):
            continue
        label = f"{SPLITS[which]} photos"
        size = task.config.batch_size
        rows, logits, lost = outputs(task.forward, task.network, task.plain, rows, size, accelerator, label)
        done.lost += lost
        if len(rows):
            labels = torch.from_numpy(job.catalog.labels[rows].astype(np.int64))
            names = [job.catalog.store.names[i] for i in rows.tolist()]
            measured[SPLITS[which]] = measure(logits, labels, job.catalog.classes, names)
    measured_on = next((name for name in ("test", "val") if name in measured), "")
    rows_done = job.folder.rows()
    if not accelerator.is_main_process:
        return Trained(job.folder.path, done, rows_done, measured.get(measured_on), measured_on, leads=False)
    layers = _layers(job)
    notes = said(layers)
    trained = job.catalog.labels[rows_of(job.assigned, TRAIN)]
    if rows_done:
        commonest = float(np.bincount(trained).max() / len(trained))
        notes += not_learned(layers, rows_done[-1]["train_accuracy"], commonest)
    seen = 0
    if "test" in measured:  # the run's own file knows what those that it goes on from had learned from
        seen = int(seen_by(job.folder.path, job.catalog.hashes[rows_of(job.assigned, TEST)]).sum())
        if seen:
            notes.append(
                f"{seen:,} of the test photos had been learned from, by a run that this one goes on from or as copies, "
                "so the test figure flatters: give both runs the same --seed and --split"
            )
    lost = list(dict.fromkeys(done.lost))
    if lost:
        job.folder.write_refused([*job.catalog.refused, *lost])
        notes.append(f"{len(lost)} photos could not be read any more while training, such as {lost[0].name}")
    if remark := font_remark([*job.catalog.classes, job.folder.path.name]):
        notes.append(remark)
    for note in notes:
        tell(note)
    artifacts.conclude(
        job.folder,
        job.config,
        job.begun,
        classifier,
        chosen=job.chosen,
        kind=job.kind,
        photos=counts(job.catalog, job.assigned),
        refused=[*job.catalog.refused, *lost],
        done=done,
        prepared=prepared,
        rows=rows_done,
        measured=measured,
        layers=layers,
        device=str(accelerator.device),
    )
    return Trained(job.folder.path, done, rows_done, measured.get(measured_on), measured_on, notes, layers, seen)


def _layers(job: Job) -> list[LayerHealth]:
    """The layers' health on some of the training photos."""
    classifier = job.begun.classifier
    rows = rows_of(job.assigned, TRAIN)
    some = rows[np.linspace(0, len(rows) - 1, min(LOOKED_AT, len(rows))).astype(int)]
    batch = next(Loader(photos_for(classifier, job.catalog)).batches([some]))
    if not len(batch.rows):
        return []
    return health(classifier, pixels_of(batch.images.to(classifier.device)))


def _evolution(
    job: Job, accelerator: Accelerator, tell: Callable[[str], None]
) -> tuple[Callable[..., None], Callable[[int], None]]:
    """What is called after each step and each epoch."""
    settings = job.config.evolution
    nothing: tuple[Callable[..., None], Callable[[int], None]] = (lambda step, batch: None, lambda epoch: None)
    if settings.at is None or not accelerator.is_main_process:
        return nothing
    classifier = job.begun.classifier
    if job.kind == HEAD:
        tell("the base is frozen, so its units will look the same in every snapshot; --unfreeze lets them learn")
    rows = rows_of(job.assigned, TRAIN)
    some = np.sort(np.random.default_rng(job.config.training.seed).permutation(rows)[: settings.photos])
    sampled = job.catalog.take(some)
    loader = Loader(photos_for(classifier, sampled).in_memory())

    def batches() -> Any:
        for batch in loader.batches(cut(np.arange(len(some)), 16)):
            if len(batch.rows):
                names = [sampled.store.names[row] for row in batch.rows.tolist()]
                yield names, pixels_of(batch.images.to(classifier.device))

    watch = Evolution(
        classifier,
        units=settings.units or None,
        photos=batches,
        out=job.folder.path / "evolution",
        at=settings.at,
        label="epoch" if settings.epochs else "iteration",
        method=settings.method,
        first_photo=not settings.epochs,
        patterns=settings.patterns,
    )
    if job.checkpoint is not None:
        state = job.checkpoint.state
        each = len(parts(rows, job.config.training, accelerator))
        watch.cut_back(state["epoch"] if settings.epochs else state["epoch"] * each + state["step"])
    if settings.epochs:
        return nothing[0], lambda epoch: _shown(watch, watch(epoch))

    every = photos_for(classifier, job.catalog)

    def after_step(step: int, batch: Batch) -> None:
        if watch.due(step) and (first := _first(every, batch)) is not None:
            _shown(watch, watch(step, pixels_of(first.to(classifier.device))))

    return after_step, nothing[1]


def _first(photos: Photos, batch: Batch) -> torch.Tensor | None:
    """The first photo of a batch, as it is: batches may be augmented, or features; None where it is gone."""
    found = (photos.one(row, 0) for row in batch.rows.tolist())
    return next((canvas[None] for canvas in found if isinstance(canvas, torch.Tensor)), None)


def _shown(watch: Evolution, taken: Any) -> None:
    """The sheet of all snapshots so far, made again after each."""
    if taken:
        with replacing(watch.out / "evolution.png") as draft:
            watch.sheet().save(draft, format="PNG")


class _reproducible:
    """On a GPU, the same every time, at some cost in speed; as it was afterwards."""

    def __init__(self, device: torch.device) -> None:
        self.device = device

    def __enter__(self) -> None:
        cudnn = torch.backends.cudnn
        self.before = (torch.are_deterministic_algorithms_enabled(), cudnn.deterministic, cudnn.benchmark)
        self.warn = torch.is_deterministic_algorithms_warn_only_enabled()
        if self.device.type == "cuda":
            torch.use_deterministic_algorithms(True, warn_only=True)
            cudnn.deterministic, cudnn.benchmark = True, False

    def __exit__(self, *_: object) -> None:
        torch.use_deterministic_algorithms(self.before[0], warn_only=self.warn)
        torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = self.before[1:]
