"""``convscope atlas``: every unit of a network over a data set, in one pass."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from convscope.cli.data import SOURCE, DataChoice
from convscope.cli.options import Background, Json, ModelChoice
from convscope.cli.output import counted, emit, note, say, table
from convscope.cli.values import device_named, listed, listed_layers
from convscope.errors import UsageError

if TYPE_CHECKING:
    from convscope.atlas.atlas import Atlas
    from convscope.scope import Scope


def atlas(
    chosen: ModelChoice,
    photos: Annotated[str, typer.Argument(metavar="PHOTOS", help=SOURCE, show_default=False)],
    *,
    data: DataChoice,
    out: Annotated[
        Path, typer.Option("--out", "-o", metavar="DIR", help="The atlas's folder; one that is begun is gone on with.")
    ] = Path("atlas"),
    layers: Annotated[str, typer.Option(metavar="LAYERS", help="Layers, globs or aliases, with commas.")] = "@stages",
    top: Annotated[int, typer.Option(metavar="N", min=1, help="Photos that are kept of each unit.")] = 9,
    project: Annotated[
        str | None,
        typer.Option(
            metavar="METHODS",
            help="Project the strongest photos of all units back now, such as by deconvnet,guided.",
            show_default=False,
        ),
    ] = None,
    patterns: Annotated[
        bool, typer.Option("--patterns", help="Also what each unit wants to see, by gradient ascent.")
    ] = False,
    evolve: Annotated[
        bool, typer.Option("--evolve", help="Also of the checkpoints that a run kept, so that units can be followed.")
    ] = False,
    parquet: Annotated[
        bool, typer.Option("--parquet", help="Also the tables as Parquet, in the atlas's parquet/.")
    ] = False,
    workers: Annotated[int | None, typer.Option(metavar="N", min=0, help="Processes that read photos.")] = None,
    background: Background = None,
    json: Json = False,
) -> None:
    """The photos that excite each unit most, its statistics and neighbours, for all units of layers in one pass.

    Run again, it goes on where it stopped. `convscope unit` shows a unit's card.
    """
    from convscope.cli.process import Ended, asked_to_end
    from convscope.parallel import leads
    from convscope.progress import ConsoleProgress, reporting

    scope = chosen.open(background=background)
    wanted = listed_layers(layers) or [layers]
    more: dict[str, Any] = {"layers": wanted, "top": top, "project": listed(project or ""), "workers": workers}
    more |= {name: value for name, value in data.settings().items() if value}
    scopes = {out: scope} | (_stages(scope, chosen, out, background) if evolve else {})
    made = {}
    try:
        with asked_to_end() as ended, reporting(ConsoleProgress() if leads() else None, cancel=ended):
            for place, one in scopes.items():
                made[place] = one.atlas(photos, out=place, patterns=patterns and place == out, **more)
    except Ended as end:
        if out.is_dir():
            end.reason += f"; what is done is in {out}, the same command goes on with it"
        raise
    if not leads():
        return
    if parquet:
        made[out].to_parquet()
    _told(made[out], out, json)
    if len(made) > 1:
        note(f"{out}: also of {counted(len(made) - 1, 'checkpoint')}; `convscope unit` shows how a unit came to be")


def _stages(scope: Scope, chosen: ModelChoice, out: Path, background: str | None) -> dict[Path, Scope]:
    from convscope.atlas.evolution import stage_folder
    from convscope.scope import load
    from convscope.training.folder import RunFolder

    if scope.run is None:
        raise UsageError("--evolve follows a run: name it as run:DIR")
    stages = RunFolder(scope.run).stages()
    if len(stages) < 2:
        raise UsageError(f"--evolve: {scope.run} kept {counted(len(stages), 'checkpoint')}: train with --keep 1")
    device, spec = device_named(chosen.device), f"run:{scope.run}"
    return {
        stage_folder(out, epoch): load(spec, weights=file, device=device, background=background)
        for epoch, file in stages.items()
    }


def _told(found: Atlas, out: Path, json: bool) -> None:
    refused, errors = found.meta["refused"], [row for row in found.store.images() if row["error"] is not None]
    left = [*refused, *([row["name"], row["error"]] for row in errors)]
    if left:
        note(f"left out: {counted(len(left), 'photo')}, such as {left[0][0]} ({left[0][1]})")
    if found.troubles:
        note(f"{counted(len(found.troubles), 'photo')} could not be shown: {next(iter(found.troubles.values()))}")
    rows = []
    for address in found.layers:
        layer, units = found.layer(address), found.units(address)
        dead, same = sum(unit.dead for unit in units), sum(unit.duplicate_of is not None for unit in units)
        rows.append({**layer, "dead": dead, "duplicates": same})
    images = found.store.count("images") - len(errors)
    if json:
        emit({"atlas": out, "model": found.model, "images": images, "left_out": left, "layers": rows})
        return
    head = ("layer", "type", "units", "dead", "duplicates", "maps", "sees")
    cells = [
        (
            row["address"],
            row["kind"],
            f"{row['units']:,}",
            f"{row['dead']:,}",
            f"{row['duplicates']:,}",
            "" if row["rows"] is None else f"{row['rows']}x{row['cols']}",
            f"{row['field_rows']}x{row['field_cols']}" if row["field"] == "exact" else row["field"],
        )
        for row in rows
    ]
    table(head, cells, right=("units", "dead", "duplicates", "maps", "sees"))
    say(f"{out}: {counted(images, 'photo')}; a unit's card: convscope unit {out} {found.layers[-1]}:0")
