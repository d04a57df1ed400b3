"""Pictures of an atlas's neurons: made when they are asked for, kept in the store, and made once."""

from __future__ import annotations

import io
import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from PIL import Image
from torch import Tensor

from convscope.atlas.opening import network_of
from convscope.atlas.photos import Canvases
from convscope.atlas.projections import Carried, Neuron, Projector, projecting
from convscope.atlas.renders import PATTERN, PHOTO, Render, control_of, render
from convscope.atlas.store import COLUMNS, Row, Store
from convscope.errors import ConvscopeError
from convscope.images.colour import Box
from convscope.images.show import png_of
from convscope.models.classifier import Classifier
from convscope.optvis.patterns import Patterns
from convscope.optvis.plan import BUDGET_MIB
from convscope.optvis.visualize import plan_patterns

NO_IMAGE = -1  # the number that a picture is kept under that is of no photo
UNKEPT = 4096  # pictures that are held where the store cannot be written


@dataclass(frozen=True, eq=False)
class Picture:
    """A picture, the box of the canvas that it shows, and of a projection what it is worth."""

    image: Image.Image
    box: Box | None = None
    carried: Carried | None = None
    told: Mapping[str, Any] | None = None

    @classmethod
    def of(cls, row: Row) -> Picture:
        image = Image.open(io.BytesIO(row["picture"])).convert("RGB")
        told = json.loads(row["about"])
        box = None if row["top"] is None else (row["top"], row["left"], row["bottom"], row["right"])
        worth = Carried(told["pixels"], told["kept"], told["chance"]) if "kept" in told else None
        return cls(image, box, worth, told)


class Pictures:
    """All pictures of the atlas in ``folder``. ``given``: what it was made of, where it does not say so itself."""

    def __init__(self, folder: Path, store: Store, meta: Mapping[str, Any], given: Any = None) -> None:
        self.folder, self.store, self.meta, self.given = folder, store, meta, given
        self.troubles: dict[int, str] = {}  # why a photo could not be read, by its number
        self._projectors: dict[str, Projector] = {}
        self._unkept: dict[tuple[int, int, int, str], Picture] = {}

    @cached_property
    def classifier(self) -> Classifier:
        """The network; found again and checked when it is first needed."""
        return network_of(self.folder, self.meta, self.given)

    def projector(self, layer: str) -> Projector:
        if layer not in self._projectors:
            self._projectors[layer] = Projector(self.classifier, layer)
        return self._projectors[layer]

    @cached_property
    def _canvases(self) -> Canvases:
        return Canvases(self.meta)

    def _canvas(self, image: int) -> Tensor:
        row = self.store.image(image)
        assert row is not None
        return self._canvases.of(row)

    def of(
        self, layer: Row, neurons: Collection[Neuron], methods: Sequence[str] = (), *, control: bool = False
    ) -> dict[tuple[int, int, str], Picture]:
        """By unit, image and what they show: the patch, a projection by each method, and its control.

        Those that are not there yet are made and kept. Of a photo that cannot be read there are none: see ``troubles``.
        """
        self.make(layer, neurons, methods, control=control)
        number, wanted = layer["layer"], {(neuron.unit, neuron.image) for neuron in neurons}
        found: dict[tuple[int, int, str], Picture] = {}
        for unit in {unit for unit, _ in wanted}:
            rows = self.store.renders(number, unit).items()
            found |= {(unit, image, what): Picture.of(row) for (image, what), row in rows if (unit, image) in wanted}
        held = self._unkept.items()
        return found | {key[1:]: one for key, one in held if key[0] == number and key[1:3] in wanted}

    def make(
        self,
        layer: Row,
        neurons: Collection[Neuron],
        methods: Sequence[str] = (),
        *,
        control: bool = False,
        lasting: bool = False,
    ) -> None:
        """Make what is missing. ``lasting``: an error where it cannot be kept in the store."""
        number, every = layer["layer"], projecting(methods)
        there = {
            what: self._there(number, what) for what in (PHOTO, *every, *map(control_of, every if control else ()))
        }
        wanting: dict[tuple[str, ...], list[Neuron]] = {}
        for neuron in neurons:
            key = neuron.unit, neuron.image
            missing = tuple(
                name for name in every if key not in there[name] or (control and key not in there[control_of(name)])
            )
            if missing or key not in there[PHOTO]:
                wanting.setdefault(missing, []).append(neuron)
        for names, some in wanting.items():
            self._make(layer, some, {name: every[name] for name in names}, there[PHOTO], control, lasting)

    def _there(self, layer: int, what: str) -> set[tuple[int, int]]:
        held = {key[1:3] for key in self._unkept if key[0] == layer and key[3] == what}
        return self.store.rendered(layer, what) | held

    def _make(
        self,
        layer: Row,
        neurons: Sequence[Neuron],
        methods: Mapping[str, Any],
        patched: set[tuple[int, int]],
        control: bool,
        lasting: bool,
    ) -> None:
        number = layer["layer"]
        boxes: dict[tuple[int, int], Box] = self.store.boxes(number, PHOTO) if patched else {}
        projector, label = self.projector(layer["address"]), f"{layer['address']}: projections"
        made = render(projector, self._canvas, neurons, methods, boxes, self.troubles, control=control, label=label)
        with self._written(lasting) as store:
            for rows in made:
                self._keep(store, number, rows, lasting)

    @contextmanager
    def _written(self, lasting: bool) -> Iterator[Store | None]:
        """The store to write to; None where it cannot be, as on a read-only disk, unless what is made is to last."""
        try:
            store = Store(self.folder, write=True)
        except ConvscopeError:
            if lasting:
                raise
            yield None
            return
        with closing(store):
            yield store

    def _keep(self, store: Store | None, layer: int, rows: Sequence[Render], lasting: bool) -> None:
        """In the store; where that takes none, in memory, unless it is to last."""
        try:
            if store is None:
                raise ConvscopeError("there is nothing to write to")
            with store.transaction():
                store.put("renders", ((layer, *row) for row in rows))
        except ConvscopeError:
            if lasting:
                raise
            if len(self._unkept) > UNKEPT:
                self._unkept.clear()
            for row in rows:
                told = dict(zip(COLUMNS["renders"][1:], row, strict=True))
                self._unkept[layer, told["unit"], told["image"], told["what"]] = Picture.of(told)

    def make_patterns(self, layer: Row, units: Sequence[int], budget: float = BUDGET_MIB) -> None:
        """What units want to see, by gradient ascent."""
        there = self.store.rendered(layer["layer"], PATTERN)
        missing = [unit for unit in units if (unit, NO_IMAGE) not in there]
        if not missing:
            return
        job = plan_patterns(self.classifier, layer["address"], units=missing, budget=budget)
        with self._written(lasting=True) as store:
            for rows, patterns in job.batches():
                made = [
                    (missing[row], NO_IMAGE, PATTERN, png_of(patterns.picture(i)), *[None] * 4, _verdict(patterns, i))
                    for i, row in enumerate(rows)
                ]
                self._keep(store, layer["layer"], made, lasting=True)

    def pattern(self, layer: Row, unit: int) -> Picture | None:
        """What a unit wants to see, if that was made."""
        row = self.store.renders(layer["layer"], unit).get((NO_IMAGE, PATTERN))
        return None if row is None else Picture.of(row)


def _verdict(patterns: Patterns, row: int) -> str:
    return json.dumps({"verdict": patterns.verdicts[row]})
