"""A unit of an atlas: its numbers, its photos and how it is shown."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, overload

import numpy as np
from PIL import Image

from convscope.atlas.card import card
from convscope.atlas.projections import Neuron
from convscope.atlas.store import Row
from convscope.errors import ConvscopeError
from convscope.images.read import printable
from convscope.images.show import figure_of, png_of

if TYPE_CHECKING:
    from convscope.atlas.atlas import Atlas

NUMBERS = ("mean", "std", "max", "active", "q10", "q50", "q90", "selectivity")
KINDS = ("top", "middle", "random")


@dataclass(frozen=True)
class Patch:
    """Where a photo excites a unit most. ``row`` and ``col`` are on the layer's map, None where it has none."""

    value: float
    image: str
    row: int | None
    col: int | None
    class_name: str | None
    number: int

    def about(self) -> dict[str, Any]:
        return {
            "value": self.value,
            "image": printable(self.image),
            "row": self.row,
            "col": self.col,
            "class": self.class_name,
        }


class Unit:
    """What is known of a unit; see ``Atlas.unit``.

    ``mean``, ``std`` and ``active`` (the share above zero) are over all places of all photos, ``max`` is the highest;
    ``q10``, ``q50`` and ``q90`` are quantiles of the maximum on each of a sample of the photos. ``selectivity`` is that
    of Morcos et al. 2018 for ``class_name``, the class of the photos with the highest mean; None where they have fewer
    than two. ``dead``: never changes. ``duplicate_of``: the first unit of the layer that is the same
    up to scale and offset.
    """

    mean: float
    std: float
    max: float
    active: float
    q10: float | None
    q50: float | None
    q90: float | None
    selectivity: float | None

    def __init__(self, atlas: Atlas, row: Row) -> None:
        self.atlas, self.layer, self.number = atlas, str(row["address"]), int(row["unit"])
        for name in NUMBERS:
            setattr(self, name, row[name])
        self.dead, self.duplicate_of = bool(row["dead"]), row["duplicate_of"]
        self.class_name = None if row["class"] is None else atlas.classes[row["class"]]
        self._layer = int(row["layer"])

    @property
    def address(self) -> str:
        return f"{self.layer}:{self.number}"

    @cached_property
    def _patches(self) -> dict[str, tuple[Patch, ...]]:
        found: dict[str, list[Patch]] = {kind: [] for kind in KINDS}
        for row in self.atlas.store.patches(self._layer, self.number):
            name = None if row["class"] is None else self.atlas.classes[row["class"]]
            found[row["kind"]].append(Patch(row["value"], row["name"], row["row"], row["col"], name, row["image"]))
        return {kind: tuple(some) for kind, some in found.items()}

    @property
    def top(self) -> tuple[Patch, ...]:
        """The photos that excite it most, the strongest first."""
        return self._patches["top"]

    @property
    def middle(self) -> tuple[Patch, ...]:
        """Photos about the median: what it makes of an ordinary one."""
        return self._patches["middle"]

    @property
    def random(self) -> tuple[Patch, ...]:
        """Photos at random, the same for all units."""
        return self._patches["random"]

    @cached_property
    def neighbours(self) -> tuple[tuple[str, float], ...]:
        """Units of the layer whose maxima go up and down with its own: their addresses and the correlation."""
        rows = self.atlas.store.neighbours(self._layer, self.number)
        return tuple((f"{self.layer}:{row['other']}", row["correlation"]) for row in rows)

    @cached_property
    def maxima(self) -> np.ndarray:
        """Its maximum on each of a sample of the photos."""
        found = self.atlas.figures(self._layer, "sample.maxima", self.number)
        return found[~np.isnan(found)]

    @cached_property
    def class_means(self) -> Mapping[str, float]:
        """Its mean activation for each class of the photos, over all places."""
        sums = self.atlas.figures(self._layer, "statistics.by_class", self.number)
        members = self.atlas.figures(self._layer, "statistics.members", None)
        return {
            name: float(total / count)
            for name, total, count in zip(self.atlas.classes, sums, members, strict=True)
            if count
        }

    def neuron(self, patch: Patch) -> Neuron:
        """The unit where a photo excites it most."""
        return Neuron(self.number, patch.number, patch.row, patch.col, patch.value)

    def patch(self, rank: int = 0, kind: str = "top") -> Image.Image:
        """What the unit sees of a photo: its receptive field, or of one that is nearly everything the box that holds
        95 % of the energy of its projection.
        """
        return self._picture(rank, kind, None)

    def projection(self, rank: int = 0, method: str = "guided", kind: str = "top") -> Image.Image:
        """What of a photo excites it, projected back to the pixels of its patch."""
        return self._picture(rank, kind, method)

    def _picture(self, rank: int, kind: str, method: str | None) -> Image.Image:
        one = self._patches[kind][rank]
        found = self.atlas.pictures(self.layer, [self.neuron(one)], [] if method is None else [method])
        key = (self.number, one.number, method or "photo")
        if key not in found:
            raise ConvscopeError(self.atlas.troubles.get(one.number, f"there is no picture of {one.image}"))
        return found[key].image

    def card(self, methods: Sequence[str] | None = None, *, control: bool = True) -> Image.Image:
        """All there is to know of it as one picture: patches beside projections by ``methods`` (by default those that
        the atlas was made with, or guided), their worth, and the same with shuffled weights.
        """
        return card(self, self.atlas.methods if methods is None else tuple(methods), control)

    def plot(self) -> Any:
        """A matplotlib figure of the card."""
        return figure_of(self.card())

    def _repr_png_(self) -> bytes:
        return png_of(self.card())

    def row(self) -> dict[str, Any]:
        """Its numbers, as a row of a table."""
        told = {"address": self.address, "layer": self.layer, "unit": self.number}
        told |= {name: getattr(self, name) for name in NUMBERS}
        return told | {"class": self.class_name, "dead": self.dead, "duplicate_of": self.duplicate_of}

    def about(self) -> dict[str, Any]:
        """All that is known in plain types."""
        patches = {kind: [patch.about() for patch in some] for kind, some in self._patches.items()}
        near = [{"unit": address, "correlation": value} for address, value in self.neighbours]
        return {**self.row(), **patches, "neighbours": near, "class_means": dict(self.class_means)}

    def __repr__(self) -> str:
        if self.dead:
            return f"<Unit {self.address}: dead>"
        best = f", most for {self.class_name}" if self.class_name is not None else ""
        return f"<Unit {self.address}: {self.mean:.3g} on average, at most {self.max:.3g}{best}>"


class Units(Sequence[Unit]):
    """Units in order."""

    def __init__(self, units: Sequence[Unit]) -> None:
        self._units = units

    def __len__(self) -> int:
        return len(self._units)

    @overload
    def __getitem__(self, index: int) -> Unit: ...

    @overload
    def __getitem__(self, index: slice) -> Units: ...

    def __getitem__(self, index: int | slice) -> Unit | Units:
        return Units(self._units[index]) if isinstance(index, slice) else self._units[index]

    def __iter__(self) -> Iterator[Unit]:
        return iter(self._units)

    def rows(self) -> list[dict[str, Any]]:
        """A row a unit, in plain types."""
        return [unit.row() for unit in self._units]

    def to_pandas(self) -> Any:
        """A pandas DataFrame, a row a unit."""
        try:
            import pandas  # type: ignore[import-untyped]
        except ImportError:
            raise ConvscopeError("to_pandas needs pandas: pip install 'convscope[tables]'") from None
        return pandas.DataFrame(self.rows())

    def __repr__(self) -> str:
        few = ", ".join(unit.address for unit in self._units[:3])
        return f"<{len(self)} units{': ' + few if few else ''}{', ...' if len(self) > 3 else ''}>"
