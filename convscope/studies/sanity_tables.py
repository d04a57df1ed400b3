"""What a sanity check says: its verdicts, tables, sentences."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from convscope.studies.interval import FEWEST, Estimate
from convscope.studies.likeness import BLOCK, WINDOW
from convscope.studies.result import Cell, Table
from convscope.studies.sanity_course import BLANK, CASCADE, OTHERS, RANK, SEEN, Course

PASSES, FAILS, UNCLEAR, NOTHING = "passes", "fails", "unclear", "nothing to compare"


def verdict(cascade: Course, method: str, below: float) -> str:
    """Whether the interval of the mean rank correlation lies below, above or across; of few photos the mean alone."""
    found = cascade.overall(method)
    if not found.photos:
        return NOTHING
    ends = found.mean, found.mean
    if found.photos >= FEWEST and found.low is not None and found.high is not None:
        ends = found.low, found.high
    if all(-below < end < below for end in ends):
        return PASSES
    return FAILS if min(ends) >= below or max(ends) <= -below else UNCLEAR


def summary(cascade: Course, verdicts: Mapping[str, str]) -> Table:
    columns = {
        "method": "whose maps were compared",
        "verdict": "passes: its maps notice that the network forgets; fails: they hardly do",
        "rank": "rank correlation of magnitudes with the trained network's map: mean over cascade and photos, -1 to 1",
        "low": "lower end of its 95 % interval over the photos",
        "high": "upper end",
        "first": "the same with the fewest layers random",
        "all": "the same with all of them random",
        **{name: f"{about}; mean over the cascade, -1 to 1" for name, about in SEEN.items() if name != RANK},
        "photos": "photos counted",
    }
    rows = []
    for method, word in verdicts.items():
        found = cascade.overall(method)
        ends = [number(cascade.at(method, step)) for step in (0, -1)]
        more = [number(cascade.overall(method, name)) for name in SEEN if name != RANK]
        rows.append((method, word, number(found), found.low, found.high, *ends, *more, found.photos))
    return Table("methods", "Which maps notice", columns, rows)


def steps_table(course: Course) -> Table:
    cascading = course.order == CASCADE
    columns = {
        "method": "whose maps were compared",
        "layers": "layers randomised, from the last" if cascading else "the randomised layer's place, from the last",
        "layer": "the first of them" if cascading else "it alone is randomised",
        "measure": "; ".join(f"{name}: {about}" for name, about in SEEN.items()),
        "mean": "over the photos, -1 to 1",
        "low": "lower end of its 95 % interval",
        "high": "upper end",
        "photos": "photos counted",
    }
    rows = [
        (method, step.count, step.layer, measure, found.mean, found.low, found.high, found.photos)
        for method in course.likeness
        for at, step in enumerate(course.steps)
        for measure in SEEN
        if (found := course.at(method, at, measure)).photos
    ]
    how = "layer after layer" if cascading else "a single layer"
    return Table(course.order, f"Likeness to the trained network's maps, {how} randomised", columns, rows)


def photos_table(names: Sequence[str], courses: Sequence[Course]) -> Table:
    columns = {
        "method": "whose map was compared",
        "order": "cascading or independent",
        "layers": "layers randomised, from the last, or a single one's place",
        "photo": "the photo's name",
        **SEEN,
    }
    rows: list[tuple[Cell, ...]] = [
        (method, course.order, step.count, name, *map(float, values))
        for course in courses
        for method, likeness in course.likeness.items()
        for step, own in zip(course.steps, likeness, strict=True)
        for name, values in zip(names, own, strict=True)
    ]
    return Table("photos", "Every photo at every step", columns, rows)


def on_few(photos: int, cascade: Course, methods: Iterable[str]) -> list[str]:
    """What verdicts from few photos are worth."""
    if photos < FEWEST:
        which = "this photo" if photos == 1 else f"these {photos} photos"
        return [f"verdicts are by the mean alone and hold for {which}: take {FEWEST} or more"]
    counts = {method: cascade.overall(method).photos for method in methods}
    return [
        f"{method} could be compared on {count} of {photos} photos: its verdict is by their mean alone"
        for method, count in counts.items()
        if 0 < count < FEWEST
    ]


def findings(cascade: Course, verdicts: Mapping[str, str], below: float) -> list[str]:
    """A sentence on those that pass, one on each that fails and what that means, one on the rest."""

    def listed(word: str) -> str:
        ordered = sorted((m for m in verdicts if verdicts[m] == word), key=lambda m: cascade.overall(m).mean)
        return ", ".join(f"{method} {cascade.overall(method)}" for method in ordered)

    told = []
    if passing := listed(PASSES):
        told.append(f"pass, by their mean rank correlation over the cascade: {passing}; their maps follow the weights")
    for method in sorted((m for m in verdicts if verdicts[m] == FAILS), key=lambda m: -abs(cascade.overall(m).mean)):
        told.append(_failure(cascade, method))
    if unclear := listed(UNCLEAR):
        told.append(f"unclear, {below:g} or -{below:g} lying within the interval (more photos would tell): {unclear}")
    return told


def _failure(cascade: Course, method: str) -> str:
    found, others = cascade.overall(method), cascade.overall(method, OTHERS)
    halfway = min(range(len(cascade.steps)), key=lambda at: abs(cascade.steps[at].count - cascade.depth / 2))
    count = cascade.steps[halfway].count
    said = (
        f"{method} fails: over the cascade its maps keep a rank correlation of {found} with the trained network's, "
        f"{cascade.at(method, halfway).mean:.3g} with {count} of {cascade.depth} layers random"
    )
    if found.mean < 0:
        return f"{said}: strong where it was weak, it is still bound to the same places of the photo"
    if others.photos and abs(others.mean) > abs(found.mean) / 2:
        return (
            f"{said}; but with its maps of the other photos it is {others.mean:.3g}: they are much alike whatever the "
            "photo and whatever was learned, and tell little of either"
        )
    return (
        f"{said}: its picture would look about the same of a network that learned nothing there; it shows what is in "
        "the photo, such as its edges, not what the network knows of the class"
    )


def remarks(
    methods: Sequence[Any], passes: int | None, courses: Sequence[Course], size: tuple[int, int], cell: int
) -> list[str]:
    """What a reader has to know beside."""
    told = []
    if several := [m.name for m in methods if passes in (getattr(m, "steps", None), getattr(m, "samples", None))]:
        told.append(f"{', '.join(several)}: with {passes} gradients each, to be ready sooner (passes)")
    for method in (m for m in methods if not m.traits.targeted):
        told.append(f"{method.name} explains no class: it can only notice what becomes of its own layer")
    flat: dict[int, list[str]] = {}
    at = list(SEEN).index(BLANK)
    for name in (m.name for m in methods):
        flat.setdefault(sum(int(np.isnan(c.likeness[name][..., 0]).sum()) for c in courses), []).append(name)
    blank = {m.name: sum(int(np.nansum(c.likeness[m.name][..., at])) for c in courses) for m in methods}
    every = sum(next(iter(c.likeness.values()))[..., 0].size for c in courses)
    told += [
        f"{', '.join(names)}: {count} of {every} comparisons are not counted, a map being the same everywhere"
        for count, names in flat.items()
        if count
    ]
    if went := [f"{count} of {name}" for name, count in blank.items() if count]:
        told.append(f"of {every} maps each, these became the same everywhere, and count as unlike: {', '.join(went)}")
    if min(size) < max(WINDOW, BLOCK * cell):
        told.append(
            f"maps of {size[0]}x{size[1]} are too small for SSIM (a window of {WINDOW} pixels) or for HOG "
            f"({BLOCK} cells of {cell})"
        )
    told.append(
        "to pass is to depend on the weights, not to be right; one random network a step stands for all there could be"
    )
    return told


def number(found: Estimate) -> Cell:
    return found.mean if found.photos else None
