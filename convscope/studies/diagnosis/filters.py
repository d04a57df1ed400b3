"""First-layer filters: whether a few dominate, whether they are noise, and which frequencies they leave out."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from convscope.images import colour
from convscope.studies import drawing
from convscope.studies.diagnosis.finding import Checkup, Finding, Measure
from convscope.studies.diagnosis.first import First, first_layer
from convscope.studies.diagnosis.patient import Patient
from convscope.studies.diagnosis.registry import check
from convscope.studies.result import Figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Drawn

FEW = 1 / 16  # of the filters: those that may dominate
DOMINANT = 0.6  # of the energy
FEWEST = 8  # filters, of which a few can be said to dominate
NUMBERS = 25  # of a filter, from which noise can be told from a pattern: 5x5, or 3x3 in colour
NOISY = 0.75  # of the filters
SURE = 0.95  # of filters of noise lie below
DRAWS = 2000
LOW, HIGH = 1 / 8, 0.34  # cycles a pixel: below, above
ALL = 0.8  # of the energy
MIDDLE = 0.1  # of the energy, at least
SHOWN = 96
FIGURE = "filters"


@check("filters")
def filters(patient: Patient) -> Checkup:
    """First-layer filters (Zeiler & Fergus 2013, sections 3, 4.1 and 5.1).

    * Dominated ("a few of them dominate"): the share of the filters' energy, squared weights with the gain of BatchNorm
      where that follows, which the strongest sixteenth of them has. Beyond 0.6, ten times their share, it is a fault.
      The paper's remedy is to rescale filters whose RMS exceeds a radius to that radius.
    * Noise: of a filter's Fourier energy, summed over its channels, the share of its strongest frequency. A filter for
      which it is below the 95 % quantile of white noise of the same shape cannot be told from noise. Nearly all of an
      untrained layer is, 53 % of EfficientNet-Lite0's; beyond 75 % it is a fault. Of filters of less than 25 numbers
      nothing of the kind can be said.
    * All low, all high, no middle ("a mix of extremely high and low frequency information, with little coverage of the
      mid frequencies"): shares of the filters' energy, each filter alike, below 1/8 cycle a pixel, above 0.34, and
      between. Beyond 0.8 in one, or less than 0.1 between with filters of 5x5 or more, is a fault; white noise has 0.03
      to 0.11 below and 0.4 to 0.6 above.

    Filters with an RMS below a hundredth of the largest are left out of the last two.
    """
    first = first_layer(patient)
    if first is None:
        return Checkup.left_out("filters: no convolution sees the pixels themselves")
    findings: list[Finding] = []
    measures: list[Measure] = []
    notes: list[str] = []
    for part in (_dominated, _noise, _bands):
        found, measured, note = part(first)
        findings += found
        measures += measured
        notes += note
    seen = f"{len(first.filters)} filters of {first.layer}"
    return Checkup(seen, findings, measures, [Figure(FIGURE, CAPTION, lambda: _drawn(first))], notes)


Part = tuple[list[Finding], list[Measure], list[str]]


def dominance(first: First) -> tuple[float, list[int]]:
    """The energy share of the strongest sixteenth of the filters, and which they are."""
    energy = first.rms.square()
    order = energy.argsort(descending=True, stable=True)[: max(1, math.ceil(len(energy) * FEW))]
    return float(energy[order].sum() / energy.sum().clamp(min=1e-300)), order.tolist()


def _dominated(first: First) -> Part:
    if len(first.filters) < FEWEST:
        return [], [], [f"filters: {len(first.filters)} are too few for some to dominate"]
    share, strongest = dominance(first)
    measures = [
        Measure(first.layer, "energy share of the strongest sixteenth of the filters", share, DOMINANT),
        Measure(first.layer, "largest RMS of a filter over the median", float(first.rms.max() / first.rms.median())),
    ]
    if share <= DOMINANT:
        return [], measures, []
    typical = float(first.filters.square().flatten(1).mean(1).sqrt().median())
    reason = f"{len(strongest)} of {len(first.filters)} filters would have {len(strongest) / len(first.filters):.2g}"
    change = (
        f"rescale filters of a larger RMS to a fixed one after each step: --max-filter-rms {typical:.2g} is what they "
        "have now at the median"
    )
    where = f"{first.layer}:{','.join(map(str, strongest[:6]))}"
    return [Finding("dominated first layer", where, share, DOMINANT, reason, change, FIGURE)], measures, []


def concentration(filters: Tensor) -> Tensor:
    """Of each filter the share of its Fourier energy that its strongest frequency has, with its mirror image."""
    power = torch.fft.fft2(filters).abs().square().sum(1)
    mirrored = power.flip((1, 2)).roll((1, 1), (1, 2))
    height, width = power.shape[1:]
    rows, cols = torch.arange(height), torch.arange(width)
    own = (rows == -rows % height)[:, None] & (cols == -cols % width)  # constant, or at half a cycle: no mirror image
    pairs = torch.where(own, power, power + mirrored)
    return pairs.flatten(1).amax(1) / power.sum((1, 2)).clamp(min=1e-300)


def _noise(first: First) -> Part:
    shape = first.filters.shape[1:]
    if shape.numel() < NUMBERS:
        sizes = "x".join(map(str, shape))
        return [], [], [f"filters: {shape.numel()} numbers ({sizes}) are too few to tell a pattern from noise"]
    generator = torch.Generator().manual_seed(0)
    noise = concentration(torch.randn(DRAWS, *shape, generator=generator, dtype=torch.float64))
    limit = float(noise.quantile(SURE))
    share = float((concentration(first.filters[first.live]) < limit).double().mean())
    measures = [Measure(first.layer, "share of filters that cannot be told from noise", share, NOISY)]
    if share <= NOISY:
        return [], measures, []
    reason = f"{SURE:.0%} of filters of white noise have less than {limit:.2g} of their energy in one frequency"
    change = (
        "the filters are still what they began as: train for longer or with a larger learning rate, or let them begin "
        "with smaller weights (the paper's are of 0.01)"
    )
    return [Finding("noise for filters", first.layer, share, NOISY, reason, change, FIGURE)], measures, []


def bands(filters: Tensor) -> Tensor:
    """Energy shares "n 3" of low, middle and high frequencies: those that a filter of this size can tell apart."""
    power = torch.fft.fft2(filters).abs().square().sum(1)
    rows, cols = (torch.fft.fftfreq(side, dtype=torch.float64) for side in power.shape[1:])
    radius = (rows.square()[:, None] + cols.square()).sqrt()
    within = [radius < LOW, (radius >= LOW) & (radius <= HIGH), radius > HIGH]
    total = power.sum((1, 2)).clamp(min=1e-300)
    return torch.stack([(power * one).sum((1, 2)) / total for one in within], 1)


def _bands(first: First) -> Part:
    low, middle, high = bands(first.filters[first.live]).mean(0).tolist()
    sides = min(first.filters.shape[2:])
    if sides < 3:
        return [], [], [f"filters: windows of {sides} pixels have no frequencies to speak of"]
    measures = [
        Measure(first.layer, "energy share below 1/8 cycle a pixel", low, ALL),
        Measure(first.layer, "energy share above 0.34 cycle a pixel", high, ALL),
        Measure(first.layer, "energy share between", middle, MIDDLE if sides >= 5 else None),
    ]
    mixed = "a first layer that sees photos has edges of several sizes, in all bands"
    if low > ALL:
        change = "a larger learning rate or less weight decay; check that the photos are sharp and not all alike"
        found = Finding("all of low frequency", first.layer, low, ALL, mixed, change, FIGURE)
    elif high > ALL:
        change = "check the photos for noise and the normalisation; train for longer, or with more weight decay"
        found = Finding("all of high frequency", first.layer, high, ALL, mixed, change, FIGURE)
    elif sides >= 5 and middle < MIDDLE:
        change = "smaller filters with a smaller stride, as the paper did (11x11 stride 4 to 7x7 stride 2)"
        found = Finding("no middle frequencies", first.layer, middle, MIDDLE, mixed, change, FIGURE)
    else:
        return [], measures, []
    return [found], measures, []


CAPTION = (
    "The filters of the first layer, the strongest first, all on one scale of colours, so that what dominates is seen; "
    "below, each filter's RMS in that order (with BatchNorm's gain, where that follows), and each filter's energy by "
    "frequency: below 1/8 cycle a pixel, between, and above 0.34."
)


def _drawn(first: First) -> Drawn:
    order = first.rms.argsort(descending=True, stable=True)
    scaled = first.filters * first.gain[:, None, None, None]
    columns = min(16, len(order))
    shown = order[:SHOWN].tolist()
    rows = math.ceil(len(shown) / columns)
    figure, _ = drawing.panels(1, 1, width=max(5.0, 0.5 * columns), height=0.5 * rows + 3.6, names=first.layer)
    figure.clear()
    parted = figure.subfigures(3, 1, squeeze=False, height_ratios=[0.5 * rows + 0.2, 1.7, 1.7])
    top, middle, bottom = parted[:, 0]
    limit = float(scaled.abs().amax())
    for panel, unit in zip(top.subplots(rows, columns, squeeze=False).flat, [*shown, *[None] * columns], strict=False):
        panel.axis("off")
        if unit is not None:
            panel.imshow(colour.pixels(scaled[unit].float(), limit=limit or None))
    at = range(len(order))
    chart = middle.subplots()
    chart.bar(at, first.rms[order].tolist(), color=drawing.COLOURS[0])
    drawing.plain(chart, across="", up="RMS")
    parts = bands(first.filters)[order].T.tolist()
    chart, height = bottom.subplots(), [0.0] * len(order)
    for number, (name, part) in enumerate(zip(("low", "middle", "high"), parts, strict=True)):
        chart.bar(at, part, bottom=height, color=drawing.COLOURS[number], label=name)
        height = [a + b for a, b in zip(height, part, strict=True)]
    drawing.plain(chart, across=f"filters of {first.layer}, by RMS", up="energy")
    chart.legend(fontsize=7, frameon=False, ncols=3, loc="lower right", bbox_to_anchor=(1, 1))
    return figure
