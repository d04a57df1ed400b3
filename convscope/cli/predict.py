"""``convscope predict``: the most probable classes, and photos grouped by them."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from convscope.cli.options import Background, Json, ModelChoice, Photos
from convscope.cli.output import counted, emit, note, say, table

if TYPE_CHECKING:
    from convscope.images.read import Photo

SHEET = 96  # photos of a class on its sheet, the surest first
MANY = 50  # classes above which the empty ones are counted, not named


def predict(
    chosen: ModelChoice,
    photos: Photos,
    top: Annotated[int, typer.Option(min=1, help="How many classes for each photo.")] = 5,
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Also write predictions.csv, and for each class a sheet of the photos taken for it.",
            show_default=False,
        ),
    ] = None,
    background: Background = None,
    json: Json = False,
) -> None:
    """The most probable classes of photos, and the photos grouped by their class. MODEL may be a run's folder."""
    from convscope.cli.files import remark_left_over
    from convscope.cli.photos import Batch
    from convscope.images.read import printable
    from convscope.progress import ConsoleProgress, reporting

    scope = chosen.open(background=background)

    def look(index: int, photo: Photo) -> dict[str, Any]:
        best = scope.predict(photo).top(top)
        return {"index": index, "photo": str(photo.path), "top": [vars(entry) for entry in best]}

    batch = Batch(scope, photos, alone=not json)
    with reporting(ConsoleProgress()):
        found = batch.all(look)
    names = scope.classes.names if scope.classes is not None else ()
    groups = _groups(found)
    if json:
        emit(
            {
                "model": chosen.model,
                "photos": found,
                "classes": {names[i]: [one["photo"] for one in group] for i, group in groups.items()},
                "failed": [vars(failure) for failure in batch.failures],
            }
        )
    else:
        rows = [
            (printable(one["photo"]), f"{entry['probability']:.3f}", str(entry["index"]), entry["name"])
            for one in found
            for entry in one["top"]
        ]
        table(("photo", "probability", "index", "class"), rows, right=("probability", "index"), group=True)
        if len(found) > 1:
            _tell(groups, names)
    if out is not None and found:
        own = _write(found, groups, names, out, scope.background)
        note(f"{out}: predictions.csv, and a sheet for each class that has photos")
        remark_left_over(out, own)
    if code := batch.tell():
        raise typer.Exit(code)


def _groups(found: Sequence[Mapping[str, Any]]) -> dict[int, list[Mapping[str, Any]]]:
    """Photos by the index of their class, the surest first."""
    groups: dict[int, list[Mapping[str, Any]]] = {}
    for one in sorted(found, key=lambda one: -one["top"][0]["probability"]):
        groups.setdefault(one["top"][0]["index"], []).append(one)
    return dict(sorted(groups.items()))


def _tell(groups: Mapping[int, Sequence[Mapping[str, Any]]], names: Sequence[str]) -> None:
    from convscope.images.read import printable

    say()
    rows = [
        (printable(names[i]), f"{len(group):,}", ", ".join(printable(Path(one["photo"]).name) for one in group[:4]))
        for i, group in groups.items()
    ]
    empty = [name for i, name in enumerate(names) if i not in groups]
    if len(names) <= MANY:
        rows += [(printable(name), "0", "no photo was taken for it") for name in empty]
    table(("class", "photos", "the surest"), rows, right=("photos",))
    if empty and len(names) > MANY:
        say(f"no photo was taken for the other {counted(len(empty), 'class')}".replace("classs", "classes"))


def _write(
    found: Sequence[Mapping[str, Any]],
    groups: Mapping[int, Sequence[Mapping[str, Any]]],
    names: Sequence[str],
    out: Path,
    background: str,
) -> set[Path]:
    from convscope.cli.files import files_in, staged
    from convscope.images.lettering import Line, class_label, font_remark
    from convscope.images.read import read_photo
    from convscope.images.sheet import contact_sheet
    from convscope.images.slug import slug

    with staged(out) as draft:
        file = draft / "predictions.csv"
        with file.open("w", encoding="utf-8", errors="surrogateescape", newline="") as opened:
            writer = csv.writer(opened, lineterminator="\n")
            writer.writerow(("photo", "class", "index", "probability"))
            for one in found:
                best = one["top"][0]
                writer.writerow((one["photo"], best["name"], best["index"], f"{best['probability']:.6f}"))
        for i, group in groups.items():
            shown = group[:SHEET]
            tiles = []
            for one in shown:
                tile = read_photo(one["photo"], background=background).image
                tile.thumbnail((192, 192))
                tiles.append(tile)
            labels = [[Line(Path(one["photo"]).name), Line(f"{one['top'][0]['probability']:.2f}")] for one in shown]
            more = "" if len(group) == len(shown) else f", the surest {len(shown)} of them"
            title = f"{class_label(names[i].split(',')[0], i)}: {counted(len(group), 'photo')}{more}"
            sheet = contact_sheet(tiles, labels, columns=min(8, max(4, len(tiles))), tile=192, title=title)
            sheet.save(draft / f"{i:03d}-{slug(names[i].split(',')[0])}.png")
        own = files_in(draft)
    if remark := font_remark([*(names[i] for i in groups), *(Path(one["photo"]).name for one in found)]):
        note(remark)
    return own
