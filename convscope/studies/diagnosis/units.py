"""Units that do nothing, or nothing of their own: dead, saturated, always on, and duplicates of others."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from torch import Tensor

from convscope.atlas.neighbours import SURE, duplicates
from convscope.studies import drawing
from convscope.studies.diagnosis.bounded import Bounded
from convscope.studies.diagnosis.finding import Checkup, Finding, Measure
from convscope.studies.diagnosis.patient import Patient, Units
from convscope.studies.diagnosis.registry import check
from convscope.studies.result import Figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Drawn

SHARE = 0.75  # of a layer's units, beyond which it is a fault
ENOUGH = 100  # photos, from which a unit that none of them excites is called dead
FULL = 0.5  # of the places, from which a unit is saturated
ON = 1.0  # of the places: a rectifier that never rectifies
NAMED = 6  # units that a finding names
FIGURE = "units"


class Layer(NamedTuple):
    """What is wrong with the units of a layer: their numbers. ``silent``: no unit fires on any photo."""

    units: int
    silent: bool
    dead: list[int]
    saturated: list[int]
    on: list[int]
    same: list[int]


@check("units")
def units(patient: Patient) -> Checkup:
    """Dead, saturated, always active and duplicate units of layers whose activations have bounds.

    * A layer is silent if no unit of it is above its lower bound at any place of any photo. That is a fault, whatever
      the number of photos. Layers that see nothing else than a silent one are not looked at.
    * A unit is dead if it never is. Of fewer than ``ENOUGH`` photos none is called so: one that none of n photos
      excites may still fire on 3 in n of all (the rule of three), and units of single classes are of that kind.
    * A unit is saturated if it lies at its bound at more than half of all places: ReLU6 at 6, a sigmoid or tanh within
      a hundredth of its range of either end.
    * A rectified unit is always on if it is above zero everywhere: its layer is linear in it. That is a remark only.
    * Units are duplicates if their maxima on the photos are the same up to scale and offset (correlation above
      1 - 1e-5) and they fire on at least ``SURE`` photos: on fewer, all units that fire on the same one are alike.

    Dead, saturated or duplicate units are a fault where they are more than three quarters of a layer, else a remark:
    sound networks have some. Of EfficientNet-Lite0 on crops of seven photos up to 13 % of a layer are dead, 9 %
    duplicates, 38 % always on; of the hidden layer of small digit networks that are right in 93 to 97 %, 30 to 63 % are
    dead.
    """
    if not patient.bounded:
        return Checkup.left_out("units: no layer's activations have bounds (ReLU, ReLU6, sigmoid, tanh), none can die")
    hidden = _behind_silent(patient)
    layers = {
        name: _layer(patient.bounded[name], seen, len(patient))
        for name, seen in patient.passed.units.items()
        if name not in hidden
    }
    findings = _findings(layers)
    measures = [one for name, layer in layers.items() for one in _measures(name, layer, len(patient))]
    notes = []
    if len(patient) < ENOUGH:
        notes.append(f"{len(patient)} photos cannot show that a single unit is dead: give at least {ENOUGH}")
    if hidden:
        notes.append(f"{len(hidden)} layers lie behind a silent one and see nothing: they were not looked at")
    total = sum(layer.units for layer in layers.values())
    figure = Figure(FIGURE, CAPTION, lambda: _drawn(layers))
    return Checkup(f"{total:,} units of {len(layers)} layers", findings, measures, [figure], notes)


def _behind_silent(patient: Patient) -> set[str]:
    """Layers that see nothing but what silent ones hand on, however they look themselves."""
    values = {}
    for name in patient.passed.units:
        event = patient.trace.event(name)
        assert event is not None
        assert event.value is not None
        values[event.value.index] = name
    dark: set[int] = set()
    hidden = set()
    for op in patient.trace.ops:
        behind = bool(op.inputs) and all(value.index in dark for value in op.inputs)
        for value in op.outputs:
            layer = values.get(value.index)
            if behind:
                dark.add(value.index)
            if layer is not None and behind:
                hidden.add(layer)
            elif layer is not None and not bool(patient.passed.units[layer].active.any()):
                dark.add(value.index)
    return hidden


def _layer(bounds: Bounded, seen: Units, photos: int) -> Layer:
    count = seen.best.shape[1]
    dead = seen.active == 0
    silent = bool(dead.all())
    if silent:
        return Layer(count, True, [], [], [], [])
    fires = (seen.best > bounds.low).sum(0) >= SURE
    same = (duplicates(seen.best) >= 0) & fires
    on = (seen.active >= ON) & (seen.full < ON) if bounds.hard else dead & False
    return Layer(
        count,
        False,
        _numbers(dead) if photos >= ENOUGH else [],
        _numbers(seen.full > FULL),
        _numbers(on),
        _numbers(same),
    )


def _numbers(which: Tensor) -> list[int]:
    found: list[int] = which.nonzero().flatten().tolist()
    return found


def _silent(name: str) -> Finding:
    reason = "a layer without a unit that fires hands on the same whatever it sees"
    change = "lower the learning rate, or begin anew with biases of 0 and He initialisation"
    return Finding("silent layer", name, 1.0, 0.0, reason, change, FIGURE)


def _findings(layers: dict[str, Layer]) -> list[Finding]:
    """Silent layers, each layer that has too many units of a kind, and one remark on those of a kind elsewhere."""
    found = [_silent(name) for name, layer in layers.items() if layer.silent]
    for kind in KINDS:
        shares = {name: len(kind.of(one)) / one.units for name, one in layers.items() if kind.of(one)}
        many = [name for name, share in shares.items() if kind.fault and share > SHARE]
        found += [
            Finding(kind.name, f"{name}:{_named(kind.of(layers[name]))}", shares[name], SHARE, WHY, kind.change, FIGURE)
            for name in many
        ]
        if few := {name: share for name, share in shares.items() if name not in many}:
            count, worst = sum(len(kind.of(layers[name])) for name in few), max(few, key=lambda name: few[name])
            there = f"{len(few)} layers" if len(few) > 1 else "1 layer"
            where = f"{count} in {there}, the most in {worst}:{_named(kind.of(layers[worst]))}"
            found.append(Finding(kind.name, where, few[worst], SHARE, kind.remark, kind.change, FIGURE, fault=False))
    return found


def _named(those: Sequence[int]) -> str:
    return ",".join(map(str, those[:NAMED])) + (f" and {len(those) - NAMED} more" if len(those) > NAMED else "")


class Kind(NamedTuple):
    """``fault``: whether it is one where most units of a layer are of the kind."""

    name: str
    of: Callable[[Layer], list[int]]
    remark: str
    change: str
    fault: bool = True


WHY = "with so few units left that do something, the layer is narrower than it was meant to be"
SOME = "a sound network has some; beyond three quarters of a layer they are a fault"
KINDS = [
    Kind(
        "dead units",
        lambda layer: layer.dead,
        SOME,
        "lower the learning rate or the weight decay, or use leaky rectifiers",
    ),
    Kind(
        "saturated units",
        lambda layer: layer.saturated,
        SOME,
        "normalise the layer's inputs (BatchNorm), or lower the learning rate",
    ),
    Kind("duplicate units", lambda layer: layer.same, SOME, "make the layer narrower: they can be pruned"),
    Kind(
        "units that are always on",
        lambda layer: layer.on,
        "they select nothing: where they are, the layer is linear; sound networks have whole layers of them",
        "nothing, if they are few; else BatchNorm before the rectifier",
        fault=False,
    ),
]


def _measures(name: str, layer: Layer, photos: int) -> list[Measure]:
    shares = {
        "share of saturated units": layer.saturated,
        "share of duplicate units": layer.same,
    }
    if photos >= ENOUGH:
        shares = {"share of dead units": layer.dead, **shares}
    found = [Measure(name, what, len(those) / layer.units, SHARE) for what, those in shares.items()]
    on = Measure(name, "share of units that are always on", len(layer.on) / layer.units)
    return [Measure(name, "no unit fires (1: yes)", float(layer.silent), 0.0), *found, on]


CAPTION = (
    "Of each layer the share of its units that never fire, that lie at their bound on most places, that are duplicates "
    "of another, and that are never zero. The line is the share from which the first three are a fault; a layer in "
    "which nothing fires has a bar of its own."
)


def _drawn(layers: dict[str, Layer]) -> Drawn:
    width = max(4.0, 0.22 * len(layers) + 1.5)
    figure, axes = drawing.panels(1, 1, width=width, height=3.2, names=" ".join(layers))
    panel, at = axes[0, 0], np.arange(len(layers))
    kinds = {
        "dead": [one.dead for one in layers.values()],
        "saturated": [one.saturated for one in layers.values()],
        "duplicate": [one.same for one in layers.values()],
        "always on": [one.on for one in layers.values()],
    }
    wide, highest = 0.8 / len(kinds), 0.0
    for number, (kind, those) in enumerate(kinds.items()):
        shares = [len(some) / one.units for some, one in zip(those, layers.values(), strict=True)]
        panel.bar(at + (number - 1.5) * wide, shares, wide, color=drawing.COLOURS[number], label=kind)
        highest = max(highest, *shares)
    if silent := [row for row, one in enumerate(layers.values()) if one.silent]:
        panel.bar(silent, 1.0, 0.8, color=drawing.COLOURS[-1], label="silent layer")
        highest = 1.0
    panel.axhline(SHARE, color=drawing.PALE, linewidth=1, linestyle="--")
    panel.set_xticks(at, [drawing.shortened(name, 20) for name in layers], rotation=90)
    drawing.plain(panel, across="", up="share of the layer's units")
    panel.set_xlim(-0.6, len(layers) - 0.4)
    panel.set_ylim(0, max(1.2 * SHARE, 1.05 * highest))
    panel.legend(fontsize=7, frameon=False)
    return figure
