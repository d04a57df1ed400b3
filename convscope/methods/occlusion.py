"""Occlusion."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from convscope.errors import UsageError
from convscope.instrument.fill import FILL_HELP, FILLS, fill_like
from convscope.instrument.forward import scored
from convscope.instrument.perturb import BUDGET_HELP, BUDGET_MIB
from convscope.instrument.regions import patched_scores
from convscope.instrument.target import Target
from convscope.methods._one_by_one import Found, one_by_one
from convscope.methods.explanation import Explanation, explain
from convscope.methods.registry import register, setting
from convscope.models.classifier import Classifier
from convscope.types import Images, OneImage, Patches, Scores, VariantScores

Window = tuple[int, int]  # first row and column of an occluder


@register("occlusion", "map", "signed", costly=True)
class Occlusion:
    """Occlusion: a square slides over the image, the drop of the score is what it hid (Zeiler & Fergus 2013, 4.2).

    Windows cover the whole image, the last ones flush with its border. A window's value is the clean score less the
    occluded one, signed; a pixel's value is the mean over the windows that cover it. ``raw`` "b h w", in units of the
    score (a class's logit). Only what a window changes is computed anew, which is exact up to rounding.
    """

    size: int | None = setting(
        default=None, help="side of the square in pixels; none: a seventh of the shorter side (32 of 224)"
    )
    stride: int | None = setting(default=None, help="step between windows in pixels; none: a quarter of the size")
    fill: str = setting(default="grey", help=FILL_HELP, choices=FILLS)
    budget: float = setting(default=BUDGET_MIB, help=BUDGET_HELP)
    chunk: int | None = setting(default=None, help="windows in one forward pass; none: as the budget allows")

    def run(self, classifier: Classifier, images: Images, target: Target) -> Explanation:
        windows, side, stride = self.windows(*images.shape[-2:])

        def explain_one(image: OneImage, target: Target) -> Found:
            score, settled = scored(classifier, image, target)
            drops = self._drops(classifier, image, settled, score, windows, side)
            return spread(drops, windows, side, *image.shape[-2:])[None].to(image.dtype), score, settled

        raw, scores, settled = one_by_one(images, target, explain_one)
        used = replace(self, size=side, stride=stride)
        return explain(used, classifier, images, settled, raw, scores, baseline=self.fill)

    def windows(self, height: int, width: int) -> tuple[list[Window], int, int]:
        """Where the square lies, in reading order, its side and its step."""
        side = self.size if self.size is not None else max(1, round(min(height, width) / 7))
        stride = self.stride if self.stride is not None else max(1, side // 4)
        if side < 1 or stride < 1:
            raise UsageError(f"occlusion: size and stride must be at least 1, got {side} and {stride}")
        if stride > side:
            raise UsageError(f"occlusion: steps of {stride} leave gaps between squares of {side}: take at most {side}")
        if side > min(height, width):
            raise UsageError(f"occlusion: a square of {side} does not fit into {height}x{width}")
        windows = [(row, col) for row in steps(height, side, stride) for col in steps(width, side, stride)]
        return windows, side, stride

    def _drops(
        self, classifier: Classifier, image: OneImage, target: Target, clean: Scores, windows: list[Window], side: int
    ) -> VariantScores:
        filled = fill_like(image, self.fill)

        def patches(rows: slice) -> Patches:
            return torch.stack([filled[0, :, row : row + side, col : col + side] for row, col in windows[rows]])

        scores = patched_scores(
            classifier, image, target, windows, patches, budget=self.budget, chunk=self.chunk, label="occlusion"
        )
        return (clean - scores).to(torch.promote_types(scores.dtype, torch.float32))


def steps(length: int, side: int, stride: int) -> list[int]:
    """Starts of windows of ``side`` that cover ``length``, the last flush with the end."""
    starts = list(range(0, length - side + 1, stride))
    return starts if starts[-1] + side == length else [*starts, length - side]


def spread(drops: Tensor, windows: list[Window], side: int, height: int, width: int) -> Tensor:
    """Values of windows -> "h w": each pixel the mean over the windows that cover it."""
    total = drops.new_zeros(height, width)
    count = drops.new_zeros(height, width)
    for drop, (row, col) in zip(drops, windows, strict=True):
        total[row : row + side, col : col + side] += drop
        count[row : row + side, col : col + side] += 1
    return total / count
