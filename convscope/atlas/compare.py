"""Two atlases of the same photos: what became of each unit, such as by fine-tuning, and which units took its place.

Units are compared by what they answer to the same sampled photos: the Pearson correlation of their maxima.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import PurePath
from typing import Any

import numpy as np
from PIL import Image

from convscope.atlas.atlas import Atlas
from convscope.atlas.build import MADE_OF
from convscope.atlas.renders import PHOTO
from convscope.atlas.unit import Unit
from convscope.errors import UsageError, some
from convscope.images.sheet import contact_sheet, headed, outlined, stacked
from convscope.progress import track

KEPT, CHANGED = 0.9, 0.5  # correlations from which a unit is what it was, and below which it is another
EACH = 4  # patches of a unit on the sheet, before and after
LISTED = 12  # units that are named
ROWS = 3  # units of each layer on the sheet
TILE = 110
BLANK = Image.new("RGB", (TILE, TILE), "white")
LEGEND = (
    "The units of each layer that changed most: on the left the photos that excited them before, on the right after. "
    "r is the correlation of what they answer to the same photos."
)


@dataclass(frozen=True)
class Change:
    """What became of a unit. ``correlation``: of its answers before and after, None where one of them never changes;
    ``match``: the unit after that answers most like it did, ``match_correlation`` how much; ``shared``: the share of
    its strongest photos that are the same; ``verdict``: kept, changed, moved (another unit is now what it was),
    other, died, or came alive.
    """

    layer: str
    unit: int
    correlation: float | None
    match: int | None
    match_correlation: float | None
    shared: float
    max_before: float
    max_after: float
    class_before: str | None
    class_after: str | None
    selectivity_before: float | None
    selectivity_after: float | None
    verdict: str


class Comparison:
    """Two atlases side by side; see ``compare``."""

    def __init__(self, before: Atlas, after: Atlas, layers: list[str]) -> None:
        self.before, self.after, self.layers = before, after, layers

    @cached_property
    def changes(self) -> tuple[Change, ...]:
        """Every unit of the first, layer by layer."""
        return tuple(change for layer in track(self.layers, "layers") for change in self._of(layer))

    def rows(self) -> list[dict[str, Any]]:
        """A row a unit, in plain types."""
        return [asdict(change) for change in self.changes]

    def _of(self, layer: str) -> Iterator[Change]:
        before, after = self.before.units(layer), self.after.units(layer)
        alike = correlations(self._maxima(self.before, layer), self._maxima(self.after, layer))
        for unit in before:
            row, number = alike[unit.number], unit.number
            known = ~np.isnan(row)
            match = int(np.nanargmax(row)) if known.any() else None
            same = after[number] if number < len(after) else None
            own = float(row[number]) if same is not None and known[number] else None
            best = None if match is None else float(row[match])
            tops = ({p.image for p in unit.top}, {p.image for p in same.top} if same is not None else set())
            yield Change(
                layer,
                number,
                own,
                match,
                best,
                len(tops[0] & tops[1]) / max(1, len(tops[0])),
                unit.max,
                same.max if same is not None else float("nan"),
                unit.class_name,
                same.class_name if same is not None else None,
                unit.selectivity,
                same.selectivity if same is not None else None,
                _verdict(unit, same, own, match, best),
            )

    @staticmethod
    def _maxima(atlas: Atlas, layer: str) -> np.ndarray:
        return atlas.figures(atlas.layer(layer)["layer"], "sample.maxima", None)

    def summary(self) -> list[dict[str, Any]]:
        """Layer by layer: how many units have each verdict, and the median correlation with what they were."""
        found = []
        for layer in self.layers:
            own = [change for change in self.changes if change.layer == layer]
            alive = [change.correlation for change in own if change.correlation is not None]
            counts = {verdict: sum(change.verdict == verdict for change in own) for verdict in VERDICTS}
            found.append(
                {"layer": layer, "units": len(own), **counts, "median": float(np.median(alive)) if alive else None}
            )
        return found

    def most_changed(self, count: int = LISTED, layer: str | None = None) -> list[Change]:
        """Units that answer least like before, the most changed first."""
        alive = [c for c in self.changes if c.correlation is not None and layer in (None, c.layer)]
        return sorted(alive, key=lambda change: change.correlation or 0.0)[:count]

    def sheet(self, count: int = ROWS) -> Image.Image:
        """The most changed units of each layer: the photos that excited them before, and those that do after."""
        strips = []
        for layer in self.layers:
            strips += [self._strip(change) for change in self.most_changed(count, layer)]
        if not strips:
            raise UsageError("there is no unit to compare: all are dead in one of the two")
        return headed(stacked(strips), LEGEND)

    def _strip(self, change: Change) -> Image.Image:
        """A row: a unit before on the left, after on the right."""
        tiles, labels = [], []
        for atlas in (self.before, self.after):
            unit = atlas.unit(f"{change.layer}:{change.unit}")
            found = atlas.pictures(unit.layer, [unit.neuron(patch) for patch in unit.top[:EACH]])
            own = [
                (p, found[unit.number, p.number, PHOTO]) for p in unit.top if (unit.number, p.number, PHOTO) in found
            ]
            tiles += [outlined(picture.image, TILE) for _, picture in own] + [BLANK] * (EACH - len(own))
            labels += [patch.class_name or PurePath(patch.image).stem for patch, _ in own] + [""] * (EACH - len(own))
            if atlas is self.before:
                tiles.append(BLANK)
                labels.append("")
        told = f"{change.layer}:{change.unit}, r = {change.correlation:.2f}"
        if change.class_before is not None:
            told += f", most for {change.class_before}, then for {change.class_after}"
        return contact_sheet(tiles, labels, columns=len(tiles), tile=TILE, title=told)


VERDICTS = ("kept", "changed", "moved", "other", "died", "came alive", "dead")


def compare(before: Atlas, after: Atlas) -> Comparison:
    """What became of each unit between two networks, from their atlases of the same photos."""
    if before.meta[MADE_OF]["photos"] != after.meta[MADE_OF]["photos"]:
        raise UsageError(f"{before.folder} and {after.folder} are of other photos: make both of the same")
    for atlas in (before, after):
        if not atlas.complete:
            raise UsageError(f"{atlas.folder} is not complete yet: run the command that builds it again")
    layers = [layer for layer in before.layers if layer in after.layers]
    if not layers:
        raise UsageError(f"they have no layer in common: {some(before.layers)}, and {some(after.layers)}")
    return Comparison(before, after, layers)


def _verdict(unit: Unit, same: Unit | None, own: float | None, match: int | None, best: float | None) -> str:
    if unit.dead:
        return "came alive" if same is not None and not same.dead else "dead"
    if own is not None and own >= KEPT:
        return "kept"
    if best is not None and best >= KEPT and match != unit.number:
        return "moved"
    if same is not None and same.dead:
        return "died"
    return "other" if own is None or own < CHANGED else "changed"


def correlations(before: np.ndarray, after: np.ndarray) -> np.ndarray:
    """Pearson's of every unit with every other, "before after", over the images that both saw; NaN for the constant."""
    seen = ~(np.isnan(before).any(1) | np.isnan(after).any(1))
    return _unit_length(before[seen]).T @ _unit_length(after[seen])


def _unit_length(maxima: np.ndarray) -> np.ndarray:
    apart = maxima.astype(np.float64)
    if not len(apart):
        return np.full((1, maxima.shape[1]), np.nan)
    largest = np.abs(apart).max(0)
    apart = apart - apart.mean(0)
    length = np.linalg.norm(apart, axis=0)
    changing = length > 1e-9 * largest * len(apart) ** 0.5
    return np.where(changing, apart / np.where(changing, length, 1), np.nan)
