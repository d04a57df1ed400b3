"""Render: gradient ascent on pictures. It sees an objective, a parameterisation and transforms, and nothing else."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import torch
from torch import Tensor

from convscope.errors import ConvscopeError, ModelError
from convscope.instrument.address import LOGITS, find_module, parse_address
from convscope.instrument.own_filters import own_filters, takes
from convscope.instrument.record import record
from convscope.instrument.redirect import redirected
from convscope.instrument.state import undisturbed
from convscope.models.classifier import Classifier
from convscope.optvis.draws import Draws, seed_of
from convscope.optvis.objectives import Objective, Seen
from convscope.optvis.parameterizations import Parameterization, Shape
from convscope.optvis.transforms import Focus, Transform, transformed
from convscope.progress import track
from convscope.types import Images, Scores

RESCUE = 16  # first steps, in which what a ReLU blocks altogether is let through
LOOK_EVERY = 16  # steps between looks at whether all is finite, where looking makes a GPU wait

SWITCHED_OFF = "no gradient flows back to the pixels: the network switches gradients off on the way"

Optimizer: TypeAlias = Callable[[list[Tensor]], torch.optim.Optimizer]


class Ascent(torch.optim.Optimizer):
    """Steps of one size along the gradient of each picture, divided by its root mean square (plus 1e-5)."""

    def __init__(self, params: Any, lr: float = 1.0) -> None:
        super().__init__(params, {"lr": lr})

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        for group in self.param_groups:
            for parameters in group["params"]:
                towards = -parameters.grad  # what minimisers are given
                size = towards.flatten(1).pow(2).mean(1).sqrt() + 1e-5
                parameters += group["lr"] * towards / size.view(-1, *[1] * (parameters.ndim - 1))


@dataclass(frozen=True)
class How:
    """How pictures are made. ``views``: how many transformed copies of each are seen at every step. ``focus``: what
    part of the picture counts.
    """

    parameterization: Parameterization
    optimizer: Optimizer
    steps: int
    transforms: Sequence[Transform] = ()
    views: int = 1
    focus: Focus | None = None


@dataclass(frozen=True, eq=False)
class Rendered:
    """Pictures "b c h w", each one's score of the start and of the end, seen plainly, and its parameters.

    ``moved``: whether any gradient ever reached it. ``curve``: scores at each step, as seen, "steps b". ``first`` and
    ``last``: what the network made of the start and of the picture.
    """

    images: Images
    parameters: Tensor
    before: Scores
    after: Scores
    moved: Tensor
    curve: Tensor
    first: Seen = field(repr=False)
    last: Seen = field(repr=False)


def render(
    classifier: Classifier,
    objective: Objective,
    how: How,
    shape: Shape,
    seeds: Sequence[int],
    *,
    rows: Sequence[int] | None = None,
    start: Tensor | None = None,
    label: str = "steps",
) -> Rendered:
    """Raise an objective from noise, or from the parameters ``start``; one picture for each of ``seeds``.

    ``rows``: which of the objective's pictures they are. What is drawn for a picture depends on its seed alone, so that
    a batch gives what its pictures give one by one.
    """
    rows = range(len(seeds)) if rows is None else rows
    dtype = torch.promote_types(classifier.dtype or torch.float32, torch.float32)
    begun = how.parameterization.start(shape, Draws(seeds, 0)) if start is None else start
    with undisturbed(classifier):
        parameters = begun.detach().to(dtype).to(classifier.device).clone().requires_grad_()

        def plainly() -> tuple[Images, Scores, Seen]:
            with torch.no_grad():
                images = how.parameterization.image(parameters, shape)
                return images, *scores_of(classifier, objective, images, rows)

        _, before, first = plainly()
        moved, curve = torch.zeros(len(seeds), dtype=torch.bool, device=parameters.device), []
        optimizer = how.optimizer([parameters])
        each = [seed_of(seed, view) for seed in seeds for view in range(how.views)]

        def ascend(step: int, redirect: bool = False) -> tuple[Scores, Tensor]:
            """Each picture's score as it is seen at a step, and the way up."""
            images = how.parameterization.image(parameters, shape)
            views = images.repeat_interleave(how.views, 0) if how.views > 1 else images
            views = transformed(views, how.transforms, Draws(each, step + 1), step / max(how.steps - 1, 1), how.focus)
            views = views.contiguous(memory_format=torch.channels_last)  # convolutions are a sixth faster for it
            with redirected() if redirect else nullcontext():
                scores = objective.score(_look(classifier, objective, views, images, rows, how.views))
                found = scores.view(len(seeds), how.views).mean(1)
                return found.detach(), _gradient(found, parameters)

        for step in track(range(how.steps), label):
            found, up = ascend(step)
            going = up.flatten(1).any(1)
            if step < RESCUE and not bool(going.all()):
                _, way_out = ascend(step, redirect=True)
                up = torch.where(going.view(-1, *[1] * (up.ndim - 1)), up, way_out)
                going = up.flatten(1).any(1)
            moved |= going
            parameters.grad = -up  # optimisers go down
            curve.append(found)
            if parameters.device.type == "cpu" or step % LOOK_EVERY == 0:
                _guard(found, objective, rows, step)
            optimizer.step()
        images, after, last = plainly()
        _guard(after, objective, rows, how.steps)
        history = torch.stack(curve) if curve else after.new_zeros(0, len(seeds))
        return Rendered(images, parameters.detach(), before, after, moved, history, first, last)


def scores_of(classifier: Classifier, objective: Objective, images: Images, rows: Sequence[int]) -> tuple[Scores, Seen]:
    """Each picture's score as it is, and what the network made of it. Call it ``undisturbed``."""
    seen = _look(classifier, objective, images, images, rows)
    return objective.score(seen), seen


def _gradient(scores: Scores, parameters: Tensor) -> Tensor:
    up = torch.autograd.grad(scores.sum(), parameters, allow_unused=True)[0] if scores.requires_grad else None
    if up is None:
        raise ModelError(SWITCHED_OFF)
    return up


def _look(
    classifier: Classifier, objective: Objective, views: Images, canvas: Images, rows: Sequence[int], count: int = 1
) -> Seen:
    """What the network makes of pictures; it runs as far as the objective needs it, and no further."""
    layers = list(dict.fromkeys(need.layer for need in objective.needs if need.layer != LOGITS))
    whole = any(need.layer == LOGITS for need in objective.needs)
    outputs: dict[str, Tensor] = {}
    own = _own(classifier, objective, [row for row in rows for _ in range(count)])
    if layers:
        with (
            own or nullcontext(),
            record(classifier.network, layers, grad=torch.is_grad_enabled(), stop=not whole) as kept,
        ):
            logits = classifier(views)
        outputs = {layer: kept[layer] for layer in layers}
    elif whole:
        logits = classifier(views)
    if whole:
        outputs[LOGITS] = logits
    if torch.is_grad_enabled() and any(output.is_leaf for output in outputs.values()):
        raise ModelError(SWITCHED_OFF)  # of several terms the others would rise, and nobody would know
    # Sums of squares pass what half precision can hold, and small rises are lost in it.
    outputs = {layer: output.to(torch.promote_types(output.dtype, torch.float32)) for layer, output in outputs.items()}
    return Seen(outputs, canvas, rows, classifier.classes, count, own is not None and own.done)


def _own(classifier: Classifier, objective: Objective, rows: Sequence[int]) -> own_filters | None:
    """Of a convolution at the end of the pass each picture's own filter is enough, where nothing else is read."""
    if len(objective.needs) != 1 or objective.needs[0].whole or objective.needs[0].layer == LOGITS:
        return None
    address = parse_address(objective.needs[0].layer)
    if address.function is not None or address.call != 1:
        return None
    module = find_module(classifier.network, address.path)
    units = [found[1] for row in rows if (found := objective.unit(row, classifier.classes)) is not None]
    return own_filters(module, units) if takes(module) else None


def _guard(scores: Scores, objective: Objective, rows: Sequence[int], step: int) -> None:
    finite = scores.isfinite()
    if not bool(finite.all()):
        name = objective.name(rows[int(finite.int().argmin())])
        raise ConvscopeError(f"{name} is not finite at step {step}: check the model's weights, mean and std")
