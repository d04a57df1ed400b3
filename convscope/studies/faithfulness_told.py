"""What faithfulness scores come to: tables, and what beats what."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np

from convscope.errors import ConvscopeError, some
from convscope.studies.interval import FEWEST, Estimate, estimate, estimate_share
from convscope.studies.result import Cell, Table
from convscope.studies.subject import Album

Kind = Literal["method", "control", "baseline"]

ABOUT = {
    "deletion": "area under the class's probability while the photo is filled, the highest first: low is good, 0 to 1",
    "insertion": "area under it while the photo is put back: high is good, 0 to 1",
    "difference": "insertion less deletion: high is good, -1 to 1",
    "sensitivity-n": "correlation of summed attributions and what the logit loses, mean over n: high is good, -1 to 1",
    "pointing": "share of photos whose maximum is in the box: high is good, 0 to 1",
    "energy": "share in the box of what speaks for the class: high is good, 0 to 1",
}
SHARES = ("deletion", "insertion", "pointing", "energy")  # 0 to 1; others -1 to 1
LOWER = ("deletion",)  # where less is better
NAMED = "difference"  # stands for both curves
MANY = 20  # methods in a sentence


@dataclass(frozen=True)
class Entry:
    """What is scored. A control is named as the method whose map of the shuffled network it is."""

    name: str
    kind: Kind

    def __str__(self) -> str:
        return f"{self.name}, shuffled" if self.kind == "control" else self.name


@dataclass(frozen=True, eq=False)
class Measured:
    """What came out. ``curves`` "entries photos kinds points" over ``shares`` of the cells; ``values``: each score
    "entries photos"; ``by_size``: sensitivity-n for each n of ``sizes``, "entries photos sizes". NaN is what is not
    there."""

    entries: list[Entry]
    kinds: list[str]
    shares: list[float]
    curves: np.ndarray
    values: dict[str, np.ndarray]
    sizes: list[int]
    by_size: np.ndarray
    refused: dict[str, str] = field(default_factory=dict)
    flat: Counter[str] = field(default_factory=Counter)  # photos on which a map is the same everywhere

    @classmethod
    def empty(
        cls,
        entries: list[Entry],
        photos: int,
        scores: Sequence[str],
        kinds: list[str],
        shares: list[float],
        sizes: list[int],
    ) -> Measured:
        both = [NAMED] if len(kinds) > 1 else []
        names = [*kinds, *both, *(score for score in scores if score not in kinds)]
        shape = (len(entries), photos)
        return cls(
            entries,
            kinds,
            shares,
            np.full((*shape, len(kinds), len(shares)), np.nan),
            {name: np.full(shape, np.nan) for name in names},
            sizes,
            np.full((*shape, len(sizes)), np.nan),
        )

    @property
    def refusals(self) -> list[str]:
        return [f"left out: {name}: {why}" for name, why in self.refused.items()]

    def refuse(self, number: int, error: ConvscopeError) -> None:
        """Remember why an entry has no map."""
        self.refused.setdefault(str(self.entries[number]), str(error))

    def without_refused(self) -> Measured:
        """Without what could make no map of any photo."""
        scored = [any(bool(np.isfinite(v[i]).any()) for v in self.values.values()) for i in range(len(self.entries))]
        there = [own or str(entry) not in self.refused for own, entry in zip(scored, self.entries, strict=True)]
        return replace(
            self,
            entries=[entry for entry, kept in zip(self.entries, there, strict=True) if kept],
            curves=self.curves[there],
            values={name: values[there] for name, values in self.values.items()},
            by_size=self.by_size[there],
        )

    def rows(self, kind: Kind) -> list[int]:
        """The numbers of the entries of a kind."""
        return [i for i, entry in enumerate(self.entries) if entry.kind == kind]

    def mean(self, score: str, entry: int) -> Estimate:
        """An entry's score over photos."""
        values = self.values[score][entry]
        return estimate_share(values) if score == "pointing" else estimate(values, (0 if score in SHARES else -1, 1))

    def curve(self, kind: int, entry: int) -> list[Estimate]:
        """An entry's curve over photos, point by point."""
        return [estimate(column, (0, 1)) for column in self.curves[entry, :, kind].T]

    def better(self, score: str, one: int, other: int) -> Estimate:
        """By how much an entry is better than another: the paired difference over photos, its sign such that above 0 is
        better."""
        values, sign = self.values[score], -1 if score in LOWER else 1
        most = 1 if score in SHARES else 2
        return estimate((values[one] - values[other]) * sign, (-most, most))


def tables_of(found: Measured, album: Album) -> list[Table]:
    tables = [_scores(found), _against(found), _photos(found, album)]
    if found.kinds:
        tables.append(_curves(found))
    if found.sizes:
        tables.append(_sizes(found))
    return tables


def _scores(found: Measured) -> Table:
    columns = {"map": "what is scored", "kind": "method, baseline, or control: the method on shuffled weights"}
    for score in found.values:
        columns |= {
            score: ABOUT[score],
            f"{score} low": "lower end of its 95 % interval over photos",
            f"{score} high": "upper end",
            f"{score} photos": "how many have it",
        }
    rows: list[tuple[Cell, ...]] = []
    for i in [*found.rows("method"), *found.rows("baseline"), *found.rows("control")]:
        each = [found.mean(score, i) for score in found.values]
        rows.append((str(found.entries[i]), found.entries[i].kind, *(cell for one in each for cell in one)))
    return Table("scores", "How faithful each map is", columns, rows)


def _rivals(found: Measured, method: int) -> list[int]:
    """The baselines, and the method's own control."""
    own = [i for i in found.rows("control") if found.entries[i].name == found.entries[method].name]
    return [*found.rows("baseline"), *own]


def _against(found: Measured) -> Table:
    columns = {
        "map": "the method",
        "against": "a baseline, or the same method on shuffled weights",
        "score": "what is compared",
        "better by": "mean over photos of the paired difference, above 0 where the method is better",
        "low": "lower end of its 95 % interval",
        "high": "upper end",
        "beats": "whether the interval lies above 0; empty of too few photos",
        "photos": "how many have both",
    }
    rows: list[tuple[Cell, ...]] = []
    for i in found.rows("method"):
        for j in _rivals(found, i):
            for score in found.values:
                by = found.better(score, i, j)
                side = by.side()
                beats = None if side is None else side > 0
                rows.append(
                    (found.entries[i].name, str(found.entries[j]), score, by.mean, by.low, by.high, beats, by.photos)
                )
    return Table("against", "Methods against what knows nothing", columns, rows)


def _photos(found: Measured, album: Album) -> Table:
    columns = {
        "photo": "the photo's name",
        "class": "its class",
        "probability": "of the class, on the whole photo",
        "map": "what is scored",
        "kind": "method, baseline or control",
        **{score: ABOUT[score] for score in found.values},
    }
    if "pointing" in columns:
        columns["pointing"] = "1 where the maximum is in the box, else 0; of equal ones the share that is"
    rows: list[tuple[Cell, ...]] = []
    for row, name in enumerate(album.names):
        label = album.labels[row]
        sure = float(album.probabilities[row, label])
        for i, entry in enumerate(found.entries):
            scores = [float(values[i, row]) for values in found.values.values()]
            rows.append((name, album.classes.short(label), sure, str(entry), entry.kind, *scores))
    return Table("photos", "Every photo's scores", columns, rows)


def _curves(found: Measured) -> Table:
    columns = {
        "map": "what orders the pixels",
        "kind": "method, baseline or control",
        "curve": "deletion or insertion",
        "share": "of the cells that were taken",
        "probability": "of the class, mean over photos",
        "low": "lower end of its 95 % interval",
        "high": "upper end",
    }
    rows: list[tuple[Cell, ...]] = []
    for i, entry in enumerate(found.entries):
        for k, kind in enumerate(found.kinds):
            for share, (mean, low, high, _) in zip(found.shares, found.curve(k, i), strict=True):
                rows.append((str(entry), entry.kind, kind, share, mean, low, high))
    return Table("curves", "The curves", columns, rows)


def _sizes(found: Measured) -> Table:
    columns = {
        "map": "what is scored",
        "kind": "method, baseline or control",
        "n": "cells that are taken at a time",
        "correlation": "of the summed attributions and what the logit loses, mean over photos, -1 to 1",
        "low": "lower end of its 95 % interval",
        "high": "upper end",
    }
    rows: list[tuple[Cell, ...]] = []
    for i, entry in enumerate(found.entries):
        for k, size in enumerate(found.sizes):
            mean, low, high, _ = estimate(found.by_size[i, :, k], (-1, 1))
            rows.append((str(entry), entry.kind, size, mean, low, high))
    return Table("sizes", "Sensitivity-n for each n", columns, rows)


def findings_of(found: Measured) -> list[str]:
    """What beats what, score by score."""
    told = []
    for score in [NAMED] if NAMED in found.values else found.kinds:
        told += _found(found, score)
    for score in found.values:
        if score not in (NAMED, "deletion", "insertion"):
            told += _found(found, score)
    return told


def _found(found: Measured, score: str) -> list[str]:
    means = {i: found.mean(score, i) for i in found.rows("method")}
    most = max((mean.photos for mean in means.values()), default=0)
    there = [i for i in means if means[i].photos >= max(1, min(most, FEWEST))]  # one that few photos have is no best
    if not there:
        return [f"{_called(score)}: no method has it"]
    best = sorted(there, key=lambda i: means[i].mean, reverse=score not in LOWER)
    equal = [str(found.entries[i]) for i in best if means[i].mean == means[best[0]].mean]
    verb = "are" if equal[1:] else "is"
    first = f"{_called(score)}: of the methods best {verb} {some(equal, MANY)}, {means[best[0]]}"
    blind = {j: found.mean(score, j) for j in found.rows("baseline")}
    better = [j for j in blind if (blind[j].mean - means[best[0]].mean) * (-1 if score in LOWER else 1) > 0]
    if better:
        first += f"; better in the mean: {', '.join(f'{found.entries[j]} {blind[j].mean:.3g}' for j in better)}"
    if all(means[i].side() is None for i in there):
        return [f"{first}; on fewer than {FEWEST} photos all of it may be chance"]
    told = [first]
    for kind in ("baseline", "control"):
        bouts = {i: own for i in best if (own := _bouts(found, score, i, kind))}
        if bouts:
            told.append(f"{_called(score)}: {_against_them(found, bouts, kind)}")
    return told


def _bouts(found: Measured, score: str, method: int, kind: str) -> dict[str, Estimate]:
    """By how much a method is better than each of its rivals of a kind, where enough photos tell."""
    rivals = [j for j in _rivals(found, method) if found.entries[j].kind == kind]
    apart = {found.entries[j].name: found.better(score, method, j) for j in rivals}
    return {name: by for name, by in apart.items() if by.side() is not None}


def _against_them(found: Measured, bouts: dict[int, dict[str, Estimate]], kind: str) -> str:
    """Which methods beat all of their rivals, with the least that they are better by, and which do not."""
    winners, losers = [], []
    for i, rivals in bouts.items():
        name = found.entries[i].name
        lost = [rival for rival, by in rivals.items() if by.side() != 1]
        if lost:
            losers.append(f"{name} (not {some(lost, 3)})" if kind == "baseline" else name)
        else:
            winners.append(f"{name} (by {min(by.mean for by in rivals.values()):.2g})")
    several = len(winners) > 1
    own = "their own maps" if several else "its own map"
    what = "every baseline" if kind == "baseline" else f"{own} of shuffled weights"
    told = f"{some(winners, MANY) or 'no method'} {'beat' if several else 'beats'} {what}"
    if not losers:
        return told
    return f"{told}{'; not so' if winners else ':'} {some(losers, MANY)}"


def _called(score: str) -> str:
    return "Insertion less deletion" if score == NAMED else score[0].upper() + score[1:]
