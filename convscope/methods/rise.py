"""RISE."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from convscope.errors import UsageError
from convscope.instrument.forward import scored
from convscope.instrument.perturb import BUDGET_HELP, BUDGET_MIB, variant_scores
from convscope.instrument.target import Target
from convscope.methods._one_by_one import Found, one_by_one
from convscope.methods.explanation import Explanation, explain
from convscope.methods.registry import register, setting
from convscope.models.classifier import Classifier, probabilities
from convscope.types import Images, OneImage, Scores, VariantScores


@register("rise", "map", "relative", costly=True)
class Rise:
    """RISE: random masks, weighed with the score of what they leave visible (Petsiuk et al. 2018, arXiv 1806.07421).

    Masks are coarse random grids, enlarged bilinearly and shifted at random. ``raw`` "b h w": sum of score times mask,
    over masks times the share kept; only differences within a map mean something, and a map is the same everywhere
    where every mask scores the same. The score of a class is its
    probability (so ``raw`` is at least 0); of a unit, or of one class against another, it is the target's own.
    """

    masks: int = setting(default=1000, help="how many masks; the paper takes 4000 to 8000")
    grid: int = setting(default=7, help="cells of the coarse grid along the shorter side")
    keep: float = setting(default=0.5, help="probability that a cell is kept")
    seed: int = setting(default=0, help="seed of the masks, which are the same for every image")
    budget: float = setting(default=BUDGET_MIB, help=BUDGET_HELP)
    chunk: int | None = setting(default=None, help="masks in one forward pass; none: as the budget allows")

    def run(self, classifier: Classifier, images: Images, target: Target) -> Explanation:
        if self.masks < 1 or self.grid < 1 or not 0 < self.keep < 1:
            raise UsageError("rise: masks and grid must be at least 1 and keep between 0 and 1")
        draw = _Masks(self, *images.shape[-2:])

        def explain_one(image: OneImage, target: Target) -> Found:
            score, settled = scored(classifier, image, target)
            weights = self._weights(classifier, image, settled, draw)
            if bool(weights.max() - weights.min() <= 1e-6 * weights.abs().max()):
                map = weights.mean().expand(image.shape[-2:])  # what differs is the masks' own noise
            else:
                map = _weighed(weights, draw) / (self.masks * self.keep)
            return map[None].to(image.dtype), score, settled

        raw, scores, settled = one_by_one(images, target, explain_one)
        return explain(self, classifier, images, settled, raw, scores, baseline="black")

    def _weights(self, classifier: Classifier, image: OneImage, target: Target, draw: _Masks) -> VariantScores:
        def masked(rows: slice) -> Tensor:
            return target.outputs(classifier, image * draw(rows)[:, None].to(image))

        scores = variant_scores(
            classifier,
            image,
            target,
            self.masks,
            masked,
            budget=self.budget,
            chunk=self.chunk,
            label="rise",
            score=_score,
        )
        return scores.to(torch.promote_types(image.dtype, torch.float32))


def _score(outputs: Tensor, target: Target) -> Scores:
    plain = target.layer is None and target.function is None and target.against is None
    return target.pick(probabilities(outputs) if plain else outputs)


def _weighed(weights: Tensor, draw: _Masks) -> Tensor:
    """The sum "h w" of masks times weights, some masks at a time."""
    total = weights.new_zeros(draw.height, draw.width)
    for start in range(0, len(weights), 64):
        rows = slice(start, start + 64)
        total += torch.einsum("n,nhw->hw", weights[rows], draw(rows).to(weights))
    return total


class _Masks:
    """The masks, made anew for any rows: only grids and shifts are kept, drawn on the CPU for any device alike."""

    def __init__(self, settings: Rise, height: int, width: int) -> None:
        cell = -(-min(height, width) // settings.grid)
        rows, cols = -(-height // cell), -(-width // cell)
        generator = torch.Generator().manual_seed(settings.seed)
        count = settings.masks
        self.grids = (torch.rand(count, 1, rows + 1, cols + 1, generator=generator) < settings.keep).float()
        self.shifts = torch.randint(0, cell, (count, 2), generator=generator).tolist()
        self.full = ((rows + 1) * cell, (cols + 1) * cell)
        self.height, self.width = height, width

    def __call__(self, rows: slice) -> Tensor:
        large = F.interpolate(self.grids[rows], self.full, mode="bilinear", align_corners=False)[:, 0]
        cut = [
            mask[top : top + self.height, left : left + self.width]
            for mask, (top, left) in zip(large, self.shifts[rows], strict=True)
        ]
        return torch.stack(cut)
