"""Sensitivity-n: do the attributions of some pixels sum up to what the score loses without them?

Ancona et al. 2018 (arXiv 1711.06104), section 3.3.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from convscope.errors import UsageError
from convscope.instrument.perturb import variant_scores
from convscope.instrument.target import Target
from convscope.models.classifier import Classifier
from convscope.studies.scores.cells import sums_in
from convscope.types import OneImage

FLAT = 1e-9  # of the largest: a spread below it is rounding


def sizes_of(shares: Sequence[float], count: int) -> list[int]:
    """How many of ``count`` cells each share takes: at least one, never all, where nothing would differ."""
    if count < 2:
        raise UsageError("sensitivity-n needs two cells at least: give a smaller --cell")
    return [min(max(round(share * count), 1), count - 1) for share in shares]


def sensitivity(
    classifier: Classifier,
    image: OneImage,
    target: Target,
    maps: Tensor,
    of: Tensor,
    sizes: Sequence[int],
    subsets: int,
    absent: OneImage,
    *,
    generator: torch.Generator,
    budget: float,
    label: str,
) -> np.ndarray:
    """The correlation "maps sizes" of two numbers over random subsets of n cells: the sum of the attributions in it,
    and the score (the class's logit) less the score with its cells as in ``absent``.

    ``maps`` "m h w": signed. ``of``: each pixel's cell. All maps are asked about the same subsets. NaN where either
    number is the same for every subset, as for a map that is the same everywhere.
    """
    count = int(of.max()) + 1
    # The n first of a random order, for each subset.
    drawn = torch.zeros(len(sizes) * subsets, count, dtype=torch.bool)
    for i, size in enumerate(sizes):
        first = torch.rand(subsets, count, generator=generator).argsort(1)[:, :size]
        drawn[i * subsets : (i + 1) * subsets].scatter_(1, first, True)
    place = of.flatten()

    def outputs(rows: slice) -> Tensor:
        # The first is the photo as it is.
        gone = torch.stack([drawn[row - 1] & (row > 0) for row in range(rows.start, rows.stop)])
        gone = gone[:, place].view(-1, 1, *of.shape).to(image.device)
        return classifier(torch.where(gone, absent, image))

    found = variant_scores(classifier, image, target, 1 + len(drawn), outputs, budget=budget, label=label)
    scores = found.double().cpu().numpy()
    lost = (scores[0] - scores[1:]).reshape(len(sizes), subsets)
    of_cells = sums_in(maps, of)
    answers = np.empty((len(maps), len(sizes)))
    for i, chosen in enumerate(drawn.split(subsets)):
        gone = chosen.double()
        for j, each in enumerate(of_cells):
            answers[j, i] = correlation((gone @ each).numpy(), lost[i])
    return answers


def correlation(one: np.ndarray, other: np.ndarray) -> float:
    """Pearson's; NaN where either does not vary, or is not all finite."""
    apart = []
    for values in (one, other):
        centred = values - values.mean()
        spread = float(np.linalg.norm(centred))
        if not spread > FLAT * float(np.linalg.norm(values)):
            return float("nan")
        apart.append(centred / spread)
    return float(np.clip(apart[0] @ apart[1], -1, 1))
