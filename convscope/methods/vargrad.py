"""VarGrad."""

from __future__ import annotations

import torch

from convscope.instrument.forward import scored
from convscope.instrument.target import Target
from convscope.methods._noise import NOISE_HELP, SAMPLES_HELP, SEED_HELP, noisy_gradients
from convscope.methods.explanation import Explanation, explain
from convscope.methods.registry import register, setting
from convscope.models.classifier import Classifier
from convscope.types import Images


@register("vargrad", "pixels", "positive")
class VarGrad:
    """VarGrad: the variance of the gradient over noisy copies of the image (Adebayo et al. 2018, arXiv 1810.03292).

    ``raw`` "b c h w", at least 0: the unbiased variance, by Welford's running update.
    """

    samples: int = setting(default=25, help=SAMPLES_HELP)
    noise: float = setting(default=0.15, help=NOISE_HELP)
    seed: int = setting(default=0, help=SEED_HELP)

    def run(self, classifier: Classifier, images: Images, target: Target) -> Explanation:
        scores, settled = scored(classifier, images, target)
        gradients = noisy_gradients(classifier, images, settled, self.samples, self.noise, self.seed, "vargrad")
        mean = squares = torch.zeros((), device=images.device)
        for count, gradient in enumerate(gradients, start=1):
            off = gradient - mean
            mean = mean + off / count
            squares = squares + off * (gradient - mean)
        return explain(self, classifier, images, settled, (squares / (self.samples - 1)).to(images.dtype), scores)
