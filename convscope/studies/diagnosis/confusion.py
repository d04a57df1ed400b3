"""Classes that are confused, and the units that confuse them."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from convscope.studies import drawing
from convscope.studies.diagnosis.finding import Checkup, Finding, Measure
from convscope.studies.diagnosis.patient import Patient
from convscope.studies.diagnosis.registry import check
from convscope.studies.result import Figure
from convscope.training.metrics import wilson

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Drawn

OFTEN = 0.1  # of a class's photos, at least, with 95 % confidence
MOST = 6  # pairs that are told
UNITS = 5
SHOWN = 16  # classes in the matrix
FIGURE = "confusion"


class Pair(NamedTuple):
    """``wrong`` of the ``of`` photos of class ``own`` are said to be of class ``other``. ``pushes``: what each unit of
    the penultimate layer adds to that; None where the network does not end in one linear layer."""

    own: int
    other: int
    wrong: int
    of: int
    low: float
    pushes: Tensor | None


@check("confusion", labels=True, answers=True)
def confusion(patient: Patient) -> Checkup:
    """Classes that are confused, and the units of the penultimate layer that push photos of one to the other.

    Photos of class a are confused with b if the 95 % interval (Wilson 1927) of the share of them for which b is the
    most probable class lies above 0.1: a tenth of a class is no longer single bad photos. With few photos intervals are
    wide, and nothing is found.

    Where the logits are a linear layer's, W f + c, what unit u adds to the confusion is

        (W[b, u] - W[a, u]) * (mean f[u] of the confused photos - mean f[u] of the photos of a that are right);

    over all units that adds up to how much further b's logit is above a's in the confused photos.
    """
    assert patient.labels is not None
    labels = torch.tensor(patient.labels)
    pairs = confused(labels, patient.answers, patient.passed.features, _last_weights(patient))
    wrong = float((labels != patient.answers).double().mean())
    measures = [Measure("all classes", "share of the photos that are wrong", wrong)]
    names = patient.classes
    measures += [
        Measure(
            f"{names.short(one.own)} as {names.short(one.other)}", "lower end of the share's interval", one.low, OFTEN
        )
        for one in pairs[:50]
    ]
    bad = [one for one in pairs if one.low > OFTEN]
    findings = [_finding(patient, one) for one in bad[:MOST]]
    notes = [f"{len(bad)} pairs of classes are confused; the {MOST} worst are told"] if len(bad) > MOST else []
    figure = Figure(FIGURE, CAPTION, lambda: _drawn(patient, labels, bad[:MOST]))
    seen = f"the answers to {len(labels)} photos of {len(labels.unique())} classes"
    return Checkup(seen, findings, measures, [figure], notes)


def confused(labels: Tensor, answers: Tensor, features: Tensor | None, weights: Tensor | None) -> list[Pair]:
    """Every pair that is confused at all, the surest first."""
    found = []
    for own, other in sorted(set(zip(labels.tolist(), answers.tolist(), strict=True))):
        if own == other:
            continue
        of, wrong = labels == own, (labels == own) & (answers == other)
        right, pushes = of & (answers == own), None
        if features is not None and weights is not None and bool(right.any()):
            apart = features[wrong].mean(0) - features[right].mean(0)
            pushes = (weights[other] - weights[own]) * apart
        count, total = int(wrong.sum()), int(of.sum())
        found.append(Pair(own, other, count, total, wilson(count, total).low, pushes))
    return sorted(found, key=lambda one: -one.low)


def _last_weights(patient: Patient) -> Tensor | None:
    """The weights "classes units" of the linear layer that gives the logits of what enters it."""
    features = patient.passed.features
    if features is None:
        return None
    shape = (patient.logits.shape[1], features.shape[1])
    linear = [module for module in patient.classifier.network.modules() if isinstance(module, nn.Linear)]
    fitting = [module for module in linear if tuple(module.weight.shape) == shape]
    if not fitting:
        return None
    weights = fitting[-1].weight.detach().double().cpu()
    bias = fitting[-1].bias
    given = features @ weights.T + (bias.detach().double().cpu() if bias is not None else 0)
    same = torch.allclose(given, patient.logits, rtol=1e-2, atol=1e-2 * float(patient.logits.abs().max()))
    return weights if same else None


def _finding(patient: Patient, one: Pair) -> Finding:
    own, other = patient.classes.short(one.own), patient.classes.short(one.other)
    reason = (
        f"{one.wrong} of {one.of} photos, so by the 95 % interval at least this share of all such photos; more than a "
        "tenth is more than single bad photos"
    )
    change = f"look at photos of {own} and {other} for wrong labels, add some that tell them apart"
    if one.pushes is not None and patient.penultimate is not None:
        strongest = one.pushes.argsort(descending=True, stable=True)[:3].tolist()
        units = ", ".join(f"{patient.penultimate.key}:{unit} (+{float(one.pushes[unit]):.2g})" for unit in strongest)
        change += f"; what pushes them there is {units}: see what these units look for"
    return Finding("confused classes", f"{own} as {other}", one.low, OFTEN, reason, change, FIGURE)


CAPTION = (
    "Of each class (row) the share of its photos that are given each class (column), the classes that are confused "
    "first. Beside it, for each pair that is a finding, the units of the penultimate layer that push photos from the "
    "first class to the second most: what each adds to the difference of the two logits."
)


def _drawn(patient: Patient, labels: Tensor, bad: list[Pair]) -> Drawn:
    wrong = labels[labels != patient.answers].tolist()
    order = [*(one.own for one in bad), *(one.other for one in bad), *wrong, *labels.tolist()]
    shown = list(dict.fromkeys(order))[:SHOWN]
    told = [one for one in bad if one.pushes is not None][:3]
    names = [drawing.shortened(patient.classes.short(label), 16) for label in shown]
    figure, axes = drawing.panels(1, 1 + len(told), width=3.6, height=3.4, names=" ".join(names))
    shares = np.zeros((len(shown), len(shown)))
    for row, own in enumerate(shown):
        of = labels == own
        for column, other in enumerate(shown):
            shares[row, column] = float((patient.answers[of] == other).double().mean()) if bool(of.any()) else 0.0
    panel = axes[0, 0]
    panel.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    panel.set_xticks(range(len(shown)), names, rotation=90, fontsize=7)
    panel.set_yticks(range(len(shown)), names, fontsize=7)
    if len(shown) <= 10:
        for (row, column), share in np.ndenumerate(shares):
            if share >= 0.005:
                colour = "white" if share > 0.5 else drawing.INK
                panel.text(column, row, f"{share:.2f}"[-4:], ha="center", va="center", fontsize=6, color=colour)
    drawing.plain(panel, across="answered", up="class")
    for chart, one in zip(axes[0, 1:], told, strict=True):
        assert one.pushes is not None
        units = one.pushes.argsort(descending=True, stable=True)[:UNITS].tolist()[::-1]
        layer = "" if patient.penultimate is None else drawing.shortened(patient.penultimate.key, 14)
        chart.barh([f"{layer}:{unit}" for unit in units], one.pushes[units].tolist(), color=drawing.COLOURS[1])
        title = f"{patient.classes.short(one.own)} as {patient.classes.short(one.other)}"
        drawing.plain(chart, across="adds to the difference of logits", up="", title=drawing.shortened(title, 34))
    return figure
