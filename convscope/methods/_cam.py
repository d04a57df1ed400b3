"""What the class activation maps share: maps of one layer, weighed, summed, rectified and brought to the canvas."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch.nn.functional as F

from convscope.errors import UsageError
from convscope.instrument.address import Address
from convscope.instrument.gradient import layer_gradient
from convscope.instrument.layers import resolve_one
from convscope.instrument.target import Target
from convscope.instrument.trace import trace
from convscope.methods.explanation import Explanation, explain
from convscope.models.classifier import Classifier
from convscope.types import Features, Images, LayerMaps, Maps

EARLY = 0.25  # of the operations: transformers have their last spatial map before their first block
LAYER_HELP = "the layer whose maps are weighed; @last_conv is the last spatial map"


def cam_layer(classifier: Classifier, images: Images, layer: str) -> tuple[Address, tuple[str, ...]]:
    """The one layer that a CAM's ``layer`` setting means, and what is to be said of it."""
    found = resolve_one(classifier.network, layer, images, through=classifier)
    if found.units is not None:
        raise UsageError(f"layer {found}: a CAM weighs all of a layer's maps; units are targets, as in target={found}")
    if layer != "@last_conv":
        return found, ()
    taken = trace(classifier.network, images, through=classifier)
    event = taken.event(found.key)
    if event is None or event.done >= EARLY * len(taken.ops):
        return found, ()
    return found, (f"the last spatial map of this network, {found}, is near its input: a CAM there says little",)


def gradient_cam(
    method: Any,
    classifier: Classifier,
    images: Images,
    target: Target,
    combine: Callable[[Features, Features], LayerMaps],
) -> Explanation:
    """A CAM made of a layer's maps and the target's gradient there; ``combine(maps, gradient)`` is the method."""
    layer, notes = cam_layer(classifier, images, method.layer)
    found = layer_gradient(classifier, images, layer, target)
    raw = to_canvas(combine(found.maps, found.gradient).relu(), images)
    return explain(method, classifier, images, found.target, raw, found.scores, layer=layer.key, notes=notes)


def to_canvas(maps: LayerMaps, images: Images) -> Maps:
    """Maps of a layer, bilinearly enlarged to the images' canvas and in their dtype."""
    large = F.interpolate(maps[:, None], images.shape[-2:], mode="bilinear", align_corners=False)
    return large[:, 0].to(images.dtype)
