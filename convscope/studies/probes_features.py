"""What layers make of the photos of a data set: of all layers, and of several networks, in one pass."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass

import numpy as np
import torch.nn.functional as F
from torch import Tensor

from convscope.data.loading import Loader, Photos, cut, pixels_of, workers_for
from convscope.errors import ConvscopeError, UsageError
from convscope.instrument.address import Address
from convscope.instrument.record import record
from convscope.instrument.state import undisturbed
from convscope.instrument.trace import trace
from convscope.models.classifier import Classifier
from convscope.progress import track
from convscope.studies.looks import layers_meant

LARGEST = 4 * 2**30  # bytes of features that are still reasonable to keep
AT_ONCE = 32


@dataclass(frozen=True)
class Layer:
    """A layer, ``shape`` of its output for an image, and the ``grid`` that maps are averaged to; None: as they are."""

    address: Address
    shape: tuple[int, ...]
    grid: tuple[int, int] | None

    @property
    def key(self) -> str:
        return self.address.key

    @property
    def width(self) -> int:
        """How many numbers it comes to."""
        return int(np.prod(self.shape[:1] + self.grid if self.grid else self.shape))

    def reduce(self, output: Tensor) -> Tensor:
        """ "b numbers" """
        if self.grid is not None:
            output = F.adaptive_avg_pool2d(output, self.grid)
        return output.flatten(1).float().cpu()


def layers_to_probe(classifier: Classifier, words: Sequence[str], numbers: int) -> list[Layer]:
    """The layers that words mean, in the order in which they run. UsageError for one that is not there."""
    if numbers < 1:
        raise UsageError(f"numbers is {numbers}: of each layer there is at least 1")
    blank = classifier.blank()
    addresses = layers_meant(classifier, words, blank)
    taken = trace(classifier.network, blank, through=classifier)
    done = {address.key: event.done for address in addresses if (event := taken.event(address.key)) is not None}
    addresses.sort(key=lambda address: done.get(address.key, 0))
    with undisturbed(classifier, grad=False), record(classifier.network, addresses, reduce=_shape) as kept:
        classifier(blank)
    found = []
    for address in addresses:
        shape = kept[address]
        if not shape:
            raise UsageError(f"layer {address} gives one number an image and nothing to tell classes by")
        found.append(Layer(address, shape, grid(shape, numbers) if len(shape) == 3 else None))
    return found


def _shape(output: Tensor) -> tuple[int, ...]:
    return tuple(output.shape[1:])


def grid(shape: tuple[int, ...], numbers: int) -> tuple[int, int]:
    """The finest grid, of the maps' proportions, that leaves at most so many numbers of maps "c h w"; 1x1 at least."""
    maps, height, width = shape
    fitting = [(rows, max(1, round(width * rows / height))) for rows in range(1, height + 1)]
    return max(((r, c) for r, c in fitting if maps * r * c <= numbers), default=(1, 1))


def features_of(
    classifiers: Mapping[str, Classifier],
    photos: Photos,
    rows: np.ndarray,
    layers: Sequence[Layer],
    workers: int | None = None,
    largest: int = LARGEST,
) -> tuple[dict[tuple[str, str], np.ndarray], np.ndarray]:
    """Of each classifier and layer, by their names, "photos numbers" in float32; and the rows that could be read."""
    needed = 4 * len(rows) * len(classifiers) * sum(layer.width for layer in layers)
    if needed > largest:
        raise UsageError(
            f"features of {len(rows):,} photos take {needed / 2**30:.1f} GiB, more than {largest / 2**30:.0f}: give "
            "fewer layers, a smaller --numbers, or --per-class"
        )
    places = [(name, layer.key) for name in classifiers for layer in layers]
    widths = {layer.key: layer.width for layer in layers}
    values = {place: np.zeros((len(rows), widths[place[1]]), np.float32) for place in places}
    addresses, reduce = [layer.address for layer in layers], {layer.key: layer.reduce for layer in layers}
    kept: list[np.ndarray] = []
    loader = Loader(photos, workers_for(photos, workers))
    with ExitStack() as stack:
        stack.enter_context(closing(loader))
        for classifier in classifiers.values():
            stack.enter_context(undisturbed(classifier, grad=False))
        parts = cut(rows, AT_ONCE)
        for _, batch in zip(track(parts, "features of the layers", weigh=len), loader.batches(parts), strict=True):
            at = slice(sum(map(len, kept)), sum(map(len, kept)) + len(batch.rows))
            kept.append(batch.rows)
            if not len(batch.rows):
                continue
            for name, classifier in classifiers.items():
                pixels = pixels_of(batch.images.to(classifier.device))
                with record(classifier.network, addresses, reduce=reduce, stop=True) as found:
                    classifier(pixels)
                for address in addresses:
                    values[name, address.key][at] = found[address].numpy()
    read = np.concatenate(kept) if kept else rows[:0]
    if not len(read):
        raise ConvscopeError(f"{photos.catalog.source}: none of its photos can be read any more")
    for (name, key), found_values in values.items():
        if not np.isfinite(found_values[: len(read)]).all():
            what = classifiers[name].name
            raise ConvscopeError(f"layer {key} of {what} gives NaN or infinity: check its weights, and mean and std")
    return {place: found_values[: len(read)] for place, found_values in values.items()}, read
