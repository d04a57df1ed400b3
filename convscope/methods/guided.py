"""Guided backpropagation."""

from __future__ import annotations

from convscope.instrument.backward import Norm
from convscope.instrument.gradient import Seed
from convscope.instrument.target import Target
from convscope.methods._rectified import NORM_HELP, SEED_HELP, rectified
from convscope.methods.explanation import Explanation
from convscope.methods.registry import register, setting
from convscope.models.classifier import Classifier
from convscope.types import Images


@register("guided", "pixels", "signed", local=True)
class Guided:
    """Guided backpropagation (Springenberg et al. 2014, arXiv 1412.6806).

    The gradient, of which every ReLU passes down only what is positive: g [x > 0] [g > 0]. ``raw`` "b c h w", signed.
    It shows what a neuron responds to in fine detail, but says little of the class (Adebayo et al. 2018).
    """

    seed: Seed = setting(default="one", help=SEED_HELP, choices=("one", "activation"))
    contrast_norm: Norm = setting(default="backward", help=NORM_HELP, choices=("backward", "pass"))

    def run(self, classifier: Classifier, images: Images, target: Target) -> Explanation:
        return rectified(self, "guided", classifier, images, target)
