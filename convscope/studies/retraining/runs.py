"""Trainings that a study is made of: each in a run folder of its own, gone on with, and done once.

What a study is asked for again, with other settings perhaps, is taken from where it lies: a run folder's name ends in a
key of all that the training depends on.
"""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from convscope.data.cache import key_of, replacing
from convscope.data.catalog import digest
from convscope.data.listing import TEST, TRAIN
from convscope.data.loading import cut
from convscope.data.split import Assignment, write_split
from convscope.errors import Cancelled
from convscope.images.own import make_own
from convscope.images.slug import slug
from convscope.models.device import best_device
from convscope.models.registry import WITHOUT, load_classifier, parse, parse_without
from convscope.progress import track, unheard
from convscope.studies.subject import DataSet
from convscope.training.api import train
from convscope.training.evaluate import evaluate
from convscope.training.folder import EVALUATION, RunFolder
from convscope.training.learned import seen_by

PLACE, FIGURES = "trained", "study.json"  # where the runs are, and what is known of one that is done
BATCH = 32  # photos a step, where nobody says


@dataclass(frozen=True, eq=False)
class Plan:
    """A training. ``settings``: convscope.train's. ``of`` int8 "n": which photos of the catalog are for what.

    ``both``: also measure the photos that were learned from.
    """

    name: str
    settings: Mapping[str, Any]
    of: np.ndarray
    both: bool = False


@dataclass(frozen=True)
class Figures:
    """What became of a training. ``accuracy``: a share of the photos kept apart; ``balanced``: mean over classes.

    ``right``: for each photo kept apart 1 if it was told right, 0 if not, - if it could not be read. ``seen``: how many
    of them the network had been trained on before.
    """

    accuracy: float
    balanced: float
    top5: float | None
    photos: int
    right: str
    train_accuracy: float | None
    parameters: int
    epochs: int
    seen: int
    folder: str


def carried_out(data: DataSet, plans: Sequence[Plan], label: str) -> list[Figures]:
    """What becomes of trainings, one after the other; what was done before is not done again."""
    make_own(data.folder)
    kept = digest(data.catalog)
    try:
        return [_carried_out(data, plan, kept) for plan in track(plans, label)]
    except Cancelled:
        raise Cancelled("cancelled", f"the same command goes on with what is in {data.folder / PLACE}") from None


def place_of(data: DataSet, plan: Plan, photos: str) -> Path:
    """The run folder of a training."""
    settings = dict(plan.settings)
    if settings.get("weights"):
        settings["weights"] = Path(settings["weights"]).name  # which has a key of its own
    key = key_of(sorted(settings.items()), _code_of(str(settings.get("model", ""))), plan.of.tobytes(), photos)
    return data.folder / PLACE / f"{slug(plan.name)}-{key[:10]}"


def _code_of(spec: str) -> bytes:
    """What a specifier that names code stands for now: a run of other code is another run."""
    if not spec:
        return b""
    prefix, name, _ = parse(spec)
    if prefix == WITHOUT:
        return _code_of(parse_without(spec)[1])
    file = name.rpartition(":")[0]
    if prefix == "module":
        found = find_spec(file)
        file = "" if found is None or found.origin is None else found.origin
    return Path(file).expanduser().read_bytes() if prefix in ("file", "module") and file else b""


def told_right(figures: Sequence[Figures]) -> np.ndarray:
    """Of trainings that kept the same photos apart, "trainings photos": 1, 0, or NaN of one that could not be read."""
    return np.array([[math.nan if word == "-" else float(word) for word in one.right] for one in figures])


def epochs_for(steps: int, photos: int, batch: int) -> int:
    """How many epochs are at least so many steps."""
    each = len(cut(np.arange(photos), batch, least=2))
    return max(1, -(-steps // each))


def _carried_out(data: DataSet, plan: Plan, photos: str) -> Figures:
    place = place_of(data, plan, photos)
    known = _known(place)
    if known is None:
        known = _trained(data, plan, place)
        with replacing(place / FIGURES) as draft:
            draft.write_text(json.dumps(asdict(known), indent=1) + "\n", encoding="utf-8")
    shutil.rmtree(place / "checkpoints", ignore_errors=True)  # nothing is gone on from; its weights stay
    return known


def _known(place: Path) -> Figures | None:
    try:
        found = json.loads((place / FIGURES).read_text(encoding="utf-8"))
        return Figures(**{**found, "folder": str(place)})
    except (OSError, ValueError, TypeError, KeyError):  # not done, or of another version
        return None


def _trained(data: DataSet, plan: Plan, place: Path) -> Figures:
    found, settings, run = data.catalog, dict(plan.settings), RunFolder(place)
    apart = np.flatnonzero(plan.of == TEST)
    with unheard():
        if not ((place / EVALUATION).exists() and not (place / "checkpoints").exists()):  # that one is done
            if run.load_state() is None:  # it begins: later it has its own split
                settings["split"] = _written(data, plan)
            train(data.source, out=place, resume="auto", **data.machine, **data.options, **settings)
        classifier = load_classifier(f"run:{place}").to(data.machine.get("device") or best_device())
        seen = evaluate(classifier, found, apart, workers=data.machine.get("workers"))
        learned = None
        if plan.both:
            rows = np.flatnonzero(plan.of == TRAIN)
            learned = evaluate(classifier, found, rows, workers=data.machine.get("workers")).metrics.accuracy
    right = dict(zip(seen.rows.tolist(), seen.right.tolist(), strict=True))
    return Figures(
        seen.metrics.accuracy,
        seen.metrics.balanced_accuracy,
        seen.metrics.top5,
        seen.metrics.count,
        "".join("-" if row not in right else "1" if right[row] else "0" for row in apart.tolist()),
        learned,
        sum(parameter.numel() for parameter in classifier.network.parameters()),
        len(run.rows()),
        int(seen_by(place, found.hashes[apart]).sum()),
        str(place),
    )


def _written(data: DataSet, plan: Plan) -> str:
    """The file of a split, by its key."""
    found = data.catalog
    file = data.folder / "splits" / f"{key_of(plan.of.tobytes(), found.store.names.blob.tobytes())[:10]}.csv"
    if not file.exists():
        file.parent.mkdir(parents=True, exist_ok=True)
        write_split(file, found.store.names, found.labels, found.classes, Assignment(plan.of))
    return str(file.resolve())
