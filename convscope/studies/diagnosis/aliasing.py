"""Aliasing: what a strided first layer lets through that its coarser grid cannot tell from something else."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from convscope.studies import drawing
from convscope.studies.diagnosis.finding import Checkup, Finding, Measure
from convscope.studies.diagnosis.first import First, first_layer
from convscope.studies.diagnosis.patient import Patient
from convscope.studies.diagnosis.registry import check
from convscope.studies.result import Figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Drawn

MOST = 0.25  # of the typical filter's response
WIDE = 4  # a stride that is worth a remark
GRID = 224  # pixels, on which frequencies are told apart
PART = 8  # filters at a time
PHOTOS = 16
SHOWN = 6
FIGURE = "aliasing"


@check("aliasing")
def aliasing(patient: Patient) -> Checkup:
    """Aliasing of the first layer (Zeiler & Fergus 2013, section 4.1: artefacts "caused by the large stride 4").

    A layer of stride s samples each filter's map at every s-th pixel, which can hold frequencies below 1 / 2s cycles a
    pixel; what lies above is folded onto lower ones. Of each filter W that is no part of a thousandth the number is

        sum of |W(f)|^2 / |f|^2 over f beyond 1 / 2s in either direction, over the same sum for all f but 0:

    the share of its response that is folded, for photos whose power falls with the square of the frequency, as natural
    photos' does (Field 1987): it depends on weights and stride alone, not on how sharp these photos happen to be. The
    same is measured on these photos, of the maps that the filters have without a stride: small photos hold more detail
    than natural ones. The layer's number is the median of its filters, the larger of the two.

    Random filters come to 0.15-0.2 with a stride of 2 and to 0.3-0.4 with one of 4, EfficientNet-Lite0's to 0.10, Gabor
    filters of 11x11 as AlexNet's, tuned to 0.17 cycles a pixel, to 0.56 with a stride of 4 and 0.02 with 2. A quarter
    is between. A stride of 4 or more that is below it, as with filters that pass low frequencies alone, is a remark.
    Windows that do not overlap (patches of a transformer) are no filters of a grid and left out.
    """
    first = first_layer(patient)
    if first is None:
        return Checkup.left_out("aliasing: no convolution sees the pixels themselves")
    stride, kernel = max(first.stride), first.filters.shape[2:]
    if stride == 1:
        measure = Measure(first.layer, "share of the typical filter's response that is folded", 0.0, MOST)
        return Checkup(f"{first.layer}'s stride of 1", measures=[measure])
    if min(kernel) <= stride:
        return Checkup.left_out(f"aliasing: {first.layer}'s windows do not overlap, so they are no filters of a grid")
    shares = folded(first.filters, first.stride)
    number, seen = (float(one[first.live].median()) for one in (shares, folded_of(patient, first)))
    measures = [
        Measure(first.layer, "share of the typical filter's response to natural photos that is folded", number, MOST),
        Measure(first.layer, "the same of these photos", seen, MOST),
    ]
    findings = []
    if max(number, seen) > MOST or stride >= WIDE:
        fault, size = max(number, seen) > MOST, "x".join(map(str, kernel))
        reason = (
            f"a stride of {stride} holds nothing above 1/{2 * stride} cycles a pixel; random filters have 0.15 to 0.2 "
            "above it with a stride of 2, trained ones less"
        )
        change = (
            f"a stride of {max(1, stride // 2)} in the first layer, and filters of 7x7 where they are larger (the "
            f"paper went from 11x11 stride 4 to 7x7 stride 2; here {size} stride {stride}), or a blur before the stride"
        )
        findings = [Finding("aliasing", first.layer, max(number, seen), MOST, reason, change, FIGURE, fault)]
    figure = Figure(FIGURE, CAPTION, lambda: _drawn(first, shares))
    return Checkup(f"{first.layer}'s stride of {stride}", findings, measures, [figure])


def folded(filters: Tensor, stride: tuple[int, int], grid: int = GRID) -> Tensor:
    """Of each filter the share of its response to natural photos that lies beyond what the stride can hold."""
    rows, cols = torch.fft.fftfreq(grid, dtype=torch.float64)[:, None], torch.fft.rfftfreq(grid, dtype=torch.float64)
    square = rows**2 + cols**2
    photos = torch.where(square > 0, 1 / square.clamp(min=1e-12), 0.0)
    photos[:, 1 : (grid + 1) // 2] *= 2  # half of the spectrum stands for all of it
    beyond = (rows.abs() >= 0.5 / stride[0]) | (cols >= 0.5 / stride[1])
    found = []
    for part in filters.split(PART):
        power = torch.fft.rfft2(part, (grid, grid)).abs().square().sum(1) * photos
        found.append((power * beyond).sum((1, 2)) / power.sum((1, 2)).clamp(min=1e-300))
    return torch.cat(found)


def folded_of(patient: Patient, first: First) -> Tensor:
    """The same of the patient's photos: of the maps that the filters have without a stride, faded at the border."""
    rows = range(0, len(patient), max(1, len(patient) // PHOTOS))
    images = patient.pixels(list(rows)[:PHOTOS]).double().cpu()
    mean, std = (
        images.new_tensor(values)[:, None, None] for values in (patient.classifier.mean, patient.classifier.std)
    )
    total = beyond = torch.zeros(len(first.filters), dtype=torch.float64)
    padding = tuple(side // 2 for side in first.filters.shape[2:])
    for image in images:
        maps = F.conv2d(((image - mean) / std)[None], first.filters, padding=padding)[0]
        height, width = maps.shape[1:]
        fade = _fade(height)[:, None] * _fade(width)
        apart = maps - (maps * fade).sum((1, 2), keepdim=True) / fade.sum()
        power = torch.fft.fft2(apart * fade).abs().square()
        rows_of, cols_of = torch.fft.fftfreq(height).abs()[:, None], torch.fft.fftfreq(width).abs()
        far = (rows_of >= 0.5 / first.stride[0]) | (cols_of >= 0.5 / first.stride[1])
        total = total + power.sum((1, 2))
        beyond = beyond + (power * far).sum((1, 2))
    return beyond / total.clamp(min=1e-300)


def _fade(side: int) -> Tensor:
    return torch.hann_window(side, periodic=False, dtype=torch.float64)


CAPTION = (
    "The filters of the first layer of which most is folded, and what each passes on of natural photos, by frequency "
    "(middle: the mean; border: half a cycle a pixel; dark: little). The box holds what the layer's stride can tell "
    "apart; all that is outside comes back as a frequency inside, as stripes that are not in the photo. Below, the "
    "share outside, of every filter; dotted their median, dashed the share from which that is a fault."
)


def _drawn(first: First, shares: Tensor) -> Drawn:
    from matplotlib.patches import Rectangle

    from convscope.images import colour

    worst = torch.where(first.live, shares, -1.0).argsort(descending=True, stable=True)[:SHOWN].tolist()
    figure, _ = drawing.panels(1, 1, names=first.layer, height=6.0, width=1.8 * SHOWN)
    figure.clear()
    top, bottom = figure.subfigures(2, 1, squeeze=False, height_ratios=[2.2, 1])[:, 0]
    axes = top.subplots(2, len(worst), squeeze=False)
    frequencies = torch.fft.fftfreq(GRID, dtype=torch.float64)
    square = frequencies[:, None] ** 2 + frequencies**2
    for column, unit in enumerate(worst):
        drawing.picture(axes[0, column], colour.pixels(first.filters[unit].float()), f"{first.layer}:{unit}")
        power = torch.fft.fft2(first.filters[unit], (GRID, GRID)).abs().square().sum(0) / square.clamp(min=1e-5)
        shown = torch.fft.fftshift(power.clamp(min=1e-300).log10())
        high = float(shown.max())
        where = {"extent": (-0.5, 0.5, 0.5, -0.5), "vmin": high - 4, "vmax": high, "cmap": "magma"}
        drawing.picture(axes[1, column], shown.numpy(), f"{float(shares[unit]):.0%} outside", **where)
        half = [0.5 / step for step in first.stride]
        axes[1, column].add_patch(
            Rectangle((-half[1], -half[0]), 2 * half[1], 2 * half[0], fill=False, edgecolor="#00d0ff")
        )
    panel = bottom.subplots()
    panel.bar(range(len(shares)), torch.where(first.live, shares, 0.0).tolist(), color=drawing.COLOURS[0])
    panel.axhline(MOST, color=drawing.INK, linewidth=1, linestyle="--")
    panel.axhline(float(shares[first.live].median()), color=drawing.INK, linewidth=1, linestyle=":")
    drawing.plain(panel, across=f"filter of {first.layer}", up="share folded")
    return figure
