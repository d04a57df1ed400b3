"""Gradients of a target: with respect to the pixels, under any backward rule, or to a layer's maps and no further."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from convscope.errors import UsageError
from convscope.instrument.address import Address
from convscope.instrument.backward import Norm, Rule, relu_rule
from convscope.instrument.record import record
from convscope.instrument.state import undisturbed
from convscope.instrument.target import Target
from convscope.models.classifier import Classifier
from convscope.types import Features, Images, Pixels, Scores

Seed = Literal["one", "activation"]
AT_ONCE = 16  # images in one backward pass: more gains nothing on a CPU and costs memory


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
    parts = []
    with undisturbed(classifier):
        for start in range(0, len(images), AT_ONCE):
            rows = slice(start, start + AT_ONCE)
            pixels = images[rows].detach().clone().requires_grad_()
            with relu_rule(rule, contrast_norm=contrast_norm) as applied:
                scores, settled = target[rows].score(classifier, pixels)
                notes = applied.verify(scores)
                seeds = torch.ones_like(scores) if seed == "one" else scores.detach()
                (back,) = _grad(scores, pixels, seeds)
            parts.append(PixelGradient(back, scores.detach().to(images.dtype), settled, notes))
    if len(parts) == 1:
        return parts[0]
    return PixelGradient(
        torch.cat([part.pixels for part in parts]),
        torch.cat([part.scores for part in parts]),
        joined([part.target for part in parts]),
        parts[0].notes,
    )


def _grad(scores: Scores, wanted: Tensor, seeds: Scores) -> tuple[Tensor, ...]:
    if not scores.requires_grad:
        return (torch.zeros_like(wanted),)
    found = torch.autograd.grad(scores, wanted, seeds, allow_unused=True)
    return tuple(torch.zeros_like(wanted) if g is None else g for g in found)


def joined(targets: list[Target]) -> Target:
    """The targets of consecutive parts of a batch as one."""

    def together(name: str) -> tuple[int, ...] | None:
        values = [getattr(target, name) for target in targets]
        return None if values[0] is None else tuple(i for value in values for i in value)

    return replace(targets[0], index=together("index"), against=together("against"))


@dataclass(frozen=True)
class LayerGradient:
    """A layer's maps, the gradient of the target's score with respect to them, scores and the settled target."""

    maps: Features
    gradient: Features
    scores: Scores
    target: Target


def layer_gradient(classifier: Classifier, images: Images, layer: Address, target: Target) -> LayerGradient:
    """Maps of a layer and the target's gradient there. The graph begins at the layer: nothing runs back below it."""
    parts = []
    with undisturbed(classifier):
        for start in range(0, len(images), AT_ONCE):
            rows = slice(start, start + AT_ONCE)
            with record(classifier.network, [layer], grad=True) as kept:
                scores, settled = target[rows].score(classifier, images[rows].detach())
            if layer.key not in kept and target.layer is not None:
                raise UsageError(f"layer {layer} does not come before the target in {target.layer}")
            maps = kept[layer]
            if maps.ndim != 4:
                raise UsageError(
                    f"layer {layer} gives {tuple(maps.shape[1:])} an image; maps with rows and columns are needed"
                )
            (gradient,) = _grad(scores, maps, torch.ones_like(scores))
            parts.append(LayerGradient(maps.detach(), gradient, scores.detach(), settled))
    if len(parts) == 1:
        return parts[0]
    return LayerGradient(
        torch.cat([part.maps for part in parts]),
        torch.cat([part.gradient for part in parts]),
        torch.cat([part.scores for part in parts]),
        joined([part.target for part in parts]),
    )
