"""Input x gradient."""

from __future__ import annotations

from convscope.instrument.gradient import pixel_gradient
from convscope.instrument.target import Target
from convscope.methods.explanation import Explanation, explain
from convscope.methods.registry import register
from convscope.models.classifier import Classifier
from convscope.types import Images


@register("input-x-gradient", "pixels", "signed", local=True)
class InputXGradient:
    """Input times gradient (Shrikumar et al. 2016, arXiv 1605.01713).

    ``raw`` "b c h w": pixel value times gradient, signed: the first-order effect of turning the pixel black.
    """

    def run(self, classifier: Classifier, images: Images, target: Target) -> Explanation:
        found = pixel_gradient(classifier, images, target)
        raw = images.detach() * found.pixels
        return explain(self, classifier, images, found.target, raw, found.scores, baseline="black")
