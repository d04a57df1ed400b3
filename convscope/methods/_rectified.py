"""What deconvnet and guided backpropagation share: a backward pass under a ReLU rule, with its settings."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from convscope.instrument.backward import Rule
from convscope.instrument.gradient import pixel_gradient
from convscope.instrument.target import Target
from convscope.methods.explanation import Explanation, explain
from convscope.models.classifier import Classifier
from convscope.types import Images

SEED_HELP = "what is sent down: 1, or the neuron's own activation"
NORM_HELP = "local response normalisation: back-propagate it, or pass the signal"


def rectified(
    method: Any, rule: Rule, classifier: Classifier, images: Images, target: Target, notes: Sequence[str] = ()
) -> Explanation:
    """What arrives at the pixels when every ReLU follows ``rule``."""
    found = pixel_gradient(classifier, images, target, rule=rule, contrast_norm=method.contrast_norm, seed=method.seed)
    notes = (*found.notes, *notes)
    return explain(method, classifier, images, found.target, found.pixels, found.scores, notes=notes)
