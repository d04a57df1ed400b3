"""Forward passes without a gradient, some images at a time: their memory does not grow with the number of images."""

from __future__ import annotations

import torch
from torch import Tensor

from convscope.errors import Inapplicable, UsageError
from convscope.instrument.address import Address
from convscope.instrument.batches import parts
from convscope.instrument.record import record
from convscope.instrument.state import undisturbed
from convscope.instrument.target import Target, joined
from convscope.models.classifier import Classifier
from convscope.types import Features, Images, Scores


def layer_maps(classifier: Classifier, images: Images, layer: Address) -> Tensor:
    """What a layer puts out; the pass ends there."""
    found = []
    with undisturbed(classifier, grad=False):
        for rows in parts(len(images)):
            with record(classifier.network, [layer], stop=True) as kept:
                classifier(images[rows])
            found.append(kept[layer])
    return torch.cat(found)


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
            maps.append(maps_before(kept, layer, target))
    scores, targets = zip(*found, strict=True)
    return torch.cat(maps), torch.cat(scores), joined(targets)


def maps_before(kept: record, layer: Address, target: Target) -> Features:
    """A recorded layer's maps, which have to be maps, and to come before the target."""
    if layer.key not in kept and target.layer is not None:
        raise Inapplicable(f"layer {layer} does not come before the target in {target.layer}: give an earlier layer")
    maps: Tensor = kept[layer]
    if maps.ndim != 4:
        raise UsageError(f"layer {layer} gives {tuple(maps.shape[1:])} an image; maps with rows and columns are needed")
    return maps
