"""Many variants of one image, scored in chunks that keep to a memory budget."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from convscope.errors import UsageError
from convscope.instrument.state import undisturbed
from convscope.instrument.target import Target
from convscope.instrument.trace import trace
from convscope.models.classifier import Classifier
from convscope.progress import track
from convscope.types import Images, Scores

MIB = 2**20
# Values alone are counted; convolutions take scratch space beside them, and allocators keep some of what is freed.
SLACK = 2.0


def chunk_size(classifier: Classifier, image: Images, budget: float, *, extra: int = 0) -> int:
    """How many variants of ``image`` a forward pass may take within ``budget`` MiB; ``extra`` bytes come with each."""
    if budget <= 0:
        raise UsageError(f"the memory budget must be positive, got {budget} MiB")
    taken = trace(classifier.network, image, through=classifier)
    each = taken.peak_bytes * SLACK + extra
    fitting = int(budget * MIB // each)
    if fitting < 1:
        raise UsageError(f"a memory budget of {budget:g} MiB does not hold one image, which takes {each / MIB:.0f} MiB")
    # Beyond these a larger batch is no faster: caches decide on a CPU, occupancy on a GPU.
    return min(fitting, 16 if image.device.type == "cpu" else 256)


def variant_scores(
    classifier: Classifier,
    image: Images,
    target: Target,
    count: int,
    make: Callable[[slice], Images],
    *,
    budget: float,
    label: str,
    chunk: int | None = None,
    score: Callable[[Tensor, Target], Scores] = lambda outputs, target: target.pick(outputs),
    outputs: Callable[[Images, slice], Tensor] | None = None,
) -> Scores:
    """Scores of ``count`` variants of one image "1 c h w", made chunk by chunk by ``make(rows)``.

    ``score``: another reading of the outputs than ``target.pick``, such as a probability. ``outputs``: another way to
    them than a forward pass. ``chunk``: overrides the size that ``budget`` (MiB) gives, without changing the result.
    """
    extra = 3 * image[0].numel() * image.element_size()
    size = chunk or chunk_size(classifier, image, budget, extra=extra)
    chunks = [slice(start, min(start + size, count)) for start in range(0, count, size)]
    scores = []
    for rows in track(chunks, label, weigh=lambda c: c.stop - c.start):
        with undisturbed(classifier, grad=False):
            batch = make(rows)
            found = target.outputs(classifier, batch) if outputs is None else outputs(batch, rows)
            scores.append(score(found, target.repeat(rows.stop - rows.start)))
    return torch.cat(scores)
