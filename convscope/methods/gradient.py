"""Gradient."""

from __future__ import annotations

from convscope.instrument.gradient import pixel_gradient
from convscope.instrument.target import Target
from convscope.methods.explanation import Explanation, explain
from convscope.methods.registry import register
from convscope.models.classifier import Classifier
from convscope.types import Images


@register("gradient", "pixels", "signed", local=True)
class Gradient:
    """Gradient of the target's score with respect to the pixels (Simonyan et al. 2013, arXiv 1312.6034).

    ``raw`` "b c h w": the change of the score per unit of pixel value, signed.
    """

    def run(self, classifier: Classifier, images: Images, target: Target) -> Explanation:
        found = pixel_gradient(classifier, images, target)
        return explain(self, classifier, images, found.target, found.pixels, found.scores, notes=found.notes)
