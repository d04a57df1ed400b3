"""Gradients of a target: with respect to the pixels, under any backward rule, or to a layer's maps and no further."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from convscope.errors import ModelError
from convscope.instrument.address import Address
from convscope.instrument.backward import Norm, Rule, relu_rule
from convscope.instrument.batches import parts
from convscope.instrument.forward import maps_before
from convscope.instrument.record import record
from convscope.instrument.state import undisturbed
from convscope.instrument.target import Target, joined
from convscope.models.classifier import Classifier
from convscope.types import Features, Images, Pixels, Scores

Seed = Literal["one", "activation"]


@dataclass(frozen=True)
class PixelGradient:
    """What came back at the pixels, each image's score, the target with its class settled, and notes for the user."""

    pixels: Pixels
    scores: Scores
    target: Target
    notes: tuple[str, ...] = ()


def pixel_gradient(
    classifier: Classifier,
    images: Images,
    target: Target,
    *,
    rule: Rule = "gradient",
    contrast_norm: Norm = "backward",
    seed: Seed = "one",
) -> PixelGradient:
    """Send ``seed`` (1, or the target's own activation) back from the target to the pixels; exact for any batch."""
    found = []
    with undisturbed(classifier):
        for rows in parts(len(images)):
            pixels = images[rows].detach().clone().requires_grad_()
            with relu_rule(rule, contrast_norm=contrast_norm) as applied:
                scores, settled = target[rows].score(classifier, pixels)
                notes = applied.verify(scores)
                seeds = torch.ones_like(scores) if seed == "one" else scores.detach()
                back = _grad(scores, pixels, seeds, "the pixels")
            found.append(PixelGradient(back, scores.detach().to(images.dtype), settled, notes))
    if len(found) == 1:
        return found[0]
    return PixelGradient(
        torch.cat([part.pixels for part in found]),
        torch.cat([part.scores for part in found]),
        joined([part.target for part in found]),
        found[0].notes,
    )


def _grad(scores: Scores, wanted: Tensor, seeds: Scores, what: str) -> Tensor:
    (found,) = torch.autograd.grad(scores, wanted, seeds, allow_unused=True) if scores.requires_grad else (None,)
    if found is None:
        raise ModelError(
            f"no gradient flows from the target back to {what}: the target does not depend on it, or the network "
            "switches gradients off in between (no_grad, detach). Occlusion and ablation need none"
        )
    return found


@dataclass(frozen=True)
class LayerGradient:
    """A layer's maps, the gradient of the target's score with respect to them, scores and the settled target."""

    maps: Features
    gradient: Features
    scores: Scores
    target: Target


def layer_gradient(classifier: Classifier, images: Images, layer: Address, target: Target) -> LayerGradient:
    """Maps of a layer and the target's gradient there. The graph begins at the layer: nothing runs back below it."""
    found = []
    with undisturbed(classifier):
        for rows in parts(len(images)):
            with record(classifier.network, [layer], grad=True) as kept:
                scores, settled = target[rows].score(classifier, images[rows].detach())
            maps = maps_before(kept, layer, target)
            gradient = _grad(scores, maps, torch.ones_like(scores), f"layer {layer}")
            found.append(LayerGradient(maps.detach(), gradient, scores.detach(), settled))
    if len(found) == 1:
        return found[0]
    return LayerGradient(
        torch.cat([part.maps for part in found]),
        torch.cat([part.gradient for part in found]),
        torch.cat([part.scores for part in found]),
        joined([part.target for part in found]),
    )
