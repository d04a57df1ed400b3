"""What a run leaves for people: its model, figures, curves, confusion and card."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from convscope.data.listing import Refused
from convscope.models.classifier import Classifier
from convscope.training import charts
from convscope.training.card import CardFacts, model_card
from convscope.training.config import Config
from convscope.training.folder import EVALUATION, RunFolder, environment, writing
from convscope.training.health import LayerHealth
from convscope.training.metrics import Metrics
from convscope.training.optimizers import HEAD, NEW, TUNE
from convscope.training.saver import Progress
from convscope.training.start import Start

TRAINED = {
    HEAD: "the head; the base is frozen",
    TUNE: "a part of a trained network",
    NEW: "all of it, from random weights",
}


def conclude(
    folder: RunFolder,
    config: Config,
    begun: Start,
    classifier: Classifier,
    *,
    chosen: set[str],
    kind: str,
    photos: Mapping[str, Sequence[int]],
    refused: Sequence[Refused],
    done: Progress,
    prepared: float,
    rows: Sequence[Mapping[str, Any]],
    measured: Mapping[str, Metrics],
    layers: Sequence[LayerHealth],
    device: str,
) -> None:
    """Write the figures, curves, confusion and the model card. ``prepared``: seconds before learning."""
    assert classifier.classes is not None
    training, path, names = config.training, folder.path, classifier.classes.names
    on = "test" if "test" in measured else "val"
    pictures = {}
    with writing(path):
        if rows:
            charts.curves(rows, path, best=done.best.get("epoch"), title=path.resolve().name)
            pictures["curves"] = "curves.png"
        if on in measured:
            charts.confusion(measured[on].confusion, names, path, f"{path.resolve().name}, {on} photos")
            pictures["confusion"] = "confusion.png"
    evaluation = {
        "epochs": done.epoch,
        "best": done.best,
        "seconds": done.seconds,
        "prepared": prepared,
        **{name: metrics.as_dict() for name, metrics in measured.items()},
        "layers": [vars(layer) for layer in layers],
    }
    parameters = dict(classifier.network.named_parameters())
    learned = sum(parameters[name].numel() for name in chosen)
    total = sum(parameter.numel() for parameter in parameters.values())
    facts = CardFacts(
        title=" or ".join(names) if len(names) <= 4 else f"{len(names)} classes of photos",
        run=str(path),
        classes=names,
        photos=photos,
        base=begun.origin if kind != NEW else begun.spec,
        trained=f"{TRAINED[kind]} ({learned:,} of {total:,} parameters)",
        optimizer=training.optimizer,
        learning_rate=training.lr or 0.0,
        epochs=len(rows),
        augmentation=training.augment,
        seed=training.seed,
        seconds=done.seconds + prepared,
        device=device,
        versions={"convscope": environment()["convscope"], **environment()["packages"]},
        source=config.data.source,
        date=time.strftime("%Y-%m-%d"),
        best_epoch=done.best.get("epoch"),
        chosen_on=done.best.get("of"),
        measured=measured,
        quarantined=Counter(one.reason for one in refused),
        more={"batch": training.batch_size, "schedule": training.schedule, "label smoothing": training.label_smoothing},
        pictures=pictures,
    )
    folder.write("README.md", model_card(facts))
    folder.write(EVALUATION, json.dumps(evaluation, indent=1) + "\n")  # the last: with it the run is concluded
