"""The network of an atlas, found again: the one that it names, or one that is given, checked to be the same."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from convscope.atlas.build import MADE_OF, differences, identity
from convscope.atlas.photos import framing_of
from convscope.errors import UsageError
from convscope.instrument.canvas import REFUSALS
from convscope.models.classifier import Classifier, unwrapped
from convscope.models.device import best_device
from convscope.models.registry import load_classifier, parse

CODE = ("file", "module")  # specifiers that run code; a run's settings may name code too, and are not asked about


def network_of(folder: Path, meta: Mapping[str, Any], given: Any = None) -> Classifier:
    """The classifier that an atlas was made of. ``given``: a Scope, Classifier, module or specifier to take for it."""
    found = _found(folder, meta, getattr(given, "classifier", given))
    try:
        own = identity(found)
    except REFUSALS as error:
        height, width = found.canvas
        raise UsageError(
            f"{folder} is an atlas of another model: {found.name} does not run on an input of {height}x{width}"
        ) from error
    other = differences(own, meta[MADE_OF])
    other += ["framing"] if found.framing != framing_of(meta) else []
    if other:
        raise UsageError(f"{folder} is an atlas of another model: {found.name} has other {' and '.join(other)}")
    return found


def _found(folder: Path, meta: Mapping[str, Any], given: Any) -> Classifier:
    if isinstance(given, nn.Module):
        module = unwrapped(given)
        return module if isinstance(module, Classifier) else _around(module, meta)
    loading = meta.get("loading")
    if given is None and loading is None:
        raise UsageError(f"{folder} is an atlas of a model in Python: give that too, as in Atlas({str(folder)!r}, net)")
    spec = str(given) if given is not None else str((loading or {})["spec"])
    if given is None and parse(spec)[0] in CODE:
        raise UsageError(
            f"{folder} is an atlas of {spec}, which is code: if you trust it, name it by --model or model="
        )
    # Whoever names the model means the one that is named there, with the weights and options that it had.
    same = {} if loading is None else {name: value for name, value in loading.items() if name != "spec"}
    return load_classifier(spec, **same).to(best_device())


def _around(module: nn.Module, meta: Mapping[str, Any]) -> Classifier:
    return Classifier(
        module,
        mean=meta["mean"],
        std=meta["std"],
        framing=framing_of(meta),
        channels=meta["channels"],
        background=meta["background"],
        name=meta["model"],
    )
