"""What the class activation maps share: maps of one layer, weighed, summed, rectified and brought to the canvas."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch.nn.functional as F

from convscope.instrument.address import Address
from convscope.instrument.gradient import layer_gradient
from convscope.instrument.layers import resolve_one
from convscope.instrument.target import Target
from convscope.methods.explanation import Explanation, explain
from convscope.models.classifier import Classifier
from convscope.types import Features, Images, LayerMaps, Maps

LAYER_HELP = "the layer whose maps are weighed; @last_conv is the last spatial map"


def cam_layer(classifier: Classifier, images: Images, layer: str) -> Address:
    """The one layer that a CAM's ``layer`` setting means."""
    return resolve_one(classifier.network, layer, images, through=classifier)


def gradient_cam(
    method: Any,
    classifier: Classifier,
    images: Images,
    target: Target,
    combine: Callable[[Features, Features], LayerMaps],
) -> Explanation:
    """A CAM made of a layer's maps and the target's gradient there; ``combine(maps, gradient)`` is the method."""
    layer = cam_layer(classifier, images, method.layer)
    found = layer_gradient(classifier, images, layer, target)
    raw = to_canvas(combine(found.maps, found.gradient).relu(), images)
    return explain(method, classifier, images, found.target, raw, found.scores, layer=layer.key)


def to_canvas(maps: LayerMaps, images: Images) -> Maps:
    """Maps of a layer, bilinearly enlarged to the images' canvas and in their dtype."""
    large = F.interpolate(maps[:, None], images.shape[-2:], mode="bilinear", align_corners=False)
    return large[:, 0].to(images.dtype)
