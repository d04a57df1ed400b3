"""What SmoothGrad and VarGrad share: the gradients of many noisy copies of each image."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from convscope.errors import UsageError
from convscope.instrument.gradient import pixel_gradient
from convscope.instrument.target import Target
from convscope.models.classifier import Classifier
from convscope.progress import track
from convscope.types import Images, Pixels

SAMPLES_HELP = "noisy copies of each image"
NOISE_HELP = "standard deviation of the noise, as a share of the image's range from darkest to brightest"
SEED_HELP = "seed of the noise; the same noise for every image, so that a batch gives what its images give alone"


def noisy_gradients(
    classifier: Classifier, images: Images, target: Target, samples: int, noise: float, seed: int, label: str
) -> Iterator[Pixels]:
    """Gradients "b c h w" of ``samples`` noisy copies, in float32 or better; the same noise on any device."""
    if samples < 2 or not 0 < noise < float("inf"):
        raise UsageError(f"{label} needs at least 2 samples and positive noise, got {samples} and {noise}")
    generator = torch.Generator().manual_seed(seed)
    spread = noise * (images.amax((1, 2, 3), keepdim=True) - images.amin((1, 2, 3), keepdim=True))
    for _ in track(range(samples), label):
        draw = torch.randn(images.shape[1:], generator=generator).to(images)
        gradient = pixel_gradient(classifier, images + spread * draw, target).pixels
        yield gradient.to(torch.promote_types(gradient.dtype, torch.float32))
