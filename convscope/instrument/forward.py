"""Forward passes without a gradient, some images at a time: their memory does not grow with the number of images."""

from __future__ import annotations

import torch

from convscope.instrument.address import Address
from convscope.instrument.batches import parts
from convscope.instrument.record import record
from convscope.instrument.state import undisturbed
from convscope.instrument.target import Target, joined
from convscope.models.classifier import Classifier
from convscope.types import Features, Images, Scores


def scored(classifier: Classifier, images: Images, target: Target) -> tuple[Scores, Target]:
    """Each image's score, and the target with its class settled."""
    with undisturbed(classifier, grad=False):
        found = [target[rows].score(classifier, images[rows]) for rows in parts(len(images))]
    scores, targets = zip(*found, strict=True)
    return torch.cat(scores), joined(targets)


def mapped(classifier: Classifier, images: Images, layer: Address, target: Target) -> tuple[Features, Scores, Target]:
    """As ``scored``, with a layer's maps."""
    maps = []
    with undisturbed(classifier, grad=False), record(classifier.network, [layer]) as kept:
        found = []
        for rows in parts(len(images)):
            found.append(target[rows].score(classifier, images[rows]))
            maps.append(kept[layer])
    scores, targets = zip(*found, strict=True)
    return torch.cat(maps), torch.cat(scores), joined(targets)
