"""Guided backpropagation."""

from __future__ import annotations

from convscope.instrument.backward import Norm
from convscope.instrument.gradient import Seed, pixel_gradient
from convscope.instrument.target import Target
from convscope.methods.explanation import Explanation, explain
from convscope.methods.registry import register, setting
from convscope.models.classifier import Classifier
from convscope.types import Images


@register("guided", "pixels", "signed")
class Guided:
    """Guided backpropagation (Springenberg et al. 2014, arXiv 1412.6806).

    The gradient, of which every ReLU passes down only what is positive: g [x > 0] [g > 0]. ``raw`` "b c h w", signed.
    It shows what a neuron responds to in fine detail, but says little of the class (Adebayo et al. 2018).
    """

    seed: Seed = setting(
        default="one", help="what is sent down: 1, or the neuron's own activation", choices=("one", "activation")
    )
    contrast_norm: Norm = setting(
        default="backward",
        help="local response normalisation: back-propagate it, or pass the signal",
        choices=("backward", "pass"),
    )

    def run(self, classifier: Classifier, images: Images, target: Target) -> Explanation:
        found = pixel_gradient(
            classifier, images, target, rule="guided", contrast_norm=self.contrast_norm, seed=self.seed
        )
        return explain(self, classifier, images, found.target, found.pixels, found.scores, notes=found.notes)
