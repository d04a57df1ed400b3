"""Randomised weights: the control of every explanation (Adebayo et al. 2018, arXiv 1810.03292).

What looks the same without anything learned says nothing of what was learned.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Literal, TypeAlias, get_args

import numpy as np
import torch
from torch import Tensor, nn

from convscope.instrument.state import undisturbed
from convscope.instrument.weighted import NORMS, WeightedLayer, own_weights
from convscope.models.classifier import Classifier
from convscope.models.copying import copied

How: TypeAlias = Literal["shuffle", "reset"]
HOWS = get_args(How)
SETTLING = 4  # images of noise, from which BatchNorm learns what to expect


def randomised(classifier: Classifier, seed: int = 0, size: tuple[int, int] | None = None) -> Classifier:
    """A copy whose weights are the same numbers in another order, tensor by tensor; ModelError if it has no copy.

    BatchNorm's statistics are taken anew, on noise of ``size`` (by default the network's own canvas), so that no layer
    falls silent for what is expected of it.
    """
    network = copied(classifier.network)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in network.parameters():
            _shuffle(weight, generator)
    found = _around(network, classifier, "weights shuffled")
    _settle(found, network.modules(), generator, size)
    return found


def randomised_layers(
    classifier: Classifier,
    layers: Sequence[WeightedLayer],
    seed: int = 0,
    how: How = "shuffle",
    size: tuple[int, int] | None = None,
) -> Classifier:
    """A copy in which only these layers know nothing; all others are as they were. ModelError if it has no copy.

    ``how``: "shuffle" puts each tensor's numbers in another order, so that every layer keeps the scale that it was
    trained to; "reset" calls the modules' own ``reset_parameters``, as training would begin, and shuffles where there
    is none. A layer's new weights depend on ``seed`` and its place alone, not on which others are randomised. The
    statistics of the layers' own BatchNorm are taken anew, on noise of ``size``, by default the network's own canvas;
    those of others stay.
    """
    network = copied(classifier.network)
    for layer in layers:
        own = int(np.random.SeedSequence([seed, layer.number]).generate_state(1)[0])
        generator = torch.Generator().manual_seed(own)
        for path in layer.modules:
            module = network.get_submodule(path)
            if how == "reset" and _resets(module):
                with undisturbed(module, grad=False, seed=own):
                    module.reset_parameters()  # type: ignore[operator]
                continue
            with torch.no_grad():
                for _, weight in own_weights(module):
                    _shuffle(weight, generator)
    found = _around(network, classifier, f"{len(layers)} layers randomised")
    changed = [network.get_submodule(path) for layer in layers for path in layer.modules]
    _settle(found, changed, torch.Generator().manual_seed(seed), size)
    return found


def _shuffle(weight: Tensor, generator: torch.Generator) -> None:
    order = torch.randperm(weight.numel(), generator=generator).to(weight.device)
    weight.copy_(weight.flatten()[order].view_as(weight))


def _resets(module: nn.Module) -> bool:
    """Whether it can begin anew: not where its weights are computed of others, which that would not change."""
    return callable(getattr(module, "reset_parameters", None)) and isinstance(
        getattr(module, "weight", None), nn.Parameter
    )


def _around(network: nn.Module, classifier: Classifier, what: str) -> Classifier:
    return Classifier(
        network,
        classifier.classes,
        mean=classifier.mean,
        std=classifier.std,
        framing=classifier.framing,
        channels=classifier.channels,
        background=classifier.background,
        name=f"{classifier.name}, {what}",
    )


def _settle(
    classifier: Classifier,
    among: Iterable[nn.Module],
    generator: torch.Generator,
    size: tuple[int, int] | None = None,
) -> None:
    norms = [m for m in among if isinstance(m, NORMS) and m.track_running_stats]
    if not norms:
        return
    with undisturbed(classifier, grad=False):
        for norm in norms:
            norm.reset_running_stats()
            norm.momentum = None  # the mean of all that it sees
            norm.training = True
        classifier(_noise(classifier, generator, size or classifier.canvas))


def _noise(classifier: Classifier, generator: torch.Generator, size: tuple[int, int]) -> Tensor:
    """Images with detail of every size, as photos have."""
    shape = (SETTLING, classifier.channels, *size)
    found = torch.zeros(shape)
    for level in range(6):
        sides = [max(1, side >> level) for side in shape[2:]]
        detail = torch.rand((*shape[:2], *sides), generator=generator)
        found += nn.functional.interpolate(detail, shape[2:], mode="bilinear") / 6
    return found.to(classifier.blank())
