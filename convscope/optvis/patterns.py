"""Patterns: synthesised pictures, what their units say to them, and how they are shown."""

from __future__ import annotations

import json
import operator
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from convscope.errors import UsageError, some
from convscope.images.lettering import Line
from convscope.images.sheet import contact_sheet, save_each
from convscope.images.show import figure_of, png_of
from convscope.models.classifier import Classifier
from convscope.optvis.recipes import Recipe
from convscope.optvis.render import Rendered
from convscope.types import Images, Scores

STUCK, FLAT, DEAD = "did not start", "did not rise", "dead"


@dataclass(frozen=True, eq=False)
class Patterns:
    """One picture for each name.

    ``raw``: pixels "b c h w" in [0, 1] (of the classic recipe as they come, unbounded). ``before``, ``after``: the
    objective's score of the start and of the picture. ``peaks``: the strongest answer of the picture's unit anywhere on
    it; ``natural``: the strongest on the photos that were given, NaN without any. ``verdicts``: "" where all went well,
    "did not start" where the score never changed, "did not rise" where it did for nothing, or "dead" where the unit is
    silent and nothing in a picture would change that.
    """

    raw: Images
    names: tuple[str, ...]
    recipe: Recipe
    before: Scores
    after: Scores
    peaks: Scores
    natural: Scores
    verdicts: tuple[str, ...]
    settings: Mapping[str, Any] = field(default_factory=dict)
    title: str = ""
    notes: tuple[str, ...] = ()
    border: int = 0  # pixels all round that are not shown: there the canvas's edge says more than the unit

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, rows: int | slice) -> Patterns:
        """One of them, or some."""
        if not isinstance(rows, slice):
            rows = operator.index(rows)  # numpy's integers too
            if not -len(self) <= rows < len(self):
                raise IndexError(f"pattern {rows} of {len(self)}")
            rows = slice(rows, rows + 1 or None)
        tensors = {name: getattr(self, name)[rows] for name in TENSORS}
        return replace(self, names=self.names[rows], verdicts=self.verdicts[rows], **tensors)

    def picture(self, row: int = 0) -> Image.Image:
        """A pattern as the recipe shows it; of more than three channels, or two, each beside the other in grey."""
        height, width = self.raw.shape[2:]
        image = self.raw[row, :, self.border : height - self.border, self.border : width - self.border]
        if len(image) in (1, 3):
            return self.recipe.show(image)
        grey = torch.cat(list(image), 1)[None]
        return self.recipe.show(grey)

    def sheet(self, *, columns: int | None = None, tile: int | None = None) -> Image.Image:
        """All of them on one sheet, with what they say; those that did not start are crossed out."""
        pictures = [self.picture(row) for row in range(len(self))]
        return pattern_sheet(pictures, self.rows(), self.heading, prefix=self.title, columns=columns, tile=tile)

    @property
    def heading(self) -> str:
        return heading(self.title, self.recipe, self.raw.shape[2:], self.settings.get("negative", False))

    def save(self, path: str | Path) -> Path:
        """Write it: .safetensors keeps the pixels, .png, .jpg or .webp the sheet."""
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix == ".safetensors":
            from safetensors.torch import save_file

            tensors = {name: getattr(self, name).detach().cpu().contiguous() for name in TENSORS}
            save_file(tensors, path, {"about": json.dumps(self.about())})
        elif path.suffix.lower() in (".png", ".jpg", ".jpeg", ".webp"):
            self.sheet().save(path)
        else:
            raise UsageError(f"{path}: save as .safetensors (numbers), or .png, .jpg, .webp (picture)")
        return path

    def save_each(self, folder: str | Path, *, size: int | None = None) -> list[Path]:
        """Each picture alone as a PNG named after its unit."""
        return save_each([self.picture(row) for row in range(len(self))], self.names, folder, size=size)

    def plot(self) -> Any:
        """A matplotlib figure of the sheet, for a notebook or a paper."""
        return figure_of(self.sheet())

    def _repr_png_(self) -> bytes:
        return png_of(self.sheet())

    def about(self) -> dict[str, Any]:
        """Everything but the pixels, in plain types."""
        return {"settings": dict(self.settings), "notes": list(self.notes), "patterns": self.rows()}

    def rows(self) -> list[dict[str, Any]]:
        """Each pattern's name, figures and verdict."""
        return [
            {
                "name": self.names[row],
                "before": float(self.before[row]),
                "after": float(self.after[row]),
                "peak": _known(self.peaks[row]),
                "natural": _known(self.natural[row]),
                "verdict": self.verdicts[row],
            }
            for row in range(len(self))
        ]

    def __repr__(self) -> str:
        stuck = sum(map(bool, self.verdicts))
        return f"<Patterns {self.heading}: {len(self)}" + (f", {stuck} did not rise>" if stuck else ">")


def plain(
    classifier: Classifier, found: Rendered, names: tuple[str, ...], recipe: Recipe, title: str, seed: int
) -> Patterns:
    """Pictures that are not of one unit each."""
    unknown = torch.full_like(found.after, torch.nan)
    verdicts = verdicts_of(found, found.before, found.after)
    settings = {"model": classifier.name, "recipe": recipe.name, "steps": recipe.how.steps, "seed": seed}
    settings["size"] = list(found.images.shape[2:])
    notes = verdict_notes(names, verdicts)
    scores = (found.before, found.after, unknown, unknown)
    return Patterns(found.images, names, recipe, *scores, verdicts, settings, title, notes)


def verdicts_of(found: Rendered, before: Scores, after: Scores) -> tuple[str, ...]:
    """Did they rise? And if not, did anything happen at all?"""
    started = found.moved & (found.curve.ne(found.before).any(0) | found.after.ne(found.before))
    each = zip(started.tolist(), (after > before).tolist(), strict=True)
    return tuple("" if risen else FLAT if begun else STUCK for begun, risen in each)


def verdict_notes(names: Sequence[str], verdicts: Sequence[str]) -> tuple[str, ...]:
    """A line for each verdict there is: whose it is."""
    words = {STUCK: STUCK, FLAT: FLAT, DEAD: "gave 0 at every step, and no way up: dead"}
    whose = {one: [name for name, own in zip(names, verdicts, strict=True) if own == one] for one in words}
    return tuple(f"{some(which)} {words[one]}" for one, which in whose.items() if which)


TENSORS = ("raw", "before", "after", "peaks", "natural")


def heading(title: str, recipe: Recipe, size: Sequence[int], negative: bool = False) -> str:
    """One line for a sheet: what the patterns are of, and how they were made."""
    what = f"{title}, what they want least" if negative else title
    return f"{what}: {recipe.name}, {recipe.how.steps} steps, {size[0]}x{size[1]}"


def _known(value: Tensor) -> float | None:
    return None if bool(value.isnan()) else float(value)


def pattern_sheet(
    pictures: Sequence[Image.Image],
    rows: Sequence[Mapping[str, Any]],
    heading: str,
    *,
    prefix: str = "",
    columns: int | None = None,
    tile: int | None = None,
) -> Image.Image:
    """Patterns on one sheet. ``rows``: what ``Patterns.rows`` gives; ``prefix``: what all their names begin with."""
    marks = {i: row["verdict"] for i, row in enumerate(rows) if row["verdict"]}
    labels = [_label(row, prefix) for row in rows]
    side = tile or max([128, *(max(picture.size) for picture in pictures)])
    columns = columns or (16 if len(rows) > 64 else 8)
    return contact_sheet(pictures, labels, columns=columns, tile=side, title=heading, marks=marks)


def _label(row: Mapping[str, Any], prefix: str) -> list[Line]:
    """What is written under a picture: its unit, what that says before and after, and to the best photo."""
    unit = row["name"].removeprefix("-").removeprefix(f"{prefix}:")
    lines = [Line(unit), Line(f"{_short(row['before'])} to {_short(row['after'])}")]
    if row["natural"] is not None:
        lines += [Line(f"peak {_short(row['peak'])}"), Line(f"photos {_short(row['natural'])}")]
    return lines


def _short(value: float) -> str:
    """A figure of which two fit under the smallest picture."""
    size = abs(value)
    if size and not 1e-3 <= size < 1e5:
        return f"{value:.0e}"
    return f"{value:.0f}" if size >= 100 else f"{value:.3g}" if size >= 0.1 else f"{value:.3f}".rstrip("0").rstrip(".")


def joined(parts: Sequence[Patterns]) -> Patterns:
    """The patterns of several batches as one."""
    tensors: dict[str, Any] = {name: torch.cat([getattr(part, name) for part in parts]) for name in TENSORS}
    names, verdicts = (tuple(one for part in parts for one in getattr(part, what)) for what in ("names", "verdicts"))
    notes = tuple(dict.fromkeys(note for part in parts for note in part.notes))
    return replace(parts[0], names=names, verdicts=verdicts, notes=notes, **tensors)
