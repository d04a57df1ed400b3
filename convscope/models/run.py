"""A run folder's model: plain files that anything can read.

config.yaml           model: specifier, options, mean, std, framing, channels
classes.json          the class names, in the order of the outputs
model.safetensors     the weights
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from safetensors.torch import save_file

from convscope.errors import ModelError, UsageError
from convscope.images.frame import Framing
from convscope.models.checkpoint import load_state, read_state
from convscope.models.classes import Classes
from convscope.models.classifier import Classifier
from convscope.models.registry import RANDOM, SOURCES, Found, Request, parse


def write_run(classifier: Classifier, folder: Path, spec: str, options: Mapping[str, Any] | None = None) -> None:
    """Write what ``read_run`` reads. ``spec`` and ``options`` rebuild the network's structure."""
    if classifier.classes is None:
        raise UsageError("a run needs class names: classify a photo once or pass classes=")
    folder.mkdir(parents=True, exist_ok=True)
    framing = classifier.framing
    model = {
        "spec": spec,
        "options": dict(options or {}),
        "mean": list(classifier.mean),
        "std": list(classifier.std),
        "size": list(framing.size) if framing.size else None,
        "short": framing.short,
        "interpolation": framing.interpolation,
        "channels": classifier.channels,
    }
    state = {key: value.detach().cpu().contiguous().clone() for key, value in classifier.network.state_dict().items()}
    save_file(state, folder / "model.safetensors")
    (folder / "classes.json").write_text(
        json.dumps(classifier.classes.names, indent=1, ensure_ascii=False) + "\n", "utf-8"
    )
    (folder / "config.yaml").write_text(yaml.safe_dump({"model": model}, sort_keys=False), encoding="utf-8")


def read_run(folder: Path) -> Found:
    """The network of a run folder, with its weights and everything it needs to see a photo as in training."""
    try:
        model = yaml.safe_load((folder / "config.yaml").read_text(encoding="utf-8"))["model"]
        names = json.loads((folder / "classes.json").read_text(encoding="utf-8"))
        prefix, name, _ = parse(model["spec"])
        framing = Framing(tuple(model["size"]) if model["size"] else None, model["short"], model["interpolation"])
    except FileNotFoundError as error:
        raise UsageError(f"run:{folder}: not a run folder, {Path(error.filename).name} is missing") from None
    except (yaml.YAMLError, ValueError, KeyError, TypeError) as error:
        raise ModelError(f"run:{folder}: its files are damaged ({type(error).__name__}: {error})") from None
    found = SOURCES[prefix](Request(name, RANDOM, model["options"]))
    weights = folder / "model.safetensors"
    load_state(found.network, read_state(weights), str(weights))
    return Found(found.network, Classes(tuple(names)), model["mean"], model["std"], framing, model["channels"])
