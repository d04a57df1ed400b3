"""Activations."""

from __future__ import annotations

from convscope.errors import UsageError
from convscope.instrument.forward import layer_maps
from convscope.instrument.layers import resolve_one
from convscope.instrument.target import Target
from convscope.methods.explanation import Explanation, explain
from convscope.methods.registry import register, setting
from convscope.models.classifier import Classifier
from convscope.types import Images


@register("activations", "features", "signed", targeted=False)
class Activations:
    """Feature maps: what a layer's units say at every place (Zeiler & Fergus 2013, 2.1).

    ``raw`` "b k fh fw": the layer's output as it is; units named with the layer (``features.3:0-15``) are cut out. The
    forward pass ends at the layer. A layer without rows and columns gives "b k 1 1".
    """

    layer: str = setting(default="@last_conv", help="the layer whose maps are shown, or units of it")

    def run(self, classifier: Classifier, images: Images, target: Target | None = None) -> Explanation:
        layer = resolve_one(classifier.network, self.layer, images, through=classifier)
        if layer.position is not None:
            raise UsageError(f"layer {layer}: activations shows whole maps, leave out the position")
        maps = layer_maps(classifier, images, layer)
        if maps.ndim == 2:
            maps = maps[:, :, None, None]
        if maps.ndim != 4:
            raise UsageError(f"layer {layer.key} gives {tuple(maps.shape[1:])} an image, not maps")
        if layer.units is not None:
            if max(layer.units) >= maps.shape[1]:
                raise UsageError(f"unit {max(layer.units)} is out of range: {layer.key} has {maps.shape[1]} units")
            maps = maps[:, list(layer.units)]
        return explain(self, classifier, images, None, maps.to(images.dtype), None, layer=layer.key, units=layer.units)
