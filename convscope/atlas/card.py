"""A unit's card: one picture of all that is known of it, what flatters beside what does not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import PurePath
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from convscope.atlas.filters import filter_picture
from convscope.atlas.pictures import Picture
from convscope.atlas.renders import PHOTO, control_of
from convscope.errors import ConvscopeError
from convscope.images.charting import defaults, drawn, use_fonts_for
from convscope.images.lettering import Line
from convscope.images.sheet import contact_sheet, headed, outlined, stacked

if TYPE_CHECKING:
    from convscope.atlas.unit import Patch, Unit

COLUMNS, TILE = 9, 150
WIDTH = COLUMNS * TILE  # of the charts, about that of a strip
CLASSES = 12  # bars of the class profile
DOTS = 100
BARS, MARKED = "#0072B2", "#D55E00"  # told apart by the colour-blind too (Okabe and Ito)


def card(unit: Unit, methods: Sequence[str], control: bool) -> Image.Image:
    """See ``Unit.card``."""
    if unit.dead:
        return headed(Image.new("RGB", (WIDTH, 8), "white"), f"{_title(unit)}\n{_numbers(unit)}")
    missing: list[str] = []
    strips = [*_top(unit, methods, control, missing)]
    for more in (_others, _seen, _near):
        try:
            strips += more(unit)
        except ConvscopeError as error:  # such as a network that is not at hand: what is kept can be looked at
            missing.append(str(error))
    told = [_numbers(unit), *(f"Not all can be shown: {reason}." for reason in dict.fromkeys(missing))]
    picture = headed(stacked([*strips, _charts(unit)]), " ".join(told))
    return contact_sheet([picture], tile=max(picture.size), columns=1, title=_title(unit))


def _title(unit: Unit) -> str:
    state = "" if unit.atlas.complete else " (so far: the atlas is still being built)"
    return f"{unit.address} of {unit.atlas.model}{state}"


def _numbers(unit: Unit) -> str:
    """What is to be said in words."""
    if unit.dead:
        return f"Dead: it is {unit.max:.3g} on every photo, everywhere."
    told = [
        f"At most {unit.max:.3g}; on an ordinary photo {_number(unit.q50)} at its strongest place"
        f" (a tenth of them stay below {_number(unit.q10)}, a tenth go beyond {_number(unit.q90)}).",
        f"On average {unit.mean:.3g} ± {unit.std:.2g}, above zero at {100 * unit.active:.1f} % of places.",
    ]
    if unit.class_name is not None:
        told.append(f"It answers most to photos of {unit.class_name!r}, selectivity {_number(unit.selectivity)} of 1.")
    told.append(
        "Below a projection: what the pixels that hold 95 % of its energy keep of the activation when the rest of the "
        "patch is grey, and what as many at random keep."
    )
    if unit.duplicate_of is not None:
        told.append(f"It is the same as unit {unit.duplicate_of}, up to scale and offset.")
    return " ".join(told)


def _number(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.3g}"


def _top(unit: Unit, methods: Sequence[str], control: bool, missing: list[str]) -> list[Image.Image]:
    """The strongest patches, and below each its projections and their controls."""
    patches = unit.top[:COLUMNS]
    neurons = [unit.neuron(patch) for patch in patches]
    try:
        found = unit.atlas.pictures(unit.layer, neurons, methods, control=control)
    except ConvscopeError as error:  # not every network can be copied, or is at hand
        if not control:
            raise
        found, control = unit.atlas.pictures(unit.layer, neurons, methods), False
        missing.append(str(error))
    shown = [patch for patch in patches if (unit.number, patch.number, PHOTO) in found]
    strips = [_strip(unit, shown, PHOTO, found, [_about(patch) for patch in shown], _of_field(unit))]
    for method in methods:
        # A patch may be there of a photo that is gone, with no projection of it.
        able = [patch for patch in shown if (unit.number, patch.number, method) in found]
        own = [found[unit.number, patch.number, method] for patch in able]
        title = f"{method}: what of them excites it, projected back to the pixels"
        strips.append(_strip(unit, able, method, found, [_worth(one) for one in own], title))
        if control:
            title = f"control: {method} from the same places, of the strongest unit there when all weights are shuffled"
            able = [patch for patch in able if (unit.number, patch.number, control_of(method)) in found]
            strips.append(_strip(unit, able, control_of(method), found, None, title))
    return strips


def _of_field(unit: Unit) -> str:
    rows, cols, status = (unit.atlas.layer(unit.layer)[name] for name in ("field_rows", "field_cols", "field"))
    sees = f"its receptive field is {rows} x {cols} pixels" if status == "exact" else "it sees the whole photo"
    return f"the photos that excite it most, and what it sees there ({sees})"


def _about(patch: Patch) -> list[Line]:
    told = [Line(f"{patch.value:.3g}" if patch.value else "0: silent here")]
    return [*told, Line(patch.class_name if patch.class_name is not None else PurePath(patch.image).stem)]


def _worth(picture: Picture) -> list[Line]:
    carried = picture.carried
    if (picture.told or {}).get("empty"):
        return [Line("nothing reached"), Line("the pixels")]
    if carried is None or carried.kept is None or carried.chance is None:
        return [Line("grey does"), Line("as much")]
    return [Line(f"keeps {100 * carried.kept:.0f} %"), Line(f"random {100 * carried.chance:.0f} %")]


def _strip(
    unit: Unit,
    patches: Sequence[Patch],
    what: str,
    found: Mapping[tuple[int, int, str], Picture],
    labels: Sequence[Sequence[Line]] | None,
    title: str,
) -> Image.Image:
    tiles = [outlined(found[unit.number, patch.number, what].image, TILE) for patch in patches]
    if not tiles:
        return headed(Image.new("RGB", (WIDTH, 8), "white"), f"{title}: none of the photos can be read any more")
    return contact_sheet(tiles, labels, columns=COLUMNS, tile=TILE, title=title)


def _others(unit: Unit) -> list[Image.Image]:
    """What does not flatter: photos about the median and at random."""
    strips = []
    for patches, title in (
        (unit.middle, "photos about the median: what it makes of an ordinary one"),
        (unit.random, "photos at random, the same for all units"),
    ):
        found = unit.atlas.pictures(unit.layer, [unit.neuron(patch) for patch in patches])
        shown = [patch for patch in patches if (unit.number, patch.number, PHOTO) in found]
        if shown:
            strips.append(_strip(unit, shown, PHOTO, found, [_about(patch) for patch in shown], title))
    return strips


def _seen(unit: Unit) -> list[Image.Image]:
    """Its weights where they can be seen, and what it wants to see where that was made."""
    tiles, labels = [], []
    if (weights := filter_picture(unit.atlas.classifier, unit.layer, unit.number)) is not None:
        tiles.append(weights)
        labels.append("its filter")
    if (pattern := unit.atlas.pattern(unit.layer, unit.number)) is not None:
        tiles.append(pattern.image)
        verdict = (pattern.told or {}).get("verdict")
        labels.append("what it wants to see" + (f" ({verdict})" if verdict else ""))
    return [contact_sheet(tiles, labels, columns=COLUMNS, tile=TILE, title="by itself")] if tiles else []


def _near(unit: Unit) -> list[Image.Image]:
    """The neighbours, each by its strongest patch."""
    tiles, labels = [], []
    for address, correlation in unit.neighbours:
        other = unit.atlas.unit(address)
        if not other.top:
            continue
        found = unit.atlas.pictures(unit.layer, [other.neuron(other.top[0])])
        if (key := (other.number, other.top[0].number, PHOTO)) in found:
            tiles.append(outlined(found[key].image, TILE))
            labels.append([Line(f"unit {other.number}"), Line(f"r = {correlation:.2f}")])
    title = "units of the layer that go up and down with it, each by its strongest patch"
    return [contact_sheet(tiles, labels, columns=COLUMNS, tile=TILE, title=title)] if tiles else []


@defaults()
def _charts(unit: Unit) -> Image.Image:
    """How strongly photos excite it, and which classes."""
    from matplotlib.figure import Figure

    means = sorted(unit.class_means.items(), key=lambda item: -item[1])
    shown = means[:CLASSES]
    use_fonts_for("".join(name for name, _ in shown))
    figure = Figure(figsize=(WIDTH / DOTS, 3), layout="constrained")
    axes = figure.subplots(1, 2 if shown else 1, squeeze=False)[0]
    values = unit.maxima.astype(np.float64)
    flat = len(values) == 0 or np.ptp(values) <= 1e-5 * np.abs(values).max()
    axes[0].hist(values, bins=1 if flat else 40, color=BARS)
    marks = [patch.value for patch in unit.top]
    axes[0].plot(marks, np.zeros(len(marks)), "^", color=MARKED, markersize=7, clip_on=False, zorder=3)
    axes[0].set_title(f"its maximum on {len(unit.maxima):,} photos; orange: the strongest", fontsize=10)
    axes[0].set_ylabel("photos")
    if shown:
        names = [_shortened(name) for name, _ in shown]
        axes[1].barh(range(len(shown)), [value for _, value in shown], color=BARS)
        axes[1].set_yticks(range(len(shown)), names)
        axes[1].invert_yaxis()
        rest = f", the first {len(shown)} of {len(means)}" if len(means) > len(shown) else ""
        axes[1].set_title(f"mean activation by class{rest}", fontsize=10)
    for one in axes:
        one.spines[["top", "right"]].set_visible(False)
    return drawn(figure, DOTS)


def _shortened(name: str, most: int = 28) -> str:
    return name if len(name) <= most else f"{name[: most - 1]}…"
