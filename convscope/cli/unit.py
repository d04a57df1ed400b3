"""``convscope unit``: a unit of an atlas, its card and its numbers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from convscope.cli.options import Json
from convscope.cli.output import emit, note, say, table
from convscope.cli.values import listed
from convscope.errors import ConvscopeError, UsageError

if TYPE_CHECKING:
    from convscope.atlas.atlas import Atlas
    from convscope.atlas.unit import Unit

FIRST = 20  # units that are listed


def unit(
    folder: Annotated[Path, typer.Argument(metavar="ATLAS", help="An atlas's folder.", show_default=False)],
    address: Annotated[
        str | None,
        typer.Argument(
            metavar="[LAYER:UNIT]",
            help="Which unit, such as features.28:113; of several, as features.28:0-15, a sheet is drawn; of a layer "
            "alone, or of none, units are listed.",
            show_default=False,
        ),
    ] = None,
    *,
    method: Annotated[
        str | None, typer.Option(metavar="METHODS", help="What projects it back, such as deconvnet,guided.")
    ] = None,
    order: Annotated[
        str, typer.Option(metavar="BY", help="Of a list: unit, mean, std, max, active, q50 or selectivity.")
    ] = "selectivity",
    class_name: Annotated[
        str | None, typer.Option("--class", metavar="NAME", help="Of a list: units that answer to this class most.")
    ] = None,
    model: Annotated[
        str | None, typer.Option(metavar="MODEL", help="The model, where that is your own code: net.py:Net.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", metavar="FILE", help="The card; by default in the atlas's cards/.")
    ] = None,
    json: Json = False,
) -> None:
    """A unit's card: what excites it, what of that does, and what does not flatter; or a list of units."""
    from convscope.atlas.atlas import Atlas
    from convscope.cli.files import PICTURES
    from convscope.instrument.address import parse_address
    from convscope.progress import ConsoleProgress, reporting

    if out is not None and out.suffix.lower() not in PICTURES and not out.is_dir():
        raise UsageError(f"{out}: save as a picture, such as {out}.png")
    with Atlas(folder, model) as found, reporting(ConsoleProgress()):
        if not found.complete:
            note(f"{folder} is still being built: this is of the photos that were looked at so far")
        if address is None or ":" not in address:
            _list(found, address, order, class_name, json)
            return
        if class_name is not None:
            raise UsageError("--class is of a list of units: leave out the unit, or this")
        methods = listed(method or "") or list(found.methods)
        wanted = parse_address(address)
        if wanted.units is not None and len(wanted.units) > 1:
            files = [_sheet(found, wanted.key, wanted.units, listed(method or "") or methods[:1], out)]
            about: dict[str, Any] = {"units": [found.unit(f"{wanted.key}:{u}").row() for u in wanted.units]}
        else:
            one = found.unit(address)
            files, about = _draw(one, methods, out), one.about()
            if not json:
                _tell(one)
        for reason in found.troubles.values():
            note(reason)
        if json:
            emit({**about, "files": files})
        for file in () if json else files:
            say(str(file))


def _sheet(found: Atlas, layer: str, units: Sequence[int], methods: list[str], out: Path | None) -> Path:
    """Several units on one sheet."""
    from convscope.cli.files import placed
    from convscope.images.slug import slug

    if len(methods) > 1:
        raise UsageError("a sheet of several units is of one method: give one --method")
    file = out or found.folder / "cards" / f"{slug(f'{layer}:{units[0]}-{units[-1]}')}.png"
    with placed(file) as draft:
        found.sheet(layer, units, methods[0]).save(draft)
    return file


def _draw(unit: Unit, methods: list[str], out: Path | None) -> list[Path]:
    from convscope.atlas.evolution import evolution, sheet, stages_of
    from convscope.cli.files import placed
    from convscope.images.slug import slug

    cards = unit.atlas.folder / "cards"
    file = out or cards / f"{slug(unit.address)}.png"
    with placed(file) as draft:
        unit.card(methods).save(draft)
    stages = stages_of(unit.atlas)
    if not stages:
        return [file]
    grown = file.with_name(f"{file.stem}-evolution.png")
    try:
        with placed(grown) as draft:
            snapshots = evolution(stages, [unit.address], methods[0], cards / "evolution")
            sheet(cards / "evolution", snapshots).save(draft)
    except ConvscopeError as error:  # such as photos that are gone: the figures stand
        note(f"no picture of how it came to be: {error}")
        return [file]
    return [file, grown]


def _tell(unit: Unit) -> None:
    for name, value in unit.row().items():
        if value is not None and name not in ("layer", "unit"):
            say(f"{name:<14}{f'{value:.4g}' if isinstance(value, float) else value}")
    say()
    head = ("photo", "class", "value", "row", "col")
    rows = [
        (one["image"], one["class"] or "", f"{one['value']:.4g}", _cell(one["row"]), _cell(one["col"]))
        for one in (patch.about() for patch in unit.top)
    ]
    table(head, rows, right=("value", "row", "col"))
    say()


def _cell(value: Any) -> str:
    return "" if value is None else str(value)


def _list(found: Atlas, layer: str | None, order: str, class_name: str | None, json: bool) -> None:
    units = found.units(layer, order=order, class_name=class_name)
    rows = units.rows()
    if not rows:
        asked = f"answers to {class_name} most" if class_name is not None else "is known yet"
        note(f"no unit{f' of {layer}' if layer else ''} {asked}")
    if json:
        emit({"atlas": found.folder, "units": rows})
        return
    head = ("unit", "mean", "max", "active", "selectivity", "class", "")
    cells = [
        (
            row["address"],
            *(f"{row[name]:.3g}" for name in ("mean", "max", "active")),
            "" if row["selectivity"] is None else f"{row['selectivity']:.3f}",
            row["class"] or "",
            "dead" if row["dead"] else "" if row["duplicate_of"] is None else f"as {row['duplicate_of']}",
        )
        for row in rows[:FIRST]
    ]
    table(head, cells, right=head[1:5])
    if len(rows) > FIRST:
        note(f"the first {FIRST} of {len(rows):,}; --json has them all")
