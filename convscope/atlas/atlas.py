"""Atlas: a folder in which every unit of a network's layers is known, opened to be looked at."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from safetensors import SafetensorError, safe_open

from convscope.atlas.build import COMPLETE, DONE, STATE
from convscope.atlas.gallery import layer_sheet
from convscope.atlas.pictures import Picture, Pictures
from convscope.atlas.projections import Neuron
from convscope.atlas.store import Row, Store
from convscope.atlas.tables import to_parquet
from convscope.atlas.unit import Unit, Units
from convscope.errors import ConvscopeError, UsageError, unknown
from convscope.instrument.address import parse_address
from convscope.models.classifier import Classifier

METHOD = "guided"  # that projections are by, where nothing else was said


class Atlas:
    """An atlas that ``Scope.atlas`` or ``convscope atlas`` made, in ``folder``; also one that is still being built.

    ``model``: the network it was made of (a Scope, Classifier, module or specifier), which new pictures need; by
    default the one that the atlas names, unless that is code itself. A run is loaded without asking, and may name
    code: open what you trust.
    """

    def __init__(self, folder: str | Path, model: Any = None) -> None:
        self.folder = Path(folder)
        self.store = Store(self.folder)
        self.meta = self.store.meta()
        if DONE not in self.meta:
            raise UsageError(f"{folder} is no atlas yet: it was not begun")
        self._layers = {row["address"]: row for row in self.store.layers()}
        self._pictures = Pictures(self.folder, self.store, self.meta, model)

    @property
    def complete(self) -> bool:
        """Whether all photos were looked at."""
        return bool(self.meta[COMPLETE])

    @property
    def layers(self) -> list[str]:
        """Addresses, in the order in which they were asked for."""
        return list(self._layers)

    @cached_property
    def classes(self) -> list[str]:
        """The photos' classes."""
        return self.store.classes()

    @property
    def model(self) -> str:
        """What the network is called."""
        return str(self.meta["model"])

    @property
    def methods(self) -> tuple[str, ...]:
        """What projections are by, unless something else is asked for."""
        return tuple(self.meta.get("projected") or (METHOD,))

    @property
    def classifier(self) -> Classifier:
        """The network, checked to be the one that the atlas was made of."""
        return self._pictures.classifier

    def layer(self, address: str) -> Row:
        """What is known of a layer."""
        if address not in self._layers:
            raise unknown("layer", address, self._layers, f"of the atlas {self.folder}")
        return self._layers[address]

    def unit(self, address: str) -> Unit:
        """One unit, by its address such as "features.28:113"."""
        wanted = parse_address(address)
        if wanted.units is None or len(wanted.units) != 1 or wanted.position is not None:
            raise UsageError(f"{address!r} names no single unit: write LAYER:UNIT, such as {self.layers[0]}:0")
        layer, number = self.layer(wanted.key), wanted.units[0]
        found = self.store.unit(layer["layer"], number)
        if found is None and number >= layer["units"]:
            raise UsageError(f"unit {number} is out of range: {wanted.key} has units 0 to {layer['units'] - 1}")
        if found is None:
            raise UsageError(f"{address}: nothing is known of it yet, the atlas is only begun")
        return Unit(self, {**found, "address": wanted.key})

    def units(
        self,
        layer: str | None = None,
        *,
        order: str = "unit",
        class_name: str | None = None,
        dead: bool | None = None,
    ) -> Units:
        """Units of a layer or of all, ordered: by number, or by mean, std, max, active, q50 or selectivity, the highest
        first. ``class_name``: those that answer to this class of the photos most. ``dead``: dead ones alone, or none.
        """
        number = None if layer is None else self.layer(layer)["layer"]
        rows = self.store.units(order, number, None if class_name is None else self._class(class_name), dead)
        return Units([Unit(self, row) for row in rows])

    def _class(self, name: str) -> int:
        if not self.classes:
            raise UsageError(f"the photos of {self.folder} have no classes")
        if name not in self.classes:
            raise unknown("class", name, self.classes, f"of the photos of {self.folder}")
        return self.classes.index(name)

    def project(
        self,
        methods: Sequence[str],
        layers: Sequence[str] | None = None,
        *,
        control: bool = False,
        share: tuple[int, int] = (0, 1),
    ) -> dict[int, str]:
        """Make the projections of all units' strongest photos now; why photos could not be read, by their numbers.

        ``share``: (which, of how many) parts of the units, for as many processes.
        """
        for address in self.layers if layers is None else layers:
            layer = self.layer(address)
            dead = {unit.number for unit in self.units(address, dead=True)}
            found = self.store.patches_of(layer["layer"], "top")
            neurons = [Neuron(*(row[name] for name in ("unit", "image", "row", "col", "value"))) for row in found]
            own = [n for n in neurons if n.unit not in dead and n.unit % share[1] == share[0]]
            self._pictures.make(layer, own, methods, control=control, lasting=True)
        return self.troubles

    def patterns(self, layers: Sequence[str] | None = None, units: Sequence[int] | None = None) -> None:
        """Make the pictures of what units want to see now, by gradient ascent."""
        for address in self.layers if layers is None else layers:
            layer = self.layer(address)
            alive = [unit.number for unit in self.units(address, dead=False)]
            self._pictures.make_patterns(layer, [unit for unit in alive if units is None or unit in units])

    def pattern(self, address: str, unit: int) -> Picture | None:
        """What a unit wants to see, where that was made."""
        return self._pictures.pattern(self.layer(address), unit)

    def sheet(self, layer: str, units: Sequence[int] | None = None, method: str | None = None) -> Image.Image:
        """A layer's units, each by nine projections beside the patches they are of (Zeiler & Fergus 2013, figure 2)."""
        chosen = range(self.layer(layer)["units"]) if units is None else units
        return layer_sheet(self, layer, chosen, method or self.methods[0])

    def pictures(
        self, address: str, neurons: Collection[Neuron], methods: Sequence[str] = (), *, control: bool = False
    ) -> dict[tuple[int, int, str], Picture]:
        """Pictures by unit, image and what they show ("photo", a method, or "METHOD, control")."""
        return self._pictures.of(self.layer(address), neurons, methods, control=control)

    def to_parquet(self, folder: str | Path | None = None) -> list[Path]:
        """Write the tables as Parquet, by default into ``parquet/`` of the atlas; the files."""
        return to_parquet(self.store, self.folder / "parquet" if folder is None else Path(folder))

    @property
    def troubles(self) -> dict[int, str]:
        """Why photos could not be read when pictures were made, by their numbers."""
        return self._pictures.troubles

    def figures(self, layer: int, name: str, unit: int | None) -> np.ndarray:
        """One of the pass's figures: of one unit its column "images" or "classes", or all of it."""
        try:
            return self._figures(layer, name, unit)
        except (OSError, SafetensorError):
            self.meta = self.store.meta()  # it is being built, and the file of before is gone
            try:
                return self._figures(layer, name, unit)
            except (OSError, SafetensorError) as error:
                raise ConvscopeError(f"{self.folder}: its figures cannot be read: {error}") from error

    def _figures(self, layer: int, name: str, unit: int | None) -> np.ndarray:
        parts: list[np.ndarray] = []
        for file in self.meta[STATE]:
            with safe_open(self.folder / file, "np") as opened:
                held = opened.keys()
                if f"{layer}/{name}" in held:
                    found = opened.get_slice(f"{layer}/{name}")
                    if 0 in found.get_shape():  # photos without classes: nothing cannot be sliced
                        found = opened.get_tensor(f"{layer}/{name}")
                    parts.append(found[:] if unit is None else found[:, unit : unit + 1][:, 0])
        if not parts:
            raise ConvscopeError(f"{self.folder}: nothing is known of it yet, the atlas is only begun")
        # While several processes are at work, each has seen other images.
        of_images = name.startswith("sample")
        whole: np.ndarray = np.fmax.reduce(parts) if of_images else np.sum(parts, axis=0)
        return whole

    def close(self) -> None:
        self.store.close()

    def __enter__(self) -> Atlas:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        state = "" if self.complete else ", still being built"
        return f"<Atlas {self.folder}: {self.model}, {len(self.layers)} layers{state}>"
