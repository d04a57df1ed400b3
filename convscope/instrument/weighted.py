"""The layers that hold a network's weights, in the order in which they run."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from torch import nn

from convscope.instrument.trace import Trace, trace
from convscope.models.classifier import Classifier
from convscope.types import Images

NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)  # what has statistics of what it has seen
PARAMETRIZED = ".parametrizations."  # where torch puts the weights that another is computed of


@dataclass(frozen=True)
class WeightedLayer:
    """A module with weights and the small ones that belong to it. ``path``: of the module itself. ``modules``: of all
    of them. ``number``: its place in the order of execution, from 0."""

    path: str
    modules: tuple[str, ...]
    number: int


def weighted_layers(classifier: Classifier, images: Images) -> list[WeightedLayer]:
    """Every layer that the answer is computed with, the first that runs first; one that runs twice by its last time.

    A layer is a module that holds a matrix or filters itself. What holds only a number a channel (BatchNorm and other
    norms, scales) belongs to the layer that ran before it, or to the first. Weights that no operation reads, such as
    those of an auxiliary head, are in none.
    """
    taken = trace(classifier.network, images, through=classifier)
    places = _places(classifier.network, taken)
    modules = dict(classifier.network.named_modules())
    grouped: list[list[str]] = []
    waiting: list[str] = []
    for path in sorted(places, key=lambda path: places[path]):
        if max((weight.ndim for _, weight in own_weights(modules[path])), default=0) > 1:
            grouped.append([path, *waiting])
            waiting = []
        elif grouped:
            grouped[-1].append(path)
        else:
            waiting.append(path)
    if waiting:  # nothing in it is larger than that
        grouped = [[path] for path in waiting]
    return [WeightedLayer(group[0], tuple(group), number) for number, group in enumerate(grouped)]


def _places(network: nn.Module, taken: Trace) -> dict[str, int]:
    """The last operation that reads a weight of each module that holds some, or statistics."""
    read = {constant.data_ptr(): i for i, op in enumerate(taken.ops) for constant in op.constants}
    ran = {event.address.path: event.done - 1 for event in taken.events}
    found: dict[str, int] = {}
    for path, module in network.named_modules():
        if PARAMETRIZED in f".{path}.":
            continue
        own = [weight for _, weight in own_weights(module)]
        places = [read[weight.data_ptr()] for weight in own if weight.data_ptr() in read]
        if not places and (own or isinstance(module, NORMS)):  # weights that another is computed of
            places = [len(taken.ops)] if path == "" else [ran[path]] if path in ran else []
        if places:
            found[path] = max(places)
    return found


def own_weights(module: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    """The parameters that a module holds itself."""
    yield from module.named_parameters(recurse=False)
    for name, inner in module.named_children():
        if name == PARAMETRIZED.strip("."):
            yield from inner.named_parameters()
