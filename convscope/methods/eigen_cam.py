"""Eigen-CAM."""

from __future__ import annotations

import torch

from convscope.instrument.forward import layer_maps
from convscope.instrument.target import Target
from convscope.methods._cam import LAYER_HELP, cam_layer, to_canvas
from convscope.methods.explanation import Explanation, explain
from convscope.methods.registry import register, setting
from convscope.models.classifier import Classifier
from convscope.types import Features, Images, LayerMaps


@register("eigen-cam", "map", "positive", targeted=False)
class EigenCam:
    """Eigen-CAM (Muhammad & Yeasin 2020, arXiv 2008.00299).

    The layer's maps projected on their first principal component, rectified. It knows no class: the target is not used.
    ``raw`` "b h w", at least 0. The component's sign, which a decomposition leaves open, is that of its sum.
    """

    layer: str = setting(default="@last_conv", help=LAYER_HELP)
    center: bool = setting(
        default=False, help="take off each channel's mean first, as some implementations do; the paper does not"
    )

    def run(self, classifier: Classifier, images: Images, target: Target | None = None) -> Explanation:
        layer, notes = cam_layer(classifier, images, self.layer)
        raw = to_canvas(self.project(layer_maps(classifier, images, layer)).relu(), images)
        return explain(self, classifier, images, None, raw, None, layer=layer.key, notes=notes)

    def project(self, maps: Features) -> LayerMaps:
        """Maps "b k fh fw" -> their projection "b fh fw" on the first right singular vector, in float32 or better."""
        points = maps.flatten(2).mT.to(torch.promote_types(maps.dtype, torch.float32))
        if self.center:
            points = points - points.mean(1, keepdim=True)
        # A decomposition refuses NaN; the product below carries it on to the result, which says so.
        component = torch.linalg.svd(points.nan_to_num(0, 0, 0), full_matrices=False).Vh[:, 0]
        component = component * torch.where(component.sum(1, keepdim=True) < 0, -1, 1)
        return (points @ component[:, :, None]).reshape(len(maps), *maps.shape[2:])
