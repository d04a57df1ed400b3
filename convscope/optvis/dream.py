"""Photos as a layer sees them: deep dreams (Mordvintsev et al. 2015) and caricatures (Olah et al. 2018)."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import torch
import torch.nn.functional as F

from convscope.errors import UsageError
from convscope.instrument.address import LOGITS
from convscope.instrument.canvas import on_canvas
from convscope.instrument.forward import layer_maps
from convscope.instrument.layers import resolve_one
from convscope.instrument.state import undisturbed
from convscope.models.classifier import Classifier
from convscope.optvis import plan
from convscope.optvis.asked import objective_of
from convscope.optvis.objectives import Objective, cosine, energy
from convscope.optvis.parameterizations import Pixel
from convscope.optvis.patterns import Patterns, joined, plain
from convscope.optvis.recipes import FOURIER, Recipe
from convscope.optvis.render import Ascent, How, render, scores_of
from convscope.optvis.transforms import jitter, rotate, scale
from convscope.progress import track
from convscope.types import OneImage

OCTAVES, RATIO = 4, 1.4  # sizes that a dream goes through, each so many times as large as the one before
STEPS = 20  # at each of them
POWER = 2.0  # of the cosine of a caricature
DREAM = Recipe(
    "dream",
    "a photo changed towards what excites a layer, from small to large (Mordvintsev et al. 2015)",
    How(Pixel(bounded=True), partial(Ascent, lr=3.0), STEPS, (jitter(0.06),)),
)
CARICATURE = replace(
    FOURIER,
    name="caricature",
    help="what a layer sees in a photo, amplified (Olah et al. 2018)",
    how=replace(FOURIER.how, transforms=(jitter(0.03), scale(0.97, 1.03), rotate(2))),
)


def dream(
    classifier: Classifier,
    image: OneImage,
    what: str | Objective,
    *,
    name: str = "photo",
    steps: int | None = None,
    seed: int = 0,
    octaves: int = OCTAVES,
) -> Patterns:
    """A photo "1 c h w" in which what excites a layer, or units of it, is raised at several sizes, small ones first.

    ``what``: a layer (all of its activations), an address as of ``visualize``, or an objective. ``steps``: a size.
    """
    if octaves < 1:
        raise UsageError(f"a dream goes through at least 1 size, got {octaves}")
    image = image.to(torch.promote_types(image.dtype, torch.float32))
    objective = _raised(classifier, image, what)
    recipe = DREAM.with_steps(steps)
    plan.check(classifier, objective, (image.shape[2], image.shape[3]))
    sizes = [[max(round(side / RATIO**i), 1) for side in image.shape[2:]] for i in reversed(range(octaves))]
    sizes = [size for size in sizes if _runs(classifier, objective, size)]
    detail = torch.zeros_like(image)
    for height, width in track(sizes, "dream"):
        base = F.interpolate(image, (height, width), mode="bicubic", antialias=True).clamp(0, 1)
        start = base + F.interpolate(detail, (height, width), mode="bicubic")
        shape = (image.shape[1], height, width)
        parameters = recipe.how.parameterization.encode(start.clamp(0, 1))
        found = render(classifier, objective, recipe.how, shape, [seed], start=parameters, label=f"{height}x{width}")
        detail = found.images - base
    with undisturbed(classifier, grad=False):  # that of the last size's start has most of the dream in it already
        found = replace(found, before=scores_of(classifier, objective, image, [0])[0])
    return plain(classifier, found, (name,), recipe, f"{objective.name(0)} on {name}", seed)


def caricature(
    classifier: Classifier,
    images: OneImage,
    layer: str,
    *,
    names: tuple[str, ...] = ("photo",),
    steps: int | None = None,
    seed: int = 0,
    budget: float = plan.BUDGET_MIB,
) -> Patterns:
    """Pictures, made from noise, whose activations in a layer point the same way as photos' "b c h w", and further."""
    with on_canvas(classifier, (images.shape[2], images.shape[3])):
        address = resolve_one(classifier.network, layer, images, through=classifier)
    if address.units is not None:
        raise UsageError(f"{layer}: a caricature is of a whole layer, leave out the units")
    objective = cosine(address.key, layer_maps(classifier, images, address), POWER)
    shape = (images.shape[1], images.shape[2], images.shape[3])
    plan.check(classifier, objective, shape[1:])
    recipe = CARICATURE.with_steps(steps)
    batch = plan.batch_of(classifier, objective, shape, recipe.how.views, budget)
    rows = [range(len(images))[i : i + batch] for i in range(0, len(images), batch)]
    title, made = f"caricature in {address.key}", []
    for part in track(rows, title, weigh=len) if len(rows) > 1 else rows:
        found = render(classifier, objective, recipe.how, shape, [seed] * len(part), rows=part)
        made.append(plain(classifier, found, names[part.start : part.stop], recipe, title, seed))
    return joined(made)


def _raised(classifier: Classifier, image: OneImage, what: str | Objective) -> Objective:
    if isinstance(what, Objective):
        objective = what
    elif ":" in what.removeprefix("@stage:") or what.startswith(LOGITS):
        with on_canvas(classifier):
            objective, _ = objective_of(classifier, what, None, False)
    else:
        with on_canvas(classifier, (image.shape[2], image.shape[3])):
            objective = energy(resolve_one(classifier.network, what, image, through=classifier).key)
    if objective.count > 1:
        raise UsageError(f"a dream raises one score, {what} has {objective.count}: name one unit, or the layer alone")
    return objective


def _runs(classifier: Classifier, objective: Objective, size: list[int]) -> bool:
    """Small sizes that a network does not take are left out."""
    try:
        plan.check(classifier, objective, (size[0], size[1]))
    except UsageError:
        return False
    return True
