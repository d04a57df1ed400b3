"""Deconvnet."""

from __future__ import annotations

from convscope.instrument.backward import Norm
from convscope.instrument.gradient import Seed, pixel_gradient
from convscope.instrument.target import Target
from convscope.methods._rectified import switch_notes
from convscope.methods.explanation import Explanation, explain
from convscope.methods.registry import register, setting
from convscope.models.classifier import Classifier
from convscope.types import Images


@register("deconvnet", "pixels", "signed")
class Deconvnet:
    """Deconvnet: unpool with switches, rectify, filter transposed, down to the pixels (Zeiler & Fergus 2013, 2.1).

    One neuron is set, all others of its layer are zero, and the signal g goes down: every ReLU passes g [g > 0], a
    max pool puts g where its maximum was (summing where overlapping windows chose the same place), a convolution
    applies its filters flipped, without bias. ``raw`` "b c h w": what arrives at the pixels, signed, not rectified.
    For a unit the neuron is its strongest; for a class, the logit.
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
            classifier, images, target, rule="deconvnet", contrast_norm=self.contrast_norm, seed=self.seed
        )
        notes = (*found.notes, *switch_notes(classifier, images))
        return explain(self, classifier, images, found.target, found.pixels, found.scores, notes=notes)
