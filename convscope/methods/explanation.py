"""Explanation: what a method found, as numbers, and how it is shown. Normalised only for display."""

from __future__ import annotations

import json
import operator
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, SupportsIndex

import torch
from PIL import Image
from torch import Tensor

from convscope.errors import UsageError
from convscope.images.colour import Box
from convscope.images.frame import Placement, to_image
from convscope.images.read import Photo
from convscope.images.show import figure_of, png_of
from convscope.instrument.target import Target
from convscope.methods import display
from convscope.methods.registry import Traits
from convscope.models.classifier import Classifier
from convscope.types import Images, Scores


@dataclass(frozen=True)
class View:
    """An image as the user gave it, and where the network's canvas lies on it."""

    photo: Photo
    placement: Placement


@dataclass(frozen=True, eq=False)
class Explanation:
    """The raw result of a method for a batch of images, one row a target.

    ``raw``: signed numbers on the device of the computation, shaped as ``traits.kind`` says. ``labels``: what each row
    explains. ``scores``: each target's score. ``layer``: the layer looked at. ``baseline``: what stood for "nothing
    there". ``notes``: what its reader should know, such as a map that is zero everywhere. ``units``: the numbers of the
    channels or filters that features and weights show.
    """

    raw: Tensor
    method: str
    traits: Traits
    settings: Mapping[str, Any] = field(default_factory=dict)
    target: Target = field(default_factory=Target)
    labels: tuple[str, ...] = ()
    scores: Scores | None = None
    layer: str | None = None
    baseline: str | None = None
    notes: tuple[str, ...] = ()
    units: tuple[int, ...] = ()
    images: Images | None = None
    views: tuple[View, ...] = ()

    def __len__(self) -> int:
        return len(self.raw)

    def __getitem__(self, row: SupportsIndex | slice) -> Explanation:
        """The explanation of one row, or of some."""
        if isinstance(row, slice):
            rows = row
        else:
            index = operator.index(row)
            if not -len(self) <= index < len(self):
                raise IndexError(f"row {index} of {len(self)}")
            rows = slice(index, index + 1 or None)

        def take(values: Any) -> Any:
            return values[rows] if values is not None and len(values) == len(self) else values

        raw, of_rows = self.raw[rows], faults(self.raw, self.traits)
        return replace(
            self,
            raw=raw,
            notes=(*(note for note in self.notes if note not in of_rows), *faults(raw, self.traits)),
            units=take(self.units) if self.traits.kind == "weights" else self.units,
            target=self.target[rows],
            labels=take(self.labels),
            scores=take(self.scores),
            images=take(self.images),
            views=take(self.views),
        )

    @cached_property
    def title(self) -> str:
        """One line for a picture: method and layer."""
        return self.method + (f" at {self.layer}" if self.layer else "")

    def photo(self, row: int = 0) -> Image.Image:
        """The photo of a row at its own resolution, or the canvas where a tensor was given."""
        if self.views:
            return self.views[row].photo.image
        return to_image(self._image(row))

    def picture(self, row: int = 0) -> Image.Image:
        """A row alone, in colours: heat for positive maps, red and blue for signed ones, grey 0 for pixels."""
        return display.picture(self.raw[row], self.traits)

    def closeup(self, row: int = 0) -> tuple[Image.Image, Image.Image] | None:
        """Where units' projections are confined to small fields: that part of a row, and the photo there, enlarged."""
        field = self._fields[row]
        return None if field is None else display.closeup(self.raw[row], self._image(row), field)

    @cached_property
    def _fields(self) -> list[Box | None]:
        """Each row's small field; where one row has none, none has, so that all are drawn alike."""
        projects = self.traits.kind == "pixels" and self.target.layer is not None and self.images is not None
        fields = [display.small_field(raw) if projects else None for raw in self.raw]
        return fields if None not in fields else [None] * len(self)

    def _image(self, row: int) -> Tensor:
        if self.images is None:
            raise UsageError(f"{self.method} looks at weights: there is no photo")
        return self.images[row]

    def overlay(self, row: int = 0, *, alpha: float = 0.6) -> Image.Image:
        """A row's map over its photo, at the photo's own resolution; what the network did not see is dimmed.

        A projection of a small field is framed.
        """
        if self.traits.kind not in ("map", "pixels"):
            raise UsageError(f"{self.method} has no map on the photo: use sheet()")
        values = display.shown(self.raw[row], self.traits)
        signed = self.traits.kind == "map" and self.traits.sign == "signed"
        placement = self.views[row].placement if self.views else None
        drawn = display.over(self.photo(row), values, signed=signed, alpha=alpha, placement=placement)
        field = self._fields[row]
        return drawn if field is None else display.framed(drawn, field, placement)

    def sheet(self, *, columns: int | None = None, squash: bool = False) -> Image.Image:
        """All of it on one labelled sheet: every channel of features, every filter, every row's map and overlay.

        Feature maps are stretched from their own [min, max]; ``squash`` takes the sigmoid of each value instead, so
        that maps can be compared.
        """
        if self.traits.kind == "features":
            return display.feature_sheet(self.raw, self.units, title=self.title, columns=columns or 16, squash=squash)
        if self.traits.kind == "weights":
            return display.filter_sheet(self.raw, self.units, title=self.title, columns=columns)
        tiles: list[Image.Image] = []
        labels: list[str] = []
        for row in range(len(self)):
            tiles += self.closeup(row) or [self.picture(row)]
            tiles.append(self.overlay(row))
            labels += [self.label(row), *[""] * (len(tiles) - len(labels) - 1)]
        each = len(tiles) // len(self)
        return display.sheet(tiles, labels, title=self.title, columns=columns or min(9 // each * each, len(tiles)))

    def merged(self, row: int = 0) -> Image.Image:
        """All of a layer's maps as one: the sum of the stretched maps, stretched again."""
        if self.traits.kind != "features":
            raise UsageError(f"merged() is for feature maps, {self.method} gives {self.traits.kind}")
        return display.merged(self.raw[row])

    @property
    def score_name(self) -> str:
        """What a score is."""
        if self.target.layer is not None:
            return "activation"
        plain = self.target.function is None and self.target.against is None
        return "logit" if plain else "score" if self.target.function is not None else "difference of logits"

    def label(self, row: int) -> str:
        """What a row explains, with its score."""
        name = self.labels[row] if self.labels else ""
        return name if self.scores is None else f"{name} ({float(self.scores[row]):.3g})"

    def save(self, path: str | Path) -> Path:
        """Write it: .safetensors or .pt (tensors only) keeps the raw numbers, .png, .jpg or .webp the sheet."""
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix == ".safetensors":
            from safetensors.torch import save_file

            save_file({"raw": self.raw.detach().cpu().contiguous()}, path, {"about": json.dumps(self.about())})
        elif path.suffix == ".pt":
            torch.save({"raw": self.raw.detach().cpu()}, path)
        elif path.suffix.lower() in (".png", ".jpg", ".jpeg", ".webp"):
            self.sheet().save(path)
        else:
            raise UsageError(f"{path}: save as .safetensors or .pt (numbers), or .png, .jpg, .webp (picture)")
        return path

    def save_each(
        self, folder: str | Path, row: int | None = None, *, size: int | None = None, squash: bool = False
    ) -> list[Path]:
        """Each map (or filter) alone as a picture in ``folder``, named by its unit; a CAM as grey, heat and overlay.

        Several rows go into folders of their own, 000, 001 and so on; ``row`` picks one. ``size`` resizes the longer
        side bilinearly; ``squash`` as in ``sheet``.
        """
        if row is not None or len(self) == 1 or self.traits.kind == "weights":
            return display.save_each(self, Path(folder), row or 0, size=size, squash=squash)
        places = [(Path(folder) / f"{i:03d}", i) for i in range(len(self))]
        return [path for at, i in places for path in display.save_each(self, at, i, size=size, squash=squash)]

    def plot(self) -> Any:
        """A matplotlib figure of the sheet, for a notebook or a paper."""
        return figure_of(self.sheet())

    def _repr_png_(self) -> bytes:
        return png_of(self.sheet())

    def about(self) -> dict[str, Any]:
        """Everything but the numbers, in plain types."""
        return {
            "method": self.method,
            "settings": dict(self.settings),
            "layer": self.layer,
            "targets": list(self.labels),
            "scores": None if self.scores is None else [float(s) for s in self.scores],
            "baseline": self.baseline,
            "notes": list(self.notes),
            "units": list(self.units),
            "shape": list(self.raw.shape),
            "photos": [view.photo.name for view in self.views],
        }

    def __repr__(self) -> str:
        rows = ", ".join(self.label(i) for i in range(min(3, len(self)))) if self.labels else ""
        more = f" and {len(self) - 3} more" if self.labels and len(self) > 3 else ""
        about = f"{rows}{more}, " if rows else ""
        return f"<Explanation {self.title}: {about}raw {tuple(self.raw.shape)}>"


def explain(
    method: Any,
    classifier: Classifier,
    images: Images | None,
    target: Target | None,
    raw: Tensor,
    scores: Scores | None,
    *,
    layer: str | None = None,
    baseline: str | None = None,
    notes: Sequence[str] = (),
    units: tuple[int, ...] | None = None,
) -> Explanation:
    """What a method's ``run`` gives back. Maps not finite or zero everywhere are noted, never silently drawn."""
    raw = raw.detach()
    if method.traits.kind in ("features", "weights"):
        units = units or tuple(range(raw.shape[1 if method.traits.kind == "features" else 0]))
    return Explanation(
        raw=raw,
        method=method.name,
        traits=method.traits,
        settings=asdict(method),
        target=target or Target(),
        labels=target.labels(classifier.classes, len(raw)) if target is not None else (),
        scores=None if scores is None else scores.detach().to(raw.dtype),
        layer=layer,
        baseline=baseline,
        notes=(*notes, *faults(raw, method.traits)),
        units=units or (),
        images=None if images is None else images.detach(),
    )


def faults(raw: Tensor, traits: Traits) -> list[str]:
    """Rows that are not what a result should be."""
    flat = raw.flatten(1)
    finite = flat.isfinite().all(1)
    faults = [f"row {i} is not finite: check the weights and the image" for i in (~finite).nonzero().flatten().tolist()]
    relative = traits.sign == "relative"  # a map without differences says as little as one of zeros
    empty = (flat == flat[:, :1]).all(1) if relative else ~flat.any(1)
    rows = (finite & empty).nonzero().flatten().tolist()
    what = "the same everywhere" if relative else "zero everywhere"
    if rows and len(raw) == 1:
        faults.append(f"the map is {what}: nothing was found for this target")
    elif rows:
        some = ", ".join(map(str, rows[:8])) + (" ..." if len(rows) > 8 else "")
        faults.append(f"{what}, nothing was found: row {some}")
    return faults
