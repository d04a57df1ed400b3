"""Guided Grad-CAM."""

from __future__ import annotations

from convscope.instrument.target import Target
from convscope.methods._cam import LAYER_HELP
from convscope.methods.explanation import Explanation, explain
from convscope.methods.grad_cam import GradCam
from convscope.methods.guided import Guided
from convscope.methods.registry import register, setting
from convscope.models.classifier import Classifier
from convscope.types import Images


@register("guided-grad-cam", "pixels", "signed")
class GuidedGradCam:
    """Guided Grad-CAM (Selvaraju et al. 2017, arXiv 1610.02391).

    Guided backpropagation times Grad-CAM: the detail of the one where the other points. ``raw`` "b c h w", signed.
    """

    layer: str = setting(default="@last_conv", help=LAYER_HELP)

    def run(self, classifier: Classifier, images: Images, target: Target) -> Explanation:
        cam = GradCam(layer=self.layer).run(classifier, images, target)
        guided = Guided().run(classifier, images, cam.target)
        raw = guided.raw * cam.raw[:, None]
        return explain(self, classifier, images, cam.target, raw, cam.scores, layer=cam.layer, notes=guided.notes)
