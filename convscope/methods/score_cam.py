"""Score-CAM."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from convscope.instrument.forward import mapped
from convscope.instrument.perturb import BUDGET_HELP, BUDGET_MIB, variant_scores
from convscope.instrument.target import Target
from convscope.methods._cam import LAYER_HELP, cam_layer, to_canvas
from convscope.methods._one_by_one import Found, one_by_one
from convscope.methods.explanation import Explanation, explain
from convscope.methods.registry import register, setting
from convscope.models.classifier import Classifier
from convscope.types import Features, Images, OneImage, VariantScores


@register("score-cam", "map", "positive", costly=True)
class ScoreCam:
    """Score-CAM (Wang et al. 2020, arXiv 1910.01279).

    Each of the layer's maps, enlarged and stretched to [0, 1], masks the image; the softmax of the masked images'
    scores weighs the maps, which are summed and rectified. No gradient is used; one forward pass a channel. Masked
    pixels are black. ``raw`` "b h w", at least 0.
    """

    layer: str = setting(default="@last_conv", help=LAYER_HELP)
    budget: float = setting(default=BUDGET_MIB, help=BUDGET_HELP)
    chunk: int | None = setting(default=None, help="masks in one forward pass; none: as the budget allows")

    def run(self, classifier: Classifier, images: Images, target: Target) -> Explanation:
        layer, notes = cam_layer(classifier, images, self.layer)

        def explain_one(image: OneImage, target: Target) -> Found:
            maps, score, settled = mapped(classifier, image, layer, target)
            weights = self._weights(classifier, image, maps, settled).to(maps.dtype)
            return to_canvas((maps * weights[:, None, None]).sum(1).relu(), image), score, settled

        raw, scores, settled = one_by_one(images, target, explain_one)
        return explain(self, classifier, images, settled, raw, scores, layer=layer.key, baseline="black", notes=notes)

    def _weights(self, classifier: Classifier, image: OneImage, maps: Features, target: Target) -> VariantScores:
        def masked(rows: slice) -> Images:
            large = F.interpolate(maps[:, rows], image.shape[-2:], mode="bilinear", align_corners=False)
            return image * _unit_range(large)[0, :, None].to(image.dtype)

        scores = variant_scores(
            classifier,
            image,
            target,
            maps.shape[1],
            lambda rows: target.outputs(classifier, masked(rows)),
            budget=self.budget,
            chunk=self.chunk,
            label="score-cam",
        )
        return scores.to(torch.promote_types(scores.dtype, torch.float32)).softmax(0)


def _unit_range(maps: Features) -> Features:
    """Each map from its own [min, max] to [0, 1]; a constant one masks everything."""
    low, high = maps.amin((2, 3), keepdim=True), maps.amax((2, 3), keepdim=True)
    return torch.where(high > low, (maps - low) / (high - low), 0)
