"""Deconvnet."""

from __future__ import annotations

from convscope.instrument.backward import Norm
from convscope.instrument.gradient import Seed
from convscope.instrument.target import Target
from convscope.instrument.trace import trace
from convscope.methods._rectified import NORM_HELP, SEED_HELP, rectified
from convscope.methods.explanation import Explanation
from convscope.methods.registry import register, setting
from convscope.models.classifier import Classifier
from convscope.types import Images


@register("deconvnet", "pixels", "signed", local=True)
class Deconvnet:
    """Deconvnet: unpool with switches, rectify, filter transposed, down to the pixels (Zeiler & Fergus 2013, 2.1).

    One neuron is set, all others of its layer are zero, and the signal g goes down: every ReLU passes g [g > 0], a
    max pool puts g where its maximum was (summing where overlapping windows chose the same place), a convolution
    applies its filters flipped, without bias. ``raw`` "b c h w": what arrives at the pixels, signed, not rectified.
    For a unit the neuron is its strongest; for a class, the logit.
    """

    seed: Seed = setting(default="one", help=SEED_HELP, choices=("one", "activation"))
    contrast_norm: Norm = setting(default="backward", help=NORM_HELP, choices=("backward", "pass"))

    def run(self, classifier: Classifier, images: Images, target: Target) -> Explanation:
        return rectified(self, "deconvnet", classifier, images, target, switch_notes(classifier, images))


def switch_notes(classifier: Classifier, images: Images) -> tuple[str, ...]:
    """The image's detail comes from pool switches alone; say so where there are hardly any."""
    # Of a window of its canvas the network behind a unit may have no use.
    whole = images if classifier.framing.size is None else classifier.blank()
    ops = trace(classifier.network, whole, through=classifier).ops
    pools = sum(op.name in ("max_pool2d_with_indices", "adaptive_max_pool2d") for op in ops)
    if pools > 1:
        return ()
    count = "no max pool" if pools == 0 else "one max pool"
    return (f"deconvnet has its image detail from pool switches and this network has {count}: guided shows more",)
