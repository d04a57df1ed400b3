"""Patterns: synthesised pictures, what their units say to them, and how they are shown."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from convscope.errors import UsageError
from convscope.images.lettering import Line
from convscope.images.sheet import contact_sheet, save_each
from convscope.images.show import figure_of, png_of
from convscope.models.classifier import Classifier
from convscope.optvis.recipes import Recipe
from convscope.optvis.render import Rendered
from convscope.types import Images, Scores

STUCK, DEAD = "did not start", "dead"


@dataclass(frozen=True, eq=False)
class Patterns:
    """One picture for each name.

    ``raw``: pixels "b c h w" in [0, 1] (of the classic recipe as they come, unbounded). ``before``, ``after``: the
    objective's score of the start and of the picture. ``peaks``: the strongest answer of the picture's unit anywhere on
    it; ``natural``: the strongest on the photos that were given, NaN without any. ``verdicts``: "" where all went well,
    "did not start" or "dead".
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

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, rows: int | slice) -> Patterns:
        """One of them, or some."""
        if isinstance(rows, int):
            if not -len(self) <= rows < len(self):
                raise IndexError(f"pattern {rows} of {len(self)}")
            rows = slice(rows, rows + 1 or None)
        tensors = {name: getattr(self, name)[rows] for name in TENSORS}
        return replace(self, names=self.names[rows], verdicts=self.verdicts[rows], **tensors)

    def picture(self, row: int = 0) -> Image.Image:
        """A pattern as the recipe shows it; of more than three channels, or two, each beside the other in grey."""
        image = self.raw[row]
        if len(image) in (1, 3):
            return self.recipe.show(image)
        grey = torch.cat(list(image), 1)[None]
        return self.recipe.show(grey)

    def label(self, row: int) -> list[Line]:
        """What is written under a picture: its unit, and what it says before and after."""
        name = self.names[row].removeprefix(f"{self.title}:")
        lines = [Line(name), Line(f"{float(self.before[row]):.3g} to {float(self.after[row]):.3g}")]
        if not bool(self.natural[row].isnan()):
            lines.append(Line(f"peak {float(self.peaks[row]):.3g}, photos {float(self.natural[row]):.3g}"))
        return lines

    def sheet(self, *, columns: int | None = None, tile: int | None = None) -> Image.Image:
        """All of them on one sheet, with what they say; those that did not start are crossed out."""
        marks = {row: verdict for row, verdict in enumerate(self.verdicts) if verdict}
        pictures = [self.picture(row) for row in range(len(self))]
        labels = [self.label(row) for row in range(len(self))]
        side = tile or max(128, *self.raw.shape[-2:])
        columns = columns or min(8, len(self))
        return contact_sheet(pictures, labels, columns=columns, tile=side, title=self.heading, marks=marks)

    @property
    def heading(self) -> str:
        height, width = self.raw.shape[-2:]
        return f"{self.title}: {self.recipe.name}, {self.recipe.how.steps} steps, {height}x{width}"

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
                "peak": float(self.peaks[row]),
                "natural": None if bool(self.natural[row].isnan()) else float(self.natural[row]),
                "verdict": self.verdicts[row],
            }
            for row in range(len(self))
        ]

    def __repr__(self) -> str:
        stuck = sum(map(bool, self.verdicts))
        return f"<Patterns {self.heading}: {len(self)}" + (f", {stuck} did not start>" if stuck else ">")


def plain(
    classifier: Classifier, found: Rendered, names: tuple[str, ...], recipe: Recipe, title: str, seed: int
) -> Patterns:
    """Pictures that are not of one unit each."""
    unknown = torch.full_like(found.after, torch.nan)
    verdicts = tuple("" if risen else STUCK for risen in (found.after > found.before).tolist())
    settings = {"model": classifier.name, "recipe": recipe.name, "steps": recipe.how.steps, "seed": seed}
    settings["size"] = list(found.images.shape[2:])
    return Patterns(found.images, names, recipe, found.before, found.after, unknown, unknown, verdicts, settings, title)


TENSORS = ("raw", "before", "after", "peaks", "natural")


def joined(parts: Sequence[Patterns]) -> Patterns:
    """The patterns of several batches as one."""
    tensors: dict[str, Any] = {name: torch.cat([getattr(part, name) for part in parts]) for name in TENSORS}
    names, verdicts = (tuple(one for part in parts for one in getattr(part, what)) for what in ("names", "verdicts"))
    notes = tuple(dict.fromkeys(note for part in parts for note in part.notes))
    return replace(parts[0], names=names, verdicts=verdicts, notes=notes, **tensors)
