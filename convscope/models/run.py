"""A run folder's model: plain files that anything can read.

config.yaml           model: specifier, options, mean, std, framing, channels
classes.json          the class names, in the order of the outputs
synsets.json          their synsets, where they have any
model.safetensors     the weights
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml
from safetensors.torch import save
from torch import Tensor

from convscope.errors import ModelError, UsageError
from convscope.images.frame import Framing, canvas_of
from convscope.models.checkpoint import load_state, read_state
from convscope.models.classes import Classes
from convscope.models.classifier import Classifier
from convscope.models.registry import RANDOM, SOURCES, Found, Request, parse

CONFIG, CLASSES, SYNSETS, WEIGHTS = "config.yaml", "classes.json", "synsets.json", "model.safetensors"


def write_run(
    classifier: Classifier,
    folder: Path,
    spec: str,
    options: Mapping[str, Any] | None = None,
    *,
    more: Mapping[str, Mapping[str, Any]] | None = None,
    weights: bool = True,
) -> None:
    """Write what ``read_run`` reads. ``spec`` and ``options`` rebuild the network's structure.

    ``more``: other sections of config.yaml, such as how it was trained, or more of its model. ``weights``: False for a
    run that has none yet; it is not read until it has.
    """
    if parse(spec)[0] == "run":
        raise UsageError(f"{spec} is a run itself: give the specifier that it was made from")
    if classifier.classes is None:
        raise UsageError("a run needs class names: classify a photo once or pass classes=")
    framing = classifier.framing
    model = {
        "spec": spec,
        "options": dict(options or {}),
        "mean": list(classifier.mean),
        "std": list(classifier.std),
        "size": list(framing.size) if framing.size else None,
        "short": framing.short,
        "interpolation": framing.interpolation,
        "squash": framing.squash,
        "channels": classifier.channels,
        "background": classifier.background,
    }
    try:
        sections = {**(more or {}), "model": {**model, **(more or {}).get("model", {})}}
        config = yaml.safe_dump({"model": sections.pop("model"), **sections}, sort_keys=False, allow_unicode=True)
    except yaml.YAMLError as error:
        raise UsageError(f"a run's options are numbers, texts and lists of them: {error}") from None
    folder.mkdir(parents=True, exist_ok=True)
    files = {CLASSES: _json(classifier.classes.names), CONFIG: config.encode()}
    if weights:
        # Clones, because safetensors refuses tensors that share memory.
        state = classifier.network.state_dict()
        files[WEIGHTS] = save({key: value.detach().cpu().contiguous().clone() for key, value in state.items()})
    if classifier.classes.synsets:
        files[SYNSETS] = _json(classifier.classes.synsets)
    for name, content in files.items():
        (folder / f".{name}.part").write_bytes(content)
    for name in files:  # all of the new run, or all of the old one
        os.replace(folder / f".{name}.part", folder / name)
    if SYNSETS not in files:
        (folder / SYNSETS).unlink(missing_ok=True)


def _json(names: tuple[str, ...]) -> bytes:
    return (json.dumps(names, indent=1, ensure_ascii=False) + "\n").encode()


@dataclass(frozen=True)
class Settings:
    """What a run folder says of its model: ``spec`` and ``options`` build the network, the rest is how it sees."""

    spec: str
    options: dict[str, Any]
    classes: Classes
    mean: list[float]
    std: list[float]
    framing: Framing
    channels: int
    background: str
    head_parameters: tuple[str, ...]  # of the layers that began anew on a trained base


def model_section(folder: Path) -> dict[str, Any]:
    """All that a run's config.yaml says of its model."""
    try:
        model: dict[str, Any] = dict(yaml.safe_load((folder / CONFIG).read_text(encoding="utf-8"))["model"])
    except FileNotFoundError:
        raise UsageError(f"run:{folder}: not a run folder, {CONFIG} is missing") from None
    except (OSError, yaml.YAMLError, ValueError, KeyError, TypeError) as error:
        raise ModelError(f"run:{folder}: its files are damaged ({_reason(error)})") from None
    return model


def read_settings(folder: Path) -> Settings:
    """The model of a run folder, but for its weights."""
    model = model_section(folder)
    try:
        if parse(model["spec"])[0] == "run":
            raise ValueError(f"its model is a run: {model['spec']}")
        canvas = canvas_of(model["size"]) if model["size"] else None
        return Settings(
            spec=model["spec"],
            options=dict(model["options"]),
            classes=Classes(_names(folder / CLASSES), _names(folder / SYNSETS) if (folder / SYNSETS).exists() else ()),
            mean=[float(m) for m in model["mean"]],
            std=[float(s) for s in model["std"]],
            framing=Framing(canvas, model["short"], model["interpolation"], model["squash"]),
            channels=int(model["channels"]),
            background=model.get("background", "white"),
            head_parameters=tuple(model.get("head_parameters", ())),
        )
    except FileNotFoundError as error:
        raise UsageError(f"run:{folder}: not a run folder, {Path(error.filename).name} is missing") from None
    except (OSError, yaml.YAMLError, ValueError, KeyError, TypeError, UsageError) as error:
        raise ModelError(f"run:{folder}: its files are damaged ({_reason(error)})") from None


def _reason(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())


def read_run(folder: Path, size: tuple[int, int] | None = None) -> Found:
    """The network of a run folder, with its weights and everything it needs to see a photo as in training.

    ``size``: another canvas than that of the training, for a network that is built for its canvas.
    """
    run = read_settings(folder)
    if not (folder / WEIGHTS).exists():
        raise UsageError(f"{folder} has no weights yet: its training has not come to the end of an epoch")
    prefix, name, _ = parse(run.spec)
    with torch.random.fork_rng(devices=[]):  # its first weights are random, and let go
        found = SOURCES[prefix](Request(name, RANDOM, run.options, size or run.framing.size))
    state = read_state(folder / WEIGHTS)
    network = found.network.to(_dtype(state))  # before it is filled: float32 would round what float64 holds
    load_state(network, state, str(folder / WEIGHTS))
    return Found(network, run.classes, run.mean, run.std, run.framing, run.channels, run.background)


def _names(path: Path) -> tuple[str, ...]:
    names = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(names, list) or not names or not all(isinstance(name, str) for name in names):
        raise ValueError(f"{path.name} is not a list of names")
    return tuple(names)


def _dtype(state: Mapping[str, Tensor]) -> Any:
    """The dtype that a network was saved in; None, which leaves it in its factory's, where it had several."""
    found = {tensor.dtype for tensor in state.values() if tensor.is_floating_point()}
    return found.pop() if len(found) == 1 else None
