"""A run from beginning to end: settings in, a folder out that holds a classifier and all there is to know of it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator

from convscope.data.catalog import Catalog
from convscope.data.listing import SPLITS, TEST, TRAIN, VAL
from convscope.data.loading import Loader, Photos
from convscope.data.split import Assignment, read_split, write_split
from convscope.errors import UsageError
from convscope.models.run import CONFIG, read_settings, write_run
from convscope.training import artifacts
from convscope.training.config import Config, read_config
from convscope.training.evolution import Evolution
from convscope.training.fit import Progress, Task, fit, outputs
from convscope.training.folder import LAST, Checkpoint, RunFolder, environment, new_name, point_last, unused, writing
from convscope.training.health import LayerHealth, health, said
from convscope.training.metrics import Metrics, measure
from convscope.training.parallel import accelerated, from_first
from convscope.training.prepare import Machine, begin, counts, divide, read_catalog, resolved, rows_of, sources
from convscope.training.resume import update_config
from convscope.training.start import Start

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
    device = machine.device or torch.device("cuda" if torch.cuda.is_available() else "cpu")
    with torch.random.fork_rng(), _reproducible(device), accelerated(device, config.training.precision) as accelerator:
        job = _resumed(config, resume, accelerator) if resume is not None else _new(config, out, accelerator)
        return _carry_out(job, accelerator, machine, told)


@dataclass
class _Job:
    config: Config
    catalog: Catalog
    assigned: np.ndarray
    begun: Start
    chosen: set[str]
    kind: str
    folder: RunFolder
    remarks: list[str]
    checkpoint: Checkpoint | None = None


def _new(config: Config, out: Path | None, accelerator: Accelerator) -> _Job:
    with accelerator.main_process_first():  # the others find the scan in the cache
        found = read_catalog(config.data)
    divided = divide(found, config.data, config.training.seed)
    assigned = divided.of
    begun = begin(config.model, found.classes, config.training.seed)
    config, chosen, kind = resolved(config, begun)
    path = out or unused(Path("runs"), new_name(config.model.spec, config.data.source))
    path = Path(from_first(str(path), accelerator))
    if accelerator.is_main_process:
        _write_start(RunFolder.create(path), config, found, divided, begun)
    accelerator.wait_for_everyone()
    notes = [*found.remarks, *divided.remarks, *begun.remarks]
    if found.refused:
        notes.append(f"{len(found.refused):,} files are left out, see {path / 'quarantine.csv'}: {_reasons(found)}")
    return _Job(config, found, assigned, begun, chosen, kind, RunFolder(path), notes)


def _write_start(folder: RunFolder, config: Config, found: Catalog, divided: Assignment, begun: Start) -> None:
    """All that a run is by its settings; a folder that cannot be filled is not left behind."""
    path = folder.path
    try:
        more = {name: config.model_dump()[name] for name in ("data", "training", "evolution")}
        more["data"] = {**more["data"], "source": _lasting(config.data.source), "digest": digest(found)}
        more["model"] = {"begun_from": begun.origin, "head": config.model.head, "dropout": config.model.dropout}
        with writing(path):
            write_run(begun.classifier, path, begun.spec, begun.options, more=more, weights=False)
            write_split(path / "split.csv", found.store.names, found.labels, found.classes, divided)
        folder.write("environment.json", json.dumps(environment(), indent=1) + "\n")
        folder.write_refused(found.refused)
        point_last(path)
    except BaseException:
        shutil.rmtree(path, ignore_errors=True)
        raise


def _resumed(config: Config, path: Path, accelerator: Accelerator) -> _Job:
    folder = RunFolder(path)
    checkpoint = folder.load(LAST)
    if checkpoint is None:
        raise UsageError(f"{path} has no checkpoint to go on from: start anew with another --out")
    with accelerator.main_process_first():
        found = read_catalog(config.data)
    settings = read_settings(path)
    assigned = _same_photos(path, found, settings.classes.names)
    model = config.model.model_copy(update={"spec": settings.spec, "options": settings.options, "weights": None})
    model.size, model.mean, model.std = settings.framing.size, settings.mean, settings.std
    begun = begin(_untrained(model), found.classes, config.training.seed)
    begun.classifier.framing = settings.framing
    begun.classifier.network.load_state_dict(checkpoint.network)  # now: features of what is frozen depend on it
    chosen = {name for group in checkpoint.state["optimizer"]["groups"] for name in group}
    if accelerator.is_main_process:  # it may have been asked for more epochs, and be killed again
        update_config(folder, config)
    names = {name for name, _ in begun.classifier.network.named_parameters()}
    kind = "new" if chosen == names else "head"
    return _Job(config, found, assigned, begun, chosen, kind, folder, [], checkpoint)


def _untrained(model: Any) -> Any:
    """The structure alone: all weights come from the checkpoint."""
    spec = model.spec.partition("@")[0]
    return model.model_copy(update={"spec": spec if spec.count(".py:") else f"{spec}@random"})


def _same_photos(path: Path, found: Catalog, classes: tuple[str, ...]) -> np.ndarray:
    """The run's own split of these photos, which must be the ones that it began with."""
    before = read_config(path / CONFIG).get("data", {}).get("digest")
    names, _, of = read_split(path / "split.csv")
    if found.classes != classes or before != digest(found):
        now = set(found.store.names)
        gone = [name for name in names if name not in now]
        came = sorted(now - set(names))
        what = [f"{len(gone)} are gone, such as {gone[0]}"] if gone else []
        what += [f"{len(came)} are new, such as {came[0]}"] if came else []
        raise UsageError(
            f"{found.source}: the photos are not those that {path} began with ("
            f"{'; '.join(what) or 'their content or labels changed'}); put them back, or train on from there with "
            f"--from {path}"
        )
    place = {name: i for i, name in enumerate(names)}
    return of[[place[name] for name in found.store.names]]


def digest(found: Catalog) -> str:
    """Names, labels and contents of all photos, in one word."""
    from convscope.data.cache import key_of

    labels = np.ascontiguousarray(found.labels)
    return key_of(found.store.names.blob.tobytes(), labels.tobytes(), found.hashes.tobytes(), found.classes)


def _lasting(source: str) -> str:
    """A source that holds from any folder."""
    path = Path(source).expanduser()
    return str(path.resolve()) if path.exists() else source


def _reasons(found: Catalog) -> str:
    first = found.refused[0]
    return f"{first.name} ({first.reason})" + (" and others" if len(found.refused) > 1 else "")


def _carry_out(job: _Job, accelerator: Accelerator, machine: Machine, told: Told) -> Trained:
    classifier, training = job.begun.classifier.to(accelerator.device), job.config.training
    leads = accelerator.is_main_process
    tell = told.remark if leads else lambda text: None
    for remark in job.remarks:
        tell(remark)

    def first(compute: Callable[[], Any]) -> Any:
        with accelerator.main_process_first():
            return compute()

    background = job.config.data.background
    with closing(sources(job.begun, job.chosen, job.catalog, training, background, machine, first=first)) as fed:
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
            *_evolution(job, leads),
        )
        done = fit(
            task,
            job.folder,
            accelerator,
            resumed=job.checkpoint,
            told=lambda row, so_far: told.epoch(Epoch(row, so_far, job.config, job.folder.path)) if leads else None,
            keep_best=lambda best: artifacts.write_model(job.folder, best, classifier.network.state_dict()),
        )
        return _concluded(job, task, done, accelerator, tell)


def _concluded(job: _Job, task: Task, done: Progress, accelerator: Accelerator, tell: Callable[[str], None]) -> Trained:
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
    measured_on = "test" if "test" in measured else "val"
    rows_done = job.folder.rows()
    if not accelerator.is_main_process:
        return Trained(job.folder.path, done, rows_done, measured.get(measured_on), measured_on, leads=False)
    layers = _layers(job)
    notes = said(layers)
    lost = list(dict.fromkeys(done.lost))
    if lost:
        job.folder.write_refused([*job.catalog.refused, *lost])
        notes.append(f"{len(lost)} photos could not be read any more while training, such as {lost[0].name}")
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
        rows=rows_done,
        measured=measured,
        layers=layers,
        device=str(accelerator.device),
    )
    return Trained(job.folder.path, done, rows_done, measured.get(measured_on), measured_on, notes, layers)


def _layers(job: _Job) -> list[LayerHealth]:
    """The layers' health on some of the training photos."""
    classifier = job.begun.classifier
    rows = rows_of(job.assigned, TRAIN)
    some = rows[np.linspace(0, len(rows) - 1, min(LOOKED_AT, len(rows))).astype(int)]
    photos = Photos(job.catalog, classifier.framing, classifier.channels, background=job.config.data.background)
    batch = next(Loader(photos).batches([some]))
    if not len(batch.rows):
        return []
    return health(classifier, batch.images.to(classifier.device).float() / 255)


def _evolution(job: _Job, leads: bool) -> tuple[Callable[..., None], Callable[[int], None]]:
    """What is called after each step and each epoch."""
    settings = job.config.evolution
    nothing: tuple[Callable[..., None], Callable[[int], None]] = (lambda step, images: None, lambda epoch: None)
    if settings.at is None or not leads:
        return nothing
    classifier = job.begun.classifier
    rows = rows_of(job.assigned, TRAIN)
    some = np.sort(np.random.default_rng(job.config.training.seed).permutation(rows)[: settings.photos])
    photos = Photos(job.catalog, classifier.framing, classifier.channels, background=job.config.data.background)
    photos = photos.in_memory()
    loader = Loader(photos)

    def batches() -> Any:
        for batch in loader.batches([some[i : i + 16] for i in range(0, len(some), 16)]):
            if len(batch.rows):
                names = [job.catalog.store.names[row] for row in batch.rows.tolist()]
                yield names, batch.images.to(classifier.device).float() / 255

    watch = Evolution(
        classifier,
        units=settings.units or None,
        photos=batches,
        out=job.folder.path / "evolution",
        at=settings.at,
        label="epoch" if settings.epochs else "iteration",
        method=settings.method,
        first_photo=not settings.epochs,
    )
    if job.checkpoint is not None:
        state = job.checkpoint.state
        each = -(-len(rows) // job.config.training.batch_size)
        if job.config.training.drop_last:
            each = max(1, len(rows) // job.config.training.batch_size)
        watch.cut_back(state["epoch"] if settings.epochs else state["epoch"] * each + state["step"])
    if settings.epochs:
        return nothing[0], lambda epoch: _shown(watch, watch(epoch))

    def after_step(step: int, images: torch.Tensor) -> None:
        pixels = images.to(classifier.device).float() / 255 if images.dtype == torch.uint8 else None
        _shown(watch, watch(step, pixels))

    return after_step, nothing[1]


def _shown(watch: Evolution, taken: Any) -> None:
    """The sheet of all snapshots so far, made again after each."""
    if taken:
        watch.sheet().save(watch.out / "evolution.png")


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
