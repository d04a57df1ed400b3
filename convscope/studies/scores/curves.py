"""Deletion and insertion: the score while pixels, or cells of them, are taken away or put back in the order of a map.

Petsiuk et al. 2018 (RISE, arXiv 1806.07421), section 4.2; deletion is the pixel flipping of Bach et al. 2015.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from convscope.instrument.perturb import variant_scores
from convscope.instrument.target import Target
from convscope.models.classifier import Classifier, probabilities
from convscope.studies.scores.cells import sums_in
from convscope.types import OneImage


def ranks(map: Tensor, of: Tensor, generator: torch.Generator) -> Tensor:
    """The place in the order "h w" of each pixel's cell: 0 is the cell whose mean of a map "h w" is highest.

    ``of``: the number of each pixel's cell. Equal cells come in random order: a stable one would take a rectified map's
    many zeros from the top down, as if they had been ranked. The same generator gives maps of the same order the same
    places.
    """
    means = sums_in(map[None], of)[0] / of.flatten().bincount()
    shuffled = torch.randperm(len(means), generator=generator)
    order = shuffled[means[shuffled].argsort(descending=True, stable=True)]
    found = torch.empty(len(means), dtype=torch.int32)
    found[order] = torch.arange(len(means), dtype=torch.int32)
    return found[of].to(map.device)


def counts(cells: int, steps: int) -> list[int]:
    """How many cells are taken after each step: from none to all, as evenly as whole cells allow."""
    return [round(step * cells / steps) for step in range(steps + 1)]


def area(shares: Sequence[float] | np.ndarray, values: np.ndarray) -> np.ndarray:
    """The area under curves "... points", by the trapezoid rule."""
    found: np.ndarray = np.trapezoid(values, np.asarray(shares, np.float64), axis=-1)
    return found


def curves(
    classifier: Classifier,
    image: OneImage,
    target: Target,
    order: Sequence[Tensor],
    ends: Sequence[tuple[OneImage, OneImage]],
    steps: int,
    *,
    budget: float,
    label: str,
) -> np.ndarray:
    """The class's probability "maps curves points" after each of ``steps``.

    ``order``: each map's ``ranks``. ``ends``: for each curve what the pixels that were taken show, and the others: the
    fill and the photo for deletion, the photo and what hides it for insertion. All curves of a kind begin and end with
    the same two pictures, which are looked at once.
    """
    taken = counts(int(order[0].max()) + 1, steps)
    inside, outside = (torch.cat(side) for side in zip(*ends, strict=True))
    stack = torch.stack(list(order))
    each, kinds = steps - 1, len(ends)
    # First each kind's two ends, then what lies between them, map by map.
    bounds = [(0, kind, step) for kind in range(kinds) for step in (0, steps)]
    between = [(m, kind, step) for m in range(len(order)) for kind in range(kinds) for step in range(1, steps)]
    plan = torch.tensor(bounds + between)
    upto = torch.tensor(taken)[plan[:, 2]].to(stack)

    def outputs(rows: slice) -> Tensor:
        which, kind = plan[rows, 0].to(stack.device), plan[rows, 1].to(stack.device)
        chosen = stack[which] < upto[rows][:, None, None]
        return classifier(torch.where(chosen[:, None], inside[kind], outside[kind]))

    found = variant_scores(
        classifier, image, target, len(plan), outputs, budget=budget, label=label, score=_probability
    )
    values: np.ndarray = found.double().cpu().numpy()
    full = np.empty((len(order), kinds, steps + 1))
    full[:, :, [0, steps]] = values[: 2 * kinds].reshape(kinds, 2)
    full[:, :, 1:steps] = values[2 * kinds :].reshape(len(order), kinds, each)
    return full


def _probability(outputs: Tensor, target: Target) -> Tensor:
    return target.pick(probabilities(outputs))
