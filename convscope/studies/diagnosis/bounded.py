"""Layers whose activations have bounds: rectifiers, and what saturates."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from convscope.instrument.receptive_field import argument
from convscope.instrument.trace import Event, Op, Trace

NEAR = 0.01  # of its range: as near to a bound as a sigmoid or tanh that is said to be at it


class Bounded(NamedTuple):
    """``low`` and ``high``: the bounds of its values. ``hard``: they are reached, so a unit at the lower one is off;
    a sigmoid or tanh comes near them, and saturates at both."""

    kind: str
    low: float
    high: float
    hard: bool


def bounded_layers(taken: Trace) -> dict[str, Bounded]:
    """The layers that are rectified or saturate, each under one name, in the order in which they run.

    The network's own output is none: a softmax or sigmoid there is an answer, not a unit.
    """
    found: dict[str, Bounded] = {}
    output = taken.output.index if taken.output is not None else None
    for op in taken.ops:
        bounds = bounds_of(op)
        if bounds is None or not op.outputs or op.outputs[0].index == output:
            continue
        event = _named(taken, op.outputs[0].index)
        if event is not None and event.value is not None and len(event.value.shape) in (2, 4):
            found[event.address.key] = bounds
    return found


def bounds_of(op: Op) -> Bounded | None:
    """The bounds of an operation's values, if it is an activation with bounds."""
    match op.name:
        case "relu":
            return Bounded("ReLU", 0.0, math.inf, True)
        case "sigmoid":
            return Bounded("sigmoid", 0.0, 1.0, False)
        case "tanh":
            return Bounded("tanh", -1.0, 1.0, False)
        case "hardtanh":
            return _between(argument(op, 1, "min_val", -1.0), argument(op, 2, "max_val", 1.0))
        case "clamp":
            return _between(argument(op, 1, "min", None), argument(op, 2, "max", None))
        case "clamp_min":
            return _between(argument(op, 1, "min", None), None)
        case "threshold":
            same = argument(op, 1, "threshold", None) == 0 == argument(op, 2, "value", None)
            return Bounded("ReLU", 0.0, math.inf, True) if same else None
        case "hardsigmoid":
            return Bounded("hard sigmoid", 0.0, 1.0, False)
    return None


def _between(low: object, high: object) -> Bounded | None:
    if not isinstance(low, (int, float)):
        return None
    top = float(high) if isinstance(high, (int, float)) else math.inf
    if low == 0:
        return Bounded("ReLU" if top == math.inf else f"ReLU{top:g}", 0.0, top, True)
    return Bounded("hard tanh", float(low), top, False) if top < math.inf else None


def at_bound(one: Bounded, output: Tensor) -> Tensor:
    """Of each photo and unit the share of places that saturate."""
    if math.isinf(one.high):
        return torch.zeros(output.shape[:2], device=output.device)
    near = 0.0 if one.hard else NEAR * (one.high - one.low)
    full = output >= one.high - near
    if not one.hard:
        full |= output <= one.low + near
    return full.flatten(2).double().mean(2) if output.ndim > 2 else full.double()


def _named(taken: Trace, value: int) -> Event | None:
    """The layer that gave a value: the innermost module, else the function call."""
    own = [event for event in taken.events if event.value is not None and event.value.index == value]
    return next((event for event in own if not event.address.function), own[0] if own else None)
