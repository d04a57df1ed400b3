"""Layers that are no better than random: their features are those of the same weights in any order."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from convscope.errors import some
from convscope.instrument.state import undisturbed
from convscope.studies import drawing
from convscope.studies.diagnosis.finding import Checkup, Finding, Measure
from convscope.studies.diagnosis.patient import Patient
from convscope.studies.diagnosis.registry import check
from convscope.studies.result import Figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Drawn

ORDERS = 12  # in which a layer's weights are tried
APART = 4.0  # standard deviations
MOST = 0.5  # of the layers
PHOTOS = 12
COLUMNS = 4096  # places that a layer's covariance is taken over, at most
FEWEST, LARGEST = 32, 2**20  # weights
FIGURE = "random-like"


class Likeness(NamedTuple):
    """``apart``: by how many standard deviations a layer's features are off those of its shuffled weights."""

    layer: str
    apart: float


@check("random-like")
def random_like(patient: Patient) -> Checkup:
    """Layers whose features do not yet differ from random ones.

    What a layer of a trained network makes of its inputs depends on the order of its weights. Each convolution and
    linear layer is given its own inputs, of 12 photos, with its weights as they are and in 12 random orders; all before
    it stays as it is. Of its features three figures are taken, as logarithms:

    * their variance, summed over the units;
    * how many dimensions they fill: (sum of the covariance's eigenvalues)^2 / sum of their squares;
    * over how many units the variance is spread: (sum of the units' variances)^2 / sum of their squares.

    The number is by how many standard deviations of the shuffled ones the layer's own figure lies off their mean, the
    largest of the three. Weights that are drawn independently are like any other order of them (which is what makes
    this a test: Fisher's permutation test), whatever the scale and distribution that they were drawn from. Below 4 the
    layer is like random. In a layer that is untrained one of three t-distributed numbers is beyond 4 in one case of a
    hundred; of EfficientNet-Lite0's 50 layers 43 are beyond it, most by far.

    Single layers are a remark: a network may do well with a first layer that learned nothing. More than half of all
    layers are a fault. Layers of fewer than 32 weights are left out, and those that see the same in all photos.
    """
    found = likenesses(patient)
    if not found:
        return Checkup.left_out("random-like: there is no layer with weights to put in another order")
    alike = [one.layer for one in found if one.apart < APART]
    share = len(alike) / len(found)
    measures = [Measure("the network", "share of the layers that are like random", share, MOST)]
    measures += [Measure(one.layer, "standard deviations off random features", one.apart, APART) for one in found]
    figure = Figure(FIGURE, CAPTION, lambda: _drawn(found))
    seen = f"{len(found)} layers against their weights in {ORDERS} random orders"
    if not alike:
        return Checkup(seen, measures=measures, figures=[figure])
    where = f"{len(alike)} of {len(found)} layers: {some(alike)}"
    if share > MOST:
        reason = f"half of a trained network's layers are beyond {APART:g} standard deviations off random features"
        change = "train it, or load the weights that were meant; if it was trained: for longer, with a larger step"
        finding = Finding("features like random ones", where, share, MOST, reason, change, FIGURE)
    else:
        reason = "single layers may well have nothing to learn; more than half of all are a fault"
        change = "nothing if accuracy is good; else a larger learning rate for them, or fewer layers"
        finding = Finding("features like random ones", where, share, MOST, reason, change, FIGURE, fault=False)
    return Checkup(seen, [finding], measures, [figure])


def likenesses(patient: Patient) -> list[Likeness]:
    """Each layer with weights, in the order in which they run."""
    rows = range(0, len(patient), max(1, len(patient) // PHOTOS))
    images = patient.pixels(list(rows)[:PHOTOS])
    layers = {id(weight): name for name, weight in patient.classifier.network.named_parameters()}
    with undisturbed(patient.classifier, grad=False), _Shuffling(layers, patient.seed) as mode:
        patient.classifier(images)
    return mode.found


class _Shuffling(TorchFunctionMode):
    """Inside, every convolution and linear layer is also tried with its weights in other orders."""

    def __init__(self, weights: dict[int, str], seed: int) -> None:
        super().__init__()
        self.weights, self.found, self.done = weights, list[Likeness](), set[int]()
        self.generator = torch.Generator().manual_seed(seed)

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func in (F.conv2d, F.linear):
            self._try(func, args, kwargs)
        return func(*args, **kwargs)

    def _try(self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        given = dict(zip(("input", "weight", "bias"), args, strict=False)) | kwargs
        weight = given["weight"]
        if id(weight) not in self.weights or id(weight) in self.done or weight.numel() < FEWEST:
            return
        self.done.add(id(weight))
        rest = {key: value for key, value in kwargs.items() if key not in ("input", "weight", "bias")}
        grouped = weight.ndim == 4 and weight.shape[1] != given["input"].shape[1]
        weight = weight if grouped else weight[: max(1, LARGEST // weight[0].numel())]  # some units are as good as all

        def features(order: Tensor | None = None) -> np.ndarray | None:
            other = weight if order is None else weight.flatten()[order.to(weight.device)].view_as(weight)
            return figures(func(given["input"], other, None, *args[3:], **rest))

        own = features()
        if own is None:
            return
        tried = [features(torch.randperm(weight.numel(), generator=self.generator)) for _ in range(ORDERS)]
        others = np.array([one for one in tried if one is not None])
        if len(others) > 2:
            self.found.append(Likeness(self.weights[id(given["weight"])].removesuffix(".weight"), apart(own, others)))


def apart(own: np.ndarray, others: np.ndarray) -> float:
    """The largest distance of own figures from the mean of others "orders figures", in their standard deviations."""
    spread = others.std(0, ddof=1)
    off = np.abs(own - others.mean(0))
    return float(np.where(spread > 1e-9, off / np.maximum(spread, 1e-9), np.where(off > 1e-9, np.inf, 0.0)).max())


def figures(output: Tensor) -> np.ndarray | None:
    """Logarithms of a layer's variance, of the dimensions it fills and of the units it is spread over; None if it gives
    the same everywhere."""
    maps = output.detach().double().movedim(1, 0).flatten(1) if output.ndim == 4 else None
    values = maps if maps is not None else output.detach().double().flatten(0, -2).T
    values = values[:, :: max(1, -(-values.shape[1] // COLUMNS))].cpu()
    values = values - values.mean(1, keepdim=True)
    each = values.square().mean(1)
    total = each.sum()
    if not bool(total > 1e-24):
        return None
    small = values @ values.T if len(values) <= values.shape[1] else values.T @ values
    squares = (small / values.shape[1]).square().sum()
    found: np.ndarray = torch.stack([total, total**2 / squares, total**2 / each.square().sum()]).log().numpy()
    return found


CAPTION = (
    "By how many standard deviations the features of each layer are off those that the same weights give in a random "
    "order (logarithmic). Below the line a layer is like random, drawn in orange."
)


def _drawn(found: list[Likeness]) -> Drawn:
    names = [one.layer for one in found]
    figure, axes = drawing.panels(1, 1, width=max(4.0, 0.2 * len(found) + 1.2), height=3.4, names=" ".join(names))
    panel = axes[0, 0]
    values = [min(max(one.apart, 0.1), 1e4) for one in found]
    colours = [drawing.COLOURS[1 if one.apart < APART else 0] for one in found]
    panel.bar(range(len(found)), values, color=colours)
    panel.set_yscale("log")
    panel.set_ylim(bottom=min(0.5, *values))
    panel.axhline(APART, color=drawing.INK, linewidth=1, linestyle="--")
    panel.set_xticks(range(len(found)), [drawing.shortened(name, 20) for name in names], rotation=90)
    drawing.plain(panel, across="", up="standard deviations")
    panel.set_xlim(-0.6, len(found) - 0.4)
    return figure
