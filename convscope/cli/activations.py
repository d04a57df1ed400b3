"""``convscope activations``: what layers say of photos, as sheets and as single maps."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from convscope.cli.options import Background, Json, ModelChoice, Photos
from convscope.cli.output import counted, emit, say
from convscope.cli.values import layer_paths, listed_layers
from convscope.errors import UsageError

if TYPE_CHECKING:
    from convscope.images.read import Photo
    from convscope.methods.explanation import Explanation


def activations(
    chosen: ModelChoice,
    photos: Photos,
    layers: Annotated[
        str, typer.Option(metavar="PATTERN,...", help="Layers: paths, globs such as 'features.*', @stages, @last_conv.")
    ] = "@last_conv",
    channels: Annotated[
        str,
        typer.Option(metavar="all|N|A-B,...", help="Units of each layer: all, the first N, or ranges such as 0-63."),
    ] = "all",
    out: Annotated[Path, typer.Option(metavar="FOLDER", help="Where the sheets go.")] = Path("activations"),
    columns: Annotated[int, typer.Option(min=1, help="Maps in a row of a sheet.")] = 16,
    each: Annotated[bool, typer.Option("--each", help="Save each map alone as well.")] = False,
    each_size: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Longest side of maps saved alone, resized bilinearly.")
    ] = None,
    squash: Annotated[
        bool,
        typer.Option("--squash", help="Draw values through a sigmoid instead of stretching each map to its range."),
    ] = False,
    background: Background = None,
    json: Json = False,
) -> None:
    """Feature maps of layers: one sheet a layer with dead maps marked, and all its maps merged into one."""
    wanted = parsed_channels(channels)
    from convscope.cli.files import files_in, only, remark_left_over, staged
    from convscope.cli.findings import select
    from convscope.cli.photos import Batch, explained_size
    from convscope.images.slug import slug
    from convscope.progress import ConsoleProgress, reporting, track

    scope = chosen.open(background=background)
    with explained_size(scope):
        paths = layer_paths(scope, listed_layers(layers))
    batch = Batch(scope, photos, alone=not json)

    with staged(out) as draft:

        def look(index: int, photo: Photo) -> dict[str, Any]:
            best = scope.predict(photo).top(1)[0]
            folder = draft / f"{index:03d}-{slug(best.name.split(',')[0])}"
            told = []
            for layer in track(paths, "layers"):
                found = scope.activations(photo, layer)
                found = select(found, within(wanted, found.raw.shape[1], layer))
                name = slug(layer)
                files = _save(found, folder, name, columns, squash)
                if each:
                    alone = found.save_each(folder / name, size=each_size, squash=squash)
                    files["each"] = [str(file.relative_to(draft)) for file in alone]
                told.append({"layer": layer, "shape": list(found.raw.shape[1:]), **files})
            return {"index": index, "photo": str(photo.path), "class": best.name, "folder": folder.name, "layers": told}

        with reporting(ConsoleProgress()):
            found = batch.all(look)
        only(draft, {one["folder"] for one in found})
        own = files_in(draft)
    if found:
        remark_left_over(out, own)
    if json:
        failed = [vars(failure) for failure in batch.failures]
        emit({"model": chosen.model, "out": out, "photos": found, "failed": failed})
    elif found:
        say(f"{out}: {counted(len(paths), 'layer')} of {counted(len(found), 'photo')}")
    if code := batch.tell():
        raise typer.Exit(code)


def parsed_channels(text: str) -> list[tuple[int, int]] | None:
    """``all``, ``16`` (the first 16) or ``0-63,80-80`` as ranges, both ends inside; None is all."""
    text = text.strip()
    if text == "all":
        return None
    if text.isdigit() and int(text):
        return [(0, int(text) - 1)]
    ranges = [re.fullmatch(r"(\d+)(?:-(\d+))?", part.strip()) for part in text.split(",")]
    found = [(int(m[1]), int(m[2] or m[1])) for m in ranges if m is not None]
    if len(found) < len(ranges) or text.isdigit() or any(first > last for first, last in found):
        raise UsageError(f"--channels {text!r} is neither all, nor a number of channels, nor ranges such as 0-63,80-95")
    return found


def within(ranges: Sequence[tuple[int, int]] | None, count: int, layer: str) -> list[int]:
    """The channels of a layer of ``count`` that the ranges ask for; ranges may reach beyond its last."""
    if ranges is None:
        return list(range(count))
    found = [unit for first, last in ranges for unit in range(first, min(last, count - 1) + 1)]
    if not found:
        raise UsageError(f"--channels: {layer} has {count} channels, 0 to {count - 1}")
    return list(dict.fromkeys(found))


def _save(found: Explanation, folder: Path, name: str, columns: int, squash: bool) -> dict[str, Any]:
    """A layer's sheet and its merged map, and where they are."""
    folder.mkdir(parents=True, exist_ok=True)
    found.sheet(columns=columns, squash=squash).save(folder / f"{name}.png")
    found.merged().save(folder / f"{name}-merged.png")
    return {"sheet": f"{folder.name}/{name}.png", "merged": f"{folder.name}/{name}-merged.png"}
