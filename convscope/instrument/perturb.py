"""Many variants of one image, scored in chunks that keep to a memory budget."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import inf
from typing import TypeAlias

import torch
from torch import Tensor

from convscope.errors import UsageError
from convscope.instrument.state import undisturbed
from convscope.instrument.target import Target
from convscope.instrument.trace import trace
from convscope.models.classifier import Classifier
from convscope.progress import track
from convscope.types import OneImage, Variants, VariantScores

MIB = 2**20
BUDGET_MIB = 1024.0
BUDGET_HELP = "memory in MiB that the variants of an image may take at one time"
# Values alone are counted; convolutions take scratch space beside them, and allocators keep some of what is freed.
SLACK = 3.0


Reading: TypeAlias = Callable[[Tensor, Target], Variants]  # what a target is picked from -> numbers for each variant


def picked(found: Tensor, target: Target) -> VariantScores:
    """The target's score."""
    return target.pick(found)


@dataclass(frozen=True)
class Watched:
    """What is wanted of each variant: a reading of what the target is picked from; by default its score."""

    target: Target
    reading: Reading = picked


def variant_bytes(classifier: Classifier, image: OneImage) -> float:
    """What one variant of ``image`` takes in a forward pass, at most."""
    pixels = image[0].numel() * image.element_size()
    return trace(classifier.network, image, through=classifier).peak_bytes * SLACK + 3 * pixels


def chunk_size(classifier: Classifier, image: OneImage, budget: float) -> int:
    """How many variants of ``image`` a forward pass may take within ``budget`` MiB."""
    if not 0 < budget < inf:
        raise UsageError(f"the memory budget must be positive and finite, got {budget} MiB")
    each = variant_bytes(classifier, image)
    fitting = int(budget * MIB // each)
    if fitting < 1:
        raise UsageError(
            f"a memory budget of {budget:g} MiB does not hold one image, which takes {each / MIB:.0f} MiB: give more"
        )
    # Beyond these a larger batch is no faster: caches decide on a CPU, occupancy on a GPU.
    return min(fitting, 16 if image.device.type == "cpu" else 256)


def variant_scores(
    classifier: Classifier,
    image: OneImage,
    target: Target,
    count: int,
    outputs: Callable[[slice], Tensor],
    *,
    budget: float,
    label: str,
    chunk: int | None = None,
    score: Reading = picked,
) -> Variants:
    """Scores of ``count`` variants of one image "1 c h w"; ``outputs(rows)`` gives what the target is picked from.

    ``score``: another reading of the outputs than ``target.pick``, such as probabilities.
    """
    wanted = [Watched(target, score)]
    found = variant_readings(
        classifier, image, wanted, count, lambda rows: [outputs(rows)], budget=budget, label=label, chunk=chunk
    )
    return found[0]


def variant_readings(
    classifier: Classifier,
    image: OneImage,
    wanted: Sequence[Watched],
    count: int,
    outputs: Callable[[slice], Sequence[Tensor]],
    *,
    budget: float,
    label: str,
    chunk: int | None = None,
) -> list[Variants]:
    """Several readings of each variant; ``outputs(rows)`` gives what each target is picked from.

    ``chunk``: overrides the size that ``budget`` (MiB) gives, without changing the result.
    """
    size = chunk_size(classifier, image, budget) if chunk is None else chunk
    if size < 1:
        raise UsageError(f"a chunk holds at least one variant, got {chunk}")
    chunks = [slice(start, min(start + size, count)) for start in range(0, count, size)]
    found: list[list[Variants]] = [[] for _ in wanted]
    for rows in track(chunks, label, weigh=lambda c: c.stop - c.start):
        with undisturbed(classifier, grad=False):
            for kept, one, output in zip(found, wanted, outputs(rows), strict=True):
                kept.append(one.reading(output, one.target.repeat(rows.stop - rows.start)))
    return [torch.cat(kept) for kept in found]
