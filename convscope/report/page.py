"""What a report says of one photo, ready to be drawn."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any

from PIL import Image

from convscope.images.frame import Placement
from convscope.methods.display import reading
from convscope.methods.explanation import Explanation
from convscope.methods.registry import METHODS
from convscope.report.embed import Embedded, embed, embed_sheet
from convscope.settings import summary

UNSHOWN = ("layer", "budget", "chunk")  # shown by itself; what does not change a result


@dataclass(frozen=True)
class Figure:
    """One target of one method: its map beside the map over the photo.

    ``patch``: where the map is a close-up, the same part of the photo.
    """

    method: str
    summary: str
    target: str
    score: float | None
    score_name: str
    reading: str
    layer: str | None
    baseline: str | None
    settings: Mapping[str, Any]
    notes: Sequence[str]
    map: Embedded
    overlay: Embedded
    patch: Embedded | None = None

    @classmethod
    def of(
        cls, found: Explanation, row: int, map: Image.Image, overlay: Image.Image, patch: Image.Image | None = None
    ) -> Figure:
        """A row of an explanation, and its pictures."""
        found, row = found[row], 0
        return cls(
            method=found.method,
            summary=summary(METHODS[found.method]).replace("``", "") if found.method in METHODS else "",
            target=found.labels[row] if found.labels else "",
            score=None if found.scores is None else float(found.scores[row]),
            score_name=found.score_name,
            reading=reading(found.traits),
            layer=found.layer,
            baseline=found.baseline,
            settings={k: v for k, v in found.settings.items() if v is not None and k not in UNSHOWN},
            notes=found.notes,
            map=embed(map),
            overlay=embed(overlay),
            patch=None if patch is None else embed(patch),
        )


@dataclass(frozen=True)
class Group:
    """The figures of one method."""

    figures: Sequence[Figure]

    @property
    def first(self) -> Figure:
        """What stands for all of them where they are alike: method, layer, settings."""
        return self.figures[0]

    @property
    def notes(self) -> list[str]:
        """The notes of all figures alike."""
        return [note for note in self.first.notes if all(note in figure.notes for figure in self.figures)]


@dataclass(frozen=True)
class Sheet:
    """The feature maps of a layer."""

    layer: str
    remark: str
    picture: Embedded

    @classmethod
    def of(cls, layer: str, remark: str, picture: Image.Image) -> Sheet:
        return cls(layer, remark, embed_sheet(picture))


@dataclass(frozen=True)
class Trouble:
    """What could not be done: a photo, or a method on it."""

    photo: str
    reason: str
    method: str | None = None


@dataclass(frozen=True)
class PhotoPage:
    """One photo. ``seen``: what the network saw of it, as top, left, width, height in percent; None is all of it."""

    index: int
    name: str
    size: tuple[int, int]  # width, height
    canvas: tuple[int, int]  # width, height
    picture: Embedded
    seen: tuple[float, float, float, float] | None
    top: Sequence[tuple[str, float]]
    figures: Sequence[Figure] = ()
    sheets: Sequence[Sheet] = ()
    troubles: Sequence[Trouble] = field(default=())

    @classmethod
    def of(cls, index: int, name: str, photo: Image.Image, placement: Placement, **rest: Any) -> PhotoPage:
        """A photo and where the network's canvas lies on it; ``rest``: top, figures, sheets, troubles."""
        height, width = placement.canvas
        return cls(index, name, photo.size, (width, height), embed(photo), _percent(placement), **rest)

    @property
    def anchor(self) -> str:
        return f"photo-{self.index}"

    @property
    def methods(self) -> list[Group]:
        """The figures method by method."""
        return [Group(list(group)) for _, group in groupby(self.figures, key=lambda figure: figure.method)]


def _percent(placement: Placement) -> tuple[float, float, float, float] | None:
    top, left, bottom, right = placement.seen
    height, width = placement.original
    if (top, left, bottom, right) == (0, 0, height, width):
        return None
    return 100 * top / height, 100 * left / width, 100 * (right - left) / width, 100 * (bottom - top) / height
