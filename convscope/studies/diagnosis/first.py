"""The first convolution, the one that sees the pixels, as the network has it."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from convscope.instrument.receptive_field import argument, keeps_place
from convscope.instrument.trace import Op, Trace, is_convolution
from convscope.studies.diagnosis.patient import Patient

LIVE = 0.01  # of the largest RMS: a filter below it passes nothing on


class First(NamedTuple):
    """``filters`` "n c kh kw" in float64 on the CPU. ``gain``: what BatchNorm, if it follows, multiplies each by."""

    layer: str
    filters: Tensor
    gain: Tensor
    stride: tuple[int, int]

    @property
    def rms(self) -> Tensor:
        """Root of each filter's mean square, BatchNorm's gain included."""
        return self.filters.square().flatten(1).mean(1).sqrt() * self.gain

    @property
    def live(self) -> Tensor:
        """Which filters pass anything on."""
        return self.rms > LIVE * self.rms.max()


def first_layer(patient: Patient) -> First | None:
    """The convolution whose input is the pixels, padded or normalised at most; None where there is none such."""
    taken = patient.trace
    pixels = {taken.input.index}
    for number, op in enumerate(taken.ops):
        if not op.inputs or op.inputs[0].index not in pixels:
            continue
        if is_convolution(op):
            return _first(taken, number, patient.classifier.channels)
        if (keeps_place(op) or op.name == "constant_pad_nd") and len(op.inputs) == 1:
            pixels.update(value.index for value in op.outputs)
    return None


def _first(taken: Trace, number: int, channels: int) -> First | None:
    op = taken.ops[number]
    weight = op.args[1]
    if not isinstance(weight, Tensor) or weight.ndim != 4 or weight.shape[1] != channels or op.args[6]:
        return None
    filters = weight.detach().double().cpu()
    made = op.outputs[0]
    follows = next((later for later in taken.ops[number + 1 :] if made in later.inputs), None)
    event = next((one for one in taken.events if one.value == made), None)
    stride = tuple(argument(op, 3, "stride", (1, 1)))
    return First(
        event.address.key if event is not None else "the first convolution",
        filters,
        _gain(follows, len(filters)),
        (int(stride[0]), int(stride[-1])),
    )


def _gain(op: Op | None, count: int) -> Tensor:
    """What BatchNorm multiplies each map by: |gamma| / sqrt(variance + eps)."""
    ones = torch.ones(count, dtype=torch.float64)
    if op is None or "batch_norm" not in op.name or len(op.args) < 5 or not isinstance(op.args[4], Tensor):
        return ones
    gamma, variance, eps = op.args[1], op.args[4], op.args[-1]
    found = ones / (variance.detach().double().cpu() + (eps if isinstance(eps, float) else 1e-5)).sqrt()
    return found * gamma.detach().double().cpu().abs() if isinstance(gamma, Tensor) else found
