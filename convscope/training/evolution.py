"""Evolution: how features grow while a network is trained (Zeiler & Fergus 2013, figure 4).

A callback for anybody's training loop:

    watch = Evolution(model, units=["features.28:1,5,9"], photos=photos, out="evolution", at=[1, 2, 5, 10])
    for step, (x, y) in enumerate(loader, 1):
        ...
        watch(step, x)
    watch.sheet().save("evolution.png")

Its folder holds ``snapshots.jsonl``, one line a snapshot and unit, and for each a picture in ``step-000005/``: the
projection on the unit's receptive field, and the photo there beside it.
"""

from __future__ import annotations

import json
import operator
import os
import random
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from convscope.atlas.snapshots import Place, Snapshot, close_up, read_snapshots, shown_field, snapshot_sheet
from convscope.errors import UsageError
from convscope.images.frame import Framing
from convscope.images.own import make_own
from convscope.images.sheet import headed, save_each
from convscope.instrument.address import Address, parse_address
from convscope.instrument.layers import resolve
from convscope.instrument.state import undisturbed
from convscope.instrument.target import Target
from convscope.methods.explanation import Explanation, faults
from convscope.models.classifier import Classifier, unwrapped
from convscope.optvis.visualize import plan_patterns, visualize
from convscope.training.folder import writing
from convscope.training.merged import convolution_maps, default_units, merged_projections, merged_sheet, projecting
from convscope.training.strongest import Photos, Strongest, batches_of, checked, neurons, strongest_photos
from convscope.types import Images

At: TypeAlias = int | Iterable[int] | Callable[[int], bool]

LINES = "snapshots.jsonl"
FEW = 20  # layers on a sheet of merged projections
LEGEND = (
    "For each unit: where a photo excites it most, projected back to the pixels, and below it that part of the photo. "
    "The number is how strongly it answers there. Framed: another photo than before excites it most."
)
PATTERNS = " Last, what the unit wants: a picture made by gradient ascent from noise."


class Evolution:
    """What units of a network in training respond to, at chosen steps: ``watch(step, x)`` after each step of a loop.

    ``model``: a module, a Classifier or a Scope; pixels reach a bare module as they are. ``units``: addresses such as
    "features.28:1,5", by default a few drawn at random (``default_units``). ``photos``: pixels "b c h w" in [0, 1], or
    a function that gives batches of (names, pixels), the same each time: a snapshot makes one pass over them and keeps
    each unit's strongest. ``out``: a folder; the snapshots in it are gone on from. ``at``: the steps to take snapshots
    at, a number N for every N-th, or a function of the step. ``label``: what a step is. ``method``: what projects a
    unit to the pixels, seeded where the unit is strongest. ``first_photo``: also write ``merged-000005.png``, the first
    photo of the batch ``x`` (pixels in [0, 1]) projected back through every convolution's layer; where they are more
    than 20, through the last of each resolution. ``patterns``: also a picture of what each unit wants, made by so many
    steps of gradient ascent from the same noise each time, so that what changes is what was learned.

    Between snapshots nothing is hooked or run. A snapshot leaves the training as it was, its random numbers included.
    What cannot be found or projected is refused at once, not at the first snapshot; ``notes`` says what the method has
    to say of the network. Of several processes that train together, one watches.
    """

    def __init__(
        self,
        model: Any,
        *,
        units: Sequence[str] | str | None = None,
        photos: Photos | None = None,
        out: str | Path,
        at: At,
        label: str = "step",
        method: str | Any = "deconvnet",
        first_photo: bool = False,
        patterns: int | None = None,
    ) -> None:
        self.classifier = _classifier(model)
        self.method = projecting(method)
        self.photos, self.out, self.label, self.first_photo = photos, Path(out), label, first_photo
        self.patterns = patterns
        self.due = _schedule(at)  # a function of the step
        self._snapshots = read_snapshots(self.out / LINES)
        with _aside(self.classifier):
            image = next((pixels[:1] for _, pixels in batches_of(photos, self.classifier)), None)
            if image is None:
                raise UsageError("photos holds no photos")
            self._canvas = (image.shape[2], image.shape[3])
            wanted = default_units(self.classifier, image) if units is None else units
            self.units = _units(self.classifier, [wanted] if isinstance(wanted, str) else wanted, image)
            tried = [
                self.method.run(self.classifier, image, Target(parse_address(layer), (max(own),)))
                for layer, own in self.units.items()
            ]
        self.notes = tuple(dict.fromkeys(note for found in tried for note in _lasting(found)))

    @property
    def snapshots(self) -> tuple[Snapshot, ...]:
        """All in the folder, those of earlier runs included."""
        return tuple(self._snapshots)

    def __call__(self, step: int, x: Images | None = None) -> tuple[Snapshot, ...]:
        """The snapshots of this step, taken now; none where the step is not due."""
        if not self.due(step):
            return ()
        step = operator.index(step)
        last = max((snapshot.step for snapshot in self._snapshots), default=-1)
        if step <= last:
            raise UsageError(
                f"{self.out} has snapshots up to {self.label} {last} and this is {self.label} {step}: training that "
                f"goes on from an earlier {self.label} calls cut_back of it first, another one needs an out of its own"
            )
        with _aside(self.classifier):
            merged = self._merged(step, x) if self.first_photo else None
            best = strongest_photos(self.classifier, self.units, batches_of(self.photos, self.classifier))
            taken = [found for layer, own in best.items() for found in self._of_layer(step, parse_address(layer), own)]
            wanted = dict(pair for layer, own in self.units.items() for pair in self._wanted(layer, own))
        with writing(self.out, ""):
            if merged is not None:
                self._place(merged, f"merged-{step:06d}.png")
            return tuple(self._write(step, taken, wanted))

    def cut_back(self, step: int) -> None:
        """Remove the snapshots after a step, for training that goes on from it."""
        with writing(self.out, ""):
            self._keep([snapshot for snapshot in self._snapshots if snapshot.step <= step])
            for place in (*self.out.glob("step-*"), *self.out.glob("merged-*.png")):
                number = place.stem.partition("-")[2]
                if number.isdecimal() and int(number) > step:
                    shutil.rmtree(place) if place.is_dir() else place.unlink()

    def sheet(self, layer: str | None = None) -> Image.Image:
        """A row a unit, a column a snapshot: projections, their photos below; framed where another photo took over.

        ``layer``: the units of this layer alone.
        """
        first = [f"{key}:{unit}" for key, own in self.units.items() for unit in own]
        units = dict.fromkeys([*first, *(snapshot.unit for snapshot in self._snapshots)])
        wanted = [unit for unit in units if layer is None or parse_address(unit).key == layer]
        legend = LEGEND + (PATTERNS if any(snapshot.pattern for snapshot in self._snapshots) else "")
        return headed(snapshot_sheet(self.out, self._snapshots, wanted, self.label), legend)

    def _of_layer(self, step: int, layer: Address, best: Sequence[Strongest]) -> list[tuple[Snapshot, Image.Image]]:
        """The snapshots of a layer's units and their pictures; photos of one size are projected as one batch."""
        found: dict[int, tuple[Snapshot, Image.Image]] = {}
        for shape in dict.fromkeys(one.canvas.shape for one in best):
            ours = [one for one in best if one.canvas.shape == shape]
            photos, units = torch.stack([one.canvas for one in ours]), tuple(one.unit for one in ours)
            # Asked of the very batch that is projected: the method seeds each unit where it is strongest there.
            seeds = neurons(self.classifier, photos, layer, units)
            raws = self.method.run(self.classifier, photos, Target(layer, units)).raw
            for one, (value, place), raw in zip(ours, seeds, raws, strict=True):
                if value == 0:  # dead: the method would show what is nowhere
                    raw = torch.zeros_like(raw)
                snapshot = self._snapshot(step, layer, one, value, place, raw)
                found[one.unit] = snapshot, close_up(raw, one.canvas, snapshot.field, self.method.traits)
        return [found[one.unit] for one in best]

    def _snapshot(self, step: int, layer: Address, one: Strongest, value: float, place: Place, raw: Tensor) -> Snapshot:
        unit = f"{layer.key}:{one.unit}"
        before = next((s for s in reversed(self._snapshots) if s.unit == unit and not s.dead), None)
        dead = value == 0
        jumped = before is not None and not dead and before.photo != one.name
        row, col = place or (None, None)
        field = shown_field(self.classifier, one.canvas, layer, place, raw)
        empty = not bool(raw.any())
        return Snapshot(step, unit, value, one.name, one.index, row, col, field, jumped, dead, empty)

    def _wanted(self, layer: str, units: Sequence[int]) -> list[tuple[str, Image.Image]]:
        """What units of a layer want, by their names, where that was asked for."""
        if self.patterns is None:
            return []
        own = self.classifier
        if own.framing.size is None:  # what it takes is what its photos are
            look = Framing(self._canvas)
            own = Classifier(own.network, own.classes, mean=own.mean, std=own.std, channels=own.channels, framing=look)
        found = visualize(plan_patterns(own, layer, units=units, steps=self.patterns))
        return [(name, found.picture(row)) for row, name in enumerate(found.names)]

    def _write(
        self, step: int, taken: Sequence[tuple[Snapshot, Image.Image]], wanted: Mapping[str, Image.Image]
    ) -> list[Snapshot]:
        """The pictures, then the lines that speak of them; each is there whole or not at all."""
        place = self.out / f"step-{step:06d}"
        draft = self.out / f".{place.name}.part"
        for leftover in (draft, place):
            shutil.rmtree(leftover, ignore_errors=True)
        files = save_each([picture for _, picture in taken], [snapshot.unit for snapshot, _ in taken], draft)
        patterns = {}
        for (snapshot, _), file in zip(taken, files, strict=True):
            if snapshot.unit in wanted:
                patterns[snapshot.unit] = f"{place.name}/{file.stem}-pattern.png"
                wanted[snapshot.unit].save(draft / f"{file.stem}-pattern.png")
        os.replace(draft, place)
        named = [
            replace(s, picture=f"{place.name}/{file.name}", pattern=patterns.get(s.unit, ""))
            for (s, _), file in zip(taken, files, strict=True)
        ]
        self._keep([*self._snapshots, *named])
        return named

    def _keep(self, snapshots: list[Snapshot]) -> None:
        make_own(self.out)
        draft = self.out / f".{LINES}.part"
        draft.write_text("".join(json.dumps(asdict(s)) + "\n" for s in snapshots), encoding="utf-8")
        os.replace(draft, self.out / LINES)
        self._snapshots = snapshots

    def _merged(self, step: int, x: Images | None) -> Image.Image:
        if x is None:
            raise UsageError("first_photo is the first of the batch: call watch(step, x)")
        image = checked(x[:1], self.classifier).to(self.classifier.device)
        layers = None if len(convolution_maps(self.classifier, image)) <= FEW else ["@stages"]
        merged = merged_projections(self.classifier, image, layers, method=self.method)
        return merged_sheet(merged, image, title=f"{self.label} {step}: the photo projected back from each layer")

    def _place(self, picture: Image.Image, name: str) -> None:
        make_own(self.out)
        draft = self.out / f".part-{name}"
        picture.save(draft)
        os.replace(draft, self.out / name)


@contextmanager
def _aside(classifier: Classifier) -> Iterator[None]:
    """Undisturbed, and so are Python's and numpy's random numbers, of which a user's photos may be drawn."""
    python, arrays = random.getstate(), np.random.get_state()
    try:
        with undisturbed(classifier, grad=False):
            yield
    finally:
        random.setstate(python)
        np.random.set_state(arrays)


def _classifier(model: Any) -> Classifier:
    """The Classifier that a model is, holds (as Scope does) or becomes."""
    held = getattr(model, "classifier", None)
    if isinstance(held, Classifier):
        return held
    if not isinstance(model, nn.Module):
        raise UsageError(f"a model is a module, a Classifier or a Scope, not {type(model).__name__}")
    module = unwrapped(model)
    return module if isinstance(module, Classifier) else Classifier(module)


def _schedule(at: At) -> Callable[[int], bool]:
    """Whether a step is due."""
    if callable(at):
        return at
    if isinstance(at, Iterable):
        steps = frozenset(operator.index(step) for step in at)
        if not steps:
            raise UsageError("at names no step")
        return lambda step: step in steps
    every = operator.index(at)
    if every < 1:
        raise UsageError(f"at={every}: a snapshot every so many steps needs at least 1")
    return lambda step: step % every == 0


def _units(classifier: Classifier, units: Iterable[str], image: Images) -> dict[str, tuple[int, ...]]:
    """Layer -> units, each once."""
    found: dict[str, dict[int, None]] = {}
    for wanted in units:
        for address in resolve(classifier.network, wanted, image, through=classifier):
            if address.units is None:
                raise UsageError(f"{wanted} names no units: write {address.key}:0-5, or leave units= out")
            if address.position is not None:
                raise UsageError(f"{wanted}: leave out the position, each snapshot finds its own")
            found.setdefault(address.key, {}).update(dict.fromkeys(address.units))
    if not found:
        raise UsageError("units names no unit")
    return {layer: tuple(own) for layer, own in found.items()}


def _lasting(found: Explanation) -> list[str]:
    """Notes on the network and the method, without those on the map of the moment."""
    of_map = faults(found.raw, found.traits)
    return [note for note in found.notes if note not in of_map]
