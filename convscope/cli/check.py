"""``convscope check``: what a data set is like, and what should be mended before it is learned from."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from convscope.cli.data import SOURCE, ClassNames, DataChoice
from convscope.cli.options import Json
from convscope.cli.output import counted, emit, note, plain, say, table
from convscope.errors import UsageError

if TYPE_CHECKING:
    from convscope.data.catalog import Catalog
    from convscope.data.faces import Report
    from convscope.data.findings import Finding

EXAMPLES = 3


def check(
    photos: Annotated[str, typer.Argument(metavar="PHOTOS", help=SOURCE, show_default=False)],
    *,
    data: DataChoice,
    named: ClassNames,
    preview_augment: Annotated[
        str | None,
        typer.Option(metavar="WHAT", help="Also draw what augmentation makes of some photos, such as standard."),
    ] = None,
    crop_faces: Annotated[
        bool, typer.Option("--crop-faces", help="Also make a copy, in --out, of the faces alone.")
    ] = False,
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="PATH", help="Where the preview (a picture) or the faces (a folder) go.", show_default=False
        ),
    ] = None,
    json: Json = False,
) -> None:
    """Classes, counts, sizes, and what is wrong with the photos: every one is decoded. Exit code 1 if anything is.

    The photos are only read, never changed.
    """
    if crop_faces and out is None:
        raise UsageError("--crop-faces makes a copy: say where, --out DIR")
    if crop_faces and preview_augment is not None:
        raise UsageError("--crop-faces and --preview-augment both write to --out: ask for one at a time")
    if out is not None and not crop_faces and preview_augment is None:
        raise UsageError("--out says where the preview or the faces go: ask for one, --preview-augment or --crop-faces")
    from convscope.cli.files import PICTURES

    if out is not None and preview_augment is not None and out.suffix.lower() not in PICTURES and not out.is_dir():
        raise UsageError(f"{out}: save as a picture, such as {out}.png")
    from convscope.data.augment import augmentation
    from convscope.data.catalog import catalog_of
    from convscope.data.findings import findings
    from convscope.data.scan import scan
    from convscope.data.sources import open_source
    from convscope.progress import ConsoleProgress, reporting

    changes = augmentation(preview_augment) if preview_augment is not None else None
    options = data.options(named.names())
    with reporting(ConsoleProgress()):
        listed = open_source(photos, options)
        found = catalog_of(listed, scan(listed))
        problems = findings(found)
        faces = None
        if crop_faces and out is not None:
            from convscope.data.faces import crop_faces as crop

            faces = crop(listed, out)
    if json:
        emit(_about(found, problems, faces))
    else:
        _tell(found, problems)
    if faces is not None and not json:
        _tell_faces(faces)
    if changes is not None:
        from convscope.cli.files import placed
        from convscope.data.preview import preview

        place = out or Path("augment-preview.png")
        with placed(place) as draft:
            preview(found, changes).save(draft)
        note(f"the preview is in {place}")
    if problems:
        raise typer.Exit(1)


def _tell(found: Catalog, problems: list[Finding]) -> None:
    from convscope.data.findings import by_split, sizes
    from convscope.images.read import printable

    columns = by_split(found)
    rows = [(printable(name), *(f"{n[i]:,}" for n in columns.values())) for i, name in enumerate(found.classes)]
    if rows:
        table(("class", *columns), rows, right=tuple(columns))
        say()
    unlabelled = int((found.labels < 0).sum())
    more = f", {unlabelled:,} without a class" if unlabelled else ""
    classes = f"{len(found.classes):,} class{'es' * (len(found.classes) != 1)}"
    say(f"{counted(len(found), 'photo')} in {classes}{more}; {sizes(found)}")
    for remark in found.remarks:
        say(remark)
    if len(found) and not found.classes:
        say("they are of no class: predict takes them; train needs a folder for each class, or labels")
    elif not problems:
        say("nothing to mend")
    if not problems:
        return
    say()
    say("what was found:")
    for one in problems:
        say(f"{one.count:>7,}  {one.text}")
        for name in one.photos[:EXAMPLES]:
            say(f"         {printable(name)}")
        if len(one.photos) > EXAMPLES:
            say(f"         and {len(one.photos) - EXAMPLES:,} more (--json lists all)")


def _tell_faces(faces: Report) -> None:
    say()
    say(f"faces: {faces.cropped:,} of {counted(faces.photos, 'photo')} cropped into {faces.out}")
    for names, text in (
        (faces.none, "show no face, and are left out"),
        (faces.several, "show several faces; the largest was taken"),
        (tuple(one.name for one in faces.broken), "could not be read"),
    ):
        if names:
            say(f"{len(names):>7,}  {text}, such as {names[0]}")
    say(f"report.csv in {faces.out} tells of each")


def _about(found: Catalog, problems: list[Finding], faces: Any) -> dict[str, Any]:
    from convscope.data.findings import by_split, sizes

    return {
        "source": found.source,
        "kind": found.kind,
        "photos": len(found),
        "classes": list(found.classes),
        "counts": by_split(found),
        "unlabelled": int((found.labels < 0).sum()),
        "sizes": sizes(found),
        "remarks": list(found.remarks),
        "findings": [vars(one) for one in problems],
        "left_out": [one._asdict() for one in found.refused],
        "faces": None if faces is None else plain(faces._asdict() if hasattr(faces, "_asdict") else vars(faces)),
    }
