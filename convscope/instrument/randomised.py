"""Randomised weights: the control of every explanation (Adebayo et al. 2018, arXiv 1810.03292).

What looks the same without anything learned says nothing of what was learned.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from convscope.instrument.state import undisturbed
from convscope.models.classifier import Classifier
from convscope.models.copying import copied

SETTLING = 4  # images of noise, from which BatchNorm learns what to expect


def randomised(classifier: Classifier, seed: int = 0) -> Classifier:
    """A copy whose weights are the same numbers in another order, tensor by tensor; ModelError if it has no copy.

    BatchNorm's statistics are taken anew, on noise, so that no layer falls silent for what is expected of it.
    """
    network = copied(classifier.network)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in network.parameters():
            order = torch.randperm(weight.numel(), generator=generator).to(weight.device)
            weight.copy_(weight.flatten()[order].view_as(weight))
    found = Classifier(
        network,
        classifier.classes,
        mean=classifier.mean,
        std=classifier.std,
        framing=classifier.framing,
        channels=classifier.channels,
        background=classifier.background,
        name=f"{classifier.name}, weights shuffled",
    )
    _settle(found, generator)
    return found


def _settle(classifier: Classifier, generator: torch.Generator) -> None:
    norms = [m for m in classifier.modules() if isinstance(m, nn.BatchNorm2d) and m.track_running_stats]
    if not norms:
        return
    with undisturbed(classifier, grad=False):
        for norm in norms:
            norm.reset_running_stats()
            norm.momentum = None  # the mean of all that it sees
            norm.training = True
        classifier(_noise(classifier, generator))


def _noise(classifier: Classifier, generator: torch.Generator) -> Tensor:
    """Images with detail of every size, as photos have."""
    shape = (SETTLING, classifier.channels, *classifier.canvas)
    found = torch.zeros(shape)
    for level in range(6):
        sides = [max(1, side >> level) for side in shape[2:]]
        detail = torch.rand((*shape[:2], *sides), generator=generator)
        found += nn.functional.interpolate(detail, shape[2:], mode="bilinear") / 6
    return found.to(classifier.blank())
