"""HiResCAM."""

from __future__ import annotations

from convscope.instrument.target import Target
from convscope.methods._cam import LAYER_HELP, gradient_cam
from convscope.methods.explanation import Explanation
from convscope.methods.registry import register, setting
from convscope.models.classifier import Classifier
from convscope.types import Images


@register("hires-cam", "map", "positive")
class HiResCam:
    """HiResCAM (Draelos & Carin 2020, arXiv 2011.08891).

    The layer's maps times their gradient, place by place, summed and rectified: faithful where a linear layer follows.
    ``raw`` "b h w", at least 0.
    """

    layer: str = setting(default="@last_conv", help=LAYER_HELP)

    def run(self, classifier: Classifier, images: Images, target: Target) -> Explanation:
        return gradient_cam(self, classifier, images, target, lambda maps, gradient: (maps * gradient).sum(1))
