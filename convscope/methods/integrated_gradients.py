"""Integrated gradients."""

from __future__ import annotations

import numpy as np
import torch

from convscope.errors import UsageError
from convscope.instrument.fill import FILL_HELP, FILLS, fill_like
from convscope.instrument.forward import scored
from convscope.instrument.gradient import pixel_gradient
from convscope.instrument.target import Target
from convscope.methods.explanation import Explanation, explain
from convscope.methods.registry import register, setting
from convscope.models.classifier import Classifier
from convscope.progress import track
from convscope.types import Images

LARGE_GAP = 0.05


@register("integrated-gradients", "pixels", "signed")
class IntegratedGradients:
    """Integrated gradients (Sundararajan et al. 2017, arXiv 1703.01365).

    The gradient averaged along the straight line from a baseline to the image (Gauss-Legendre), times their
    difference. ``raw`` "b c h w", signed; its sum is the score less the baseline's score (completeness), up to the
    integration error, which is said when it is large.
    """

    steps: int = setting(default=50, help="points on the line from the baseline to the image")
    baseline: str = setting(default="black", help=FILL_HELP, choices=FILLS)

    def run(self, classifier: Classifier, images: Images, target: Target) -> Explanation:
        if self.steps < 1:
            raise UsageError(f"integrated-gradients needs at least 1 step, got {self.steps}")
        images = images.detach()
        start = fill_like(images, self.baseline)
        scores, settled = scored(classifier, images, target)
        floor, _ = scored(classifier, start, settled)
        points, weights = np.polynomial.legendre.leggauss(self.steps)
        mean = torch.zeros((), device=images.device)
        for at, weight in track([*zip((points + 1) / 2, weights / 2, strict=True)], "integrated-gradients"):
            gradient = pixel_gradient(classifier, start + float(at) * (images - start), settled).pixels
            mean = mean + float(weight) * gradient.to(torch.promote_types(gradient.dtype, torch.float32))
        raw = (mean * (images - start)).to(images.dtype)
        notes = _gap_notes(raw.float().sum((1, 2, 3)), (scores - floor).float())
        return explain(self, classifier, images, settled, raw, scores, baseline=self.baseline, notes=notes)


def _gap_notes(total: torch.Tensor, difference: torch.Tensor) -> tuple[str, ...]:
    gap = float(((total - difference).abs() / difference.abs().clamp_min(1e-6)).max())
    return (f"the sum misses completeness by {gap:.0%}: more steps would be closer",) if gap > LARGE_GAP else ()
