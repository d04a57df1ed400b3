"""Grad-CAM."""

from __future__ import annotations

from convscope.instrument.target import Target
from convscope.methods._cam import LAYER_HELP, gradient_cam
from convscope.methods.explanation import Explanation
from convscope.methods.registry import register, setting
from convscope.models.classifier import Classifier
from convscope.types import Features, Images, LayerMaps


@register("grad-cam", "map", "positive")
class GradCam:
    """Grad-CAM (Selvaraju et al. 2017, arXiv 1610.02391).

    The layer's maps, each weighed with the mean of its gradient, summed and rectified. ``raw`` "b h w", at least 0,
    bilinear from the layer's resolution.
    """

    layer: str = setting(default="@last_conv", help=LAYER_HELP)

    def run(self, classifier: Classifier, images: Images, target: Target) -> Explanation:
        return gradient_cam(self, classifier, images, target, weighted_by_mean)


def weighted_by_mean(maps: Features, gradient: Features) -> LayerMaps:
    """Sum over channels of map times the channel's mean gradient."""
    return (maps * gradient.mean((2, 3), keepdim=True)).sum(1)
