"""LayerCAM."""

from __future__ import annotations

from convscope.instrument.target import Target
from convscope.methods._cam import LAYER_HELP, gradient_cam
from convscope.methods.explanation import Explanation
from convscope.methods.registry import register, setting
from convscope.models.classifier import Classifier
from convscope.types import Images


@register("layer-cam", "map", "positive")
class LayerCam:
    """LayerCAM (Jiang et al. 2021, IEEE TIP 30).

    The layer's maps times the positive part of their gradient, place by place, summed and rectified; usable at any
    layer, early ones give fine detail. ``raw`` "b h w", at least 0.
    """

    layer: str = setting(default="@last_conv", help=LAYER_HELP)

    def run(self, classifier: Classifier, images: Images, target: Target) -> Explanation:
        return gradient_cam(self, classifier, images, target, lambda maps, gradient: (maps * gradient.relu()).sum(1))
