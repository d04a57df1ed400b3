"""SmoothGrad."""

from __future__ import annotations

from functools import reduce

import torch

from convscope.instrument.forward import scored
from convscope.instrument.target import Target
from convscope.methods._noise import NOISE_HELP, SAMPLES_HELP, SEED_HELP, noisy_gradients
from convscope.methods.explanation import Explanation, explain
from convscope.methods.registry import register, setting
from convscope.models.classifier import Classifier
from convscope.types import Images


@register("smoothgrad", "pixels", "signed")
class SmoothGrad:
    """SmoothGrad: the mean gradient of noisy copies of the image (Smilkov et al. 2017, arXiv 1706.03825).

    ``raw`` "b c h w", signed.
    """

    samples: int = setting(default=25, help=SAMPLES_HELP)
    noise: float = setting(default=0.15, help=NOISE_HELP)
    seed: int = setting(default=0, help=SEED_HELP)

    def run(self, classifier: Classifier, images: Images, target: Target) -> Explanation:
        scores, settled = scored(classifier, images, target)
        gradients = noisy_gradients(classifier, images, settled, self.samples, self.noise, self.seed, "smoothgrad")
        raw = reduce(torch.add, gradients) / self.samples
        return explain(self, classifier, images, settled, raw.to(images.dtype), scores)
