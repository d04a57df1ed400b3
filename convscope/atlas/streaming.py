"""The pass: batches go through the network once, and every layer's running figures take in what its hook sees.

Nothing grows with the data set. What a layer puts out is looked at inside the hook and let go.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from convscope.atlas.sample import Drawn, Sample, sampled
from convscope.atlas.statistics import Labels, Seen, Statistics, held_on
from convscope.atlas.topk import TopK
from convscope.errors import ConvscopeError, UsageError
from convscope.instrument.record import record
from convscope.instrument.target import peaks
from convscope.models.classifier import Classifier
from convscope.types import Features, Images, Logits


@dataclass(eq=False)
class Figures:
    """What is known of a layer's units so far. ``statistics`` and ``sample`` are None where top-k alone is kept."""

    top: TopK
    statistics: Statistics | None
    sample: Sample | None
    maps: tuple[int, ...]  # rows and columns of its maps; () for numbers

    def merge(self, other: Figures) -> None:
        """Take in what another process has seen of the same layer."""
        self.top = self.top.merged(other.top)
        if self.statistics is not None and other.statistics is not None:
            self.statistics.merge(other.statistics)
        if self.sample is not None and other.sample is not None:
            self.sample.merge(other.sample)

    def tensors(self) -> dict[str, Tensor]:
        """All of it, for a file."""
        found = {"maps": torch.tensor(self.maps, dtype=torch.int64)}
        for part in ("top", "statistics", "sample"):
            held = getattr(self, part)
            if held is not None:
                values = {field.name: getattr(held, field.name) for field in fields(held)}
                found |= {f"{part}.{name}": torch.as_tensor(value).detach().cpu() for name, value in values.items()}
        return found

    @classmethod
    def of_tensors(cls, tensors: Mapping[str, Tensor], device: torch.device) -> Figures:
        """What ``tensors`` gave."""

        def part(kind: type[Any], name: str) -> Any:
            held = {key.removeprefix(f"{name}."): value for key, value in tensors.items() if key.startswith(f"{name}.")}
            if not held:
                return None
            where = held_on(device) if kind is Statistics else device
            at = {key: value if key == "numbers" else value.to(where) for key, value in held.items()}
            return kind(**{key: float(value) if key == "count" else value for key, value in at.items()})

        parts = part(TopK, "top"), part(Statistics, "statistics"), part(Sample, "sample")
        return cls(*parts, tuple(tensors["maps"].tolist()))


class _Batch(NamedTuple):
    """What is the same for all layers."""

    numbers: Tensor
    labels: Labels
    drawn: Drawn


class Pass:
    """Running figures of ``layers`` over a data set of ``count`` images.

    ``classes``: how many the images' labels tell apart. ``top``: images a unit. ``statistics``: all else too.
    """

    def __init__(
        self,
        classifier: Classifier,
        layers: Sequence[str],
        count: int,
        *,
        top: int = 9,
        classes: int = 0,
        statistics: bool = True,
    ) -> None:
        self.classifier, self.layers, self.k = classifier, list(layers), top
        self.classes, self.more = classes, statistics
        self.figures: dict[str, Figures] = {}
        self._numbers = sampled(count)
        self._slots = np.full(count, -1, np.int64)
        self._slots[self._numbers] = np.arange(len(self._numbers))

    def see(self, images: Images, numbers: np.ndarray, labels: np.ndarray) -> None:
        """A batch of pixels, the images' numbers in the data set, ascending, and their classes (-1: none).

        Call it ``undisturbed``, without gradients.
        """
        batch = _Batch(
            torch.from_numpy(numbers).to(images.device),
            Labels.of(labels, self.classes, images.device),
            Drawn.of(self._slots[numbers], images.device),
        )
        peak: dict[str, Tensor] = {}
        looks = {layer: partial(self._look, layer, batch, peak) for layer in self.layers}
        with record(self.classifier.network, self.layers, stop=True, reduce=looks) as kept:
            self.classifier(images)
        if missing := [layer for layer in self.layers if layer not in kept]:
            _ = kept[missing[0]]  # which says why
        if not bool(
            torch.cat([best.flatten() for best in peak.values()]).isfinite().all()
        ):  # asked once for all layers
            layer = next(layer for layer, best in peak.items() if not bool(best.isfinite().all()))
            raise ConvscopeError(f"layer {layer} gives NaN or infinity: check the model's weights, mean and std")

    def _look(self, layer: str, batch: _Batch, peak: dict[str, Tensor], outputs: Features | Logits) -> None:
        outputs = outputs.detach()
        if outputs.ndim not in (2, 4) or len(outputs) != len(batch.numbers):
            raise UsageError(f"layer {layer} gives {tuple(outputs.shape[1:])} an image: neither maps nor numbers")
        if not outputs.is_floating_point():
            raise UsageError(f"layer {layer} gives {outputs.dtype}, which is no activation")
        outputs = outputs.to(torch.promote_types(outputs.dtype, torch.float32))
        own = self.figures.get(layer)
        if own is None:
            own = self.figures[layer] = self._begin(outputs)
        seen = Seen.of(outputs) if own.statistics is not None else None
        best = seen.best if seen is not None else peaks(outputs)
        peak[layer] = best
        own.top.update(outputs, best, batch.numbers)
        if seen is not None and own.statistics is not None and own.sample is not None:
            own.statistics.update(seen, batch.labels)
            own.sample.update(outputs, best, batch.drawn)

    def _begin(self, outputs: Tensor) -> Figures:
        units = outputs.shape[1]
        return Figures(
            TopK.empty(units, self.k, outputs),
            Statistics.empty(units, self.classes, outputs) if self.more else None,
            Sample.empty(self._numbers, units, outputs) if self.more else None,
            tuple(outputs.shape[2:]),
        )

    def merge(self, others: Mapping[str, Figures]) -> None:
        """Take in what another process has seen."""
        for layer, other in others.items():
            if layer in self.figures:
                self.figures[layer].merge(other)
            else:
                self.figures[layer] = other
