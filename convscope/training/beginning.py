"""How a run begins, or is taken up where it stopped: photos, split, network, and a folder for them."""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from accelerate import Accelerator

from convscope.data.catalog import Catalog, digest
from convscope.data.listing import TRAIN
from convscope.data.split import Assignment, read_split, write_split
from convscope.errors import UsageError
from convscope.models.registry import RANDOM, lasting, parse
from convscope.models.run import model_section, read_settings, write_run
from convscope.parallel import from_first, led
from convscope.training.config import Config
from convscope.training.folder import (
    LAST,
    RUNS,
    Checkpoint,
    RunFolder,
    environment,
    fill,
    new_name,
    unused,
    writing,
)
from convscope.training.learned import write_learned
from convscope.training.optimizers import HEAD
from convscope.training.prepare import begin, divide, read_catalog, resolved
from convscope.training.resume import update_config
from convscope.training.start import CODE, Start


@dataclass
class Job:
    config: Config
    catalog: Catalog
    assigned: np.ndarray
    begun: Start
    chosen: set[str]
    kind: str
    folder: RunFolder
    remarks: list[str]
    checkpoint: Checkpoint | None = None


def new_job(config: Config, out: Path | None, accelerator: Accelerator) -> Job:
    with led(accelerator):  # the others find the scan in the cache
        found = read_catalog(config.data)
    divided = divide(found, config.data, config.training.seed)
    assigned = divided.of
    begun = begin(config.model, found.classes, config.training.seed)
    if config.data.background is not None:
        begun.classifier.background = config.data.background
    config, chosen, kind = resolved(config, begun)
    path = out or unused(RUNS, new_name(begun.spec, config.data.source))
    path = Path(from_first(str(path), accelerator))
    if accelerator.is_main_process:
        head = chosen if kind == HEAD else begun.head
        _write_start(RunFolder.create(path), config, found, divided, begun, kind, sorted(head), _machine(accelerator))
    accelerator.wait_for_everyone()
    notes = [*found.remarks, *divided.remarks, *begun.remarks]
    if found.refused:
        files = "1 file is" if len(found.refused) == 1 else f"{len(found.refused):,} files are"
        notes.append(f"{files} left out, see {path / 'quarantine.csv'}: {_reasons(found)}")
    return Job(config, found, assigned, begun, chosen, kind, RunFolder(path), notes)


def _write_start(
    folder: RunFolder,
    config: Config,
    found: Catalog,
    divided: Assignment,
    begun: Start,
    kind: str,
    head: list[str],
    machine: dict[str, Any],
) -> None:
    """All that a run is by its settings; a folder that cannot be filled is not left behind."""
    path = folder.path
    try:
        more = {name: config.model_dump()[name] for name in ("data", "training", "evolution")}
        more["data"] |= {"source": lasting(config.data.source), "digest": digest(found)}
        more["data"]["root"] = lasting(config.data.root) if config.data.root is not None else None
        more["data"]["split"] = lasting(config.data.split) if config.data.split is not None else None
        more["data"]["background"] = begun.classifier.background
        weights = lasting(config.model.weights) if config.model.weights is not None else None
        more["model"] = {"head": config.model.head, "dropout": config.model.dropout, "weights": weights}
        more["model"] |= {"begun_from": begun.origin, "begun_as": kind, "head_parameters": head}
        with writing(path):
            write_run(begun.classifier, path, begun.spec, begun.options, more=more, weights=False)
            write_split(path / "split.csv", found.store.names, found.labels, found.classes, divided)
        folder.write("environment.json", json.dumps({**environment(), **machine}, indent=1) + "\n")
        folder.write_refused(found.refused)
        with writing(path):
            write_learned(path, found.hashes[divided.of == TRAIN], begun.run)
    except BaseException:
        discard(folder)
        raise


def _machine(accelerator: Accelerator) -> dict[str, Any]:
    """What ``precision: auto`` came to, and on what."""
    precision = {"no": "fp32"}.get(accelerator.mixed_precision, accelerator.mixed_precision)
    return {"device": str(accelerator.device), "processes": accelerator.num_processes, "precision": precision}


def discard(folder: RunFolder) -> None:
    """Leave nothing of a run in which nothing was learned."""
    with suppress(OSError):
        if folder.clear_unbegun():
            folder.path.rmdir()
        if folder.path.parent.name == RUNS.name:
            folder.path.parent.rmdir()


def resumed_job(config: Config, path: Path, accelerator: Accelerator) -> Job:
    folder = RunFolder(path)
    with led(accelerator):  # it may have something to mend
        checkpoint = folder.load(LAST)
    if checkpoint is None:
        raise UsageError(
            f"{path} was stopped before its first checkpoint, so there is nothing to go on from: begin anew with "
            f"--out {path}, which replaces it"
        )
    with led(accelerator):
        found = read_catalog(config.data)
    settings = read_settings(path)
    assigned = _same_photos(path, found, settings.classes.names, config.data.digest)
    model = config.model.model_copy(update={"spec": settings.spec, "options": settings.options, "weights": None})
    model.size, model.mean, model.std = settings.framing.size, settings.mean, settings.std
    begun = begin(_untrained(model), found.classes, config.training.seed)
    begun.classifier.framing, begun.classifier.background = settings.framing, settings.background
    fill(begun.classifier.network, checkpoint.network)  # now: features of what is frozen depend on it
    chosen = {name for group in checkpoint.state["optimizer"]["groups"] for name in group}
    if accelerator.is_main_process:  # it may have been asked for more epochs, and be killed again
        update_config(folder, config)
    held = model_section(path)
    begun = replace(begun, spec=settings.spec, origin=held.get("begun_from", ""))
    return Job(config, found, assigned, begun, chosen, held.get("begun_as", "new"), folder, [], checkpoint)


def _untrained(model: Any) -> Any:
    """The structure alone: all weights come from the checkpoint."""
    prefix, name, _ = parse(model.spec)
    return model.model_copy(update={"spec": name if prefix in CODE else f"{prefix}:{name}@{RANDOM}"})


def _same_photos(path: Path, found: Catalog, classes: tuple[str, ...], before: str | None) -> np.ndarray:
    """The run's own split of these photos, which must be the ones that it began with, ``before``."""
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


def _reasons(found: Catalog) -> str:
    first = found.refused[0]
    return f"{first.name} ({first.reason})" + (" and others" if len(found.refused) > 1 else "")
