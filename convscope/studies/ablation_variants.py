"""What an ablation compares: an architecture, and what was changed in it."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from convscope.errors import UsageError
from convscope.models.registry import RANDOM, WITHOUT, lasting_spec, parse
from convscope.models.zoo import ARCHITECTURES
from convscope.training.config import Model
from convscope.training.prepare import begin
from convscope.training.start import CODE

WHOLE, REMOVE = "whole", "remove"
TABLE_3 = ([3, 4], 7, [6, 7], [3, 4, 6, 7])  # the layers that the paper's table leaves out
CONV = (512 / 384, 1024 / 384, 512 / 256)  # by which it widens layers 3 to 5


@dataclass(frozen=True)
class Variant:
    """A network to train. ``model``: the settings of convscope.train that build it. ``parameters``: how many it has."""

    name: str
    change: Mapping[str, Any]
    model: Mapping[str, Any]
    parameters: int


def variants_to_train(
    spec: str,
    base: Mapping[str, Any],
    changes: Mapping[str, Mapping[str, Any]] | None,
    size: int | None,
    classes: Sequence[str],
) -> list[Variant]:
    """The whole network first, then each with its changes; every one is built once, so that what cannot be is said now.

    ``base``: options of all of them. A change ``remove`` names layers that hand on what they are given.
    """
    prefix, name, _ = parse(spec)
    if prefix == "run":
        raise UsageError(f"{spec} is a run: name the architecture that it is of, such as convscope:zfnet")
    plain = lasting_spec(spec) if prefix in CODE else f"{prefix}:{name}@{RANDOM}"
    if changes is None:
        changes = table_3(prefix, name, base)
    if not changes:
        raise UsageError("variants is empty: name some, such as 'fc=512; remove=features.3'")
    if WHOLE in changes:
        raise UsageError(f"a variant cannot be called {WHOLE}: that is the network without changes")
    found = []
    for title, change in {WHOLE: {}, **changes}.items():
        options = {**base, **{key: value for key, value in change.items() if key != REMOVE}}
        layers = change.get(REMOVE, [])
        layers = [layers] if not isinstance(layers, (list, tuple)) else layers
        own = f"{WITHOUT}:{','.join(map(str, layers))}:{plain}" if layers else plain
        try:
            begun = begin(Model(spec=own, options=options, size=size), classes, 0)
        except UsageError as error:
            raise UsageError(f"variant {title}: {error}") from None
        count = sum(parameter.numel() for parameter in begun.classifier.network.parameters())
        found.append(Variant(title, change, {"model": own, "options": options or None, "size": size}, count))
    return found


def table_3(prefix: str, name: str, base: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """The rows of the paper's table 3, as far as the architecture has options for them, at its own scale.

    Layers left out; linear layers of half and of twice the width; convolutions widened as there; both.
    """
    own: Mapping[str, Any] = {}
    if prefix == "convscope" and name in ARCHITECTURES:
        parameters = inspect.signature(ARCHITECTURES[name].build).parameters
        own = {key: base.get(key, parameter.default) for key, parameter in parameters.items()}
    changes: list[dict[str, Any]] = []
    if "without" in own and not base.get("without"):
        changes += [{"without": layers} for layers in TABLE_3]
    if isinstance(own.get("fc"), int):
        changes += [{"fc": own["fc"] // 2}, {"fc": own["fc"] * 2}]
    if isinstance(own.get("conv"), (list, tuple)) and len(own["conv"]) == len(CONV):
        groups = int(own.get("groups") or 1)
        wide = [groups * round(width * scale / groups) for width, scale in zip(own["conv"], CONV, strict=True)]
        changes.append({"conv": wide})
        if isinstance(own.get("fc"), int):
            changes.append({"fc": own["fc"] * 2, "conv": wide})
    if not changes:
        raise UsageError(
            f"{prefix}:{name} has no options that table 3 changes (without, fc, conv): name variants, by options of "
            "its own (NAME=VALUE) or layers to do without (remove=LAYER; `convscope layers` lists them)"
        )
    return {titled(change): change for change in changes}


def titled(change: Mapping[str, Any]) -> str:
    """As a user writes it."""
    return " ".join(
        f"{key}={','.join(map(str, value)) if isinstance(value, (list, tuple)) else value}"
        for key, value in change.items()
    )
