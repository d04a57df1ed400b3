"""Grad-CAM++."""

from __future__ import annotations

import torch

from convscope.instrument.target import Target
from convscope.methods._cam import LAYER_HELP, gradient_cam
from convscope.methods.explanation import Explanation
from convscope.methods.registry import register, setting
from convscope.models.classifier import Classifier
from convscope.types import Features, Images, LayerMaps


@register("grad-cam++", "map", "positive")
class GradCamPlusPlus:
    """Grad-CAM++ (Chattopadhyay et al. 2018, arXiv 1710.11063).

    As Grad-CAM, with a map's weight the sum of its positive gradients, each weighed so that several objects of the
    class count alike. ``raw`` "b h w", at least 0. The paper derives exp(score); its constant factor is left out.
    """

    layer: str = setting(default="@last_conv", help=LAYER_HELP)

    def run(self, classifier: Classifier, images: Images, target: Target) -> Explanation:
        return gradient_cam(self, classifier, images, target, _combine)


def _combine(maps: Features, gradient: Features) -> LayerMaps:
    # The paper's alpha = g^2 / (2 g^2 + sum(A) g^3), with g^2 divided out: no tiny numbers, no epsilon to choose.
    denominator = 2 + maps.sum((2, 3), keepdim=True) * gradient
    alpha = torch.where((gradient != 0) & (denominator != 0), 1 / denominator, 0)
    weights = (alpha * gradient.relu()).sum((2, 3), keepdim=True)
    return (maps * weights).sum(1)
