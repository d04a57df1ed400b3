"""``convscope atlas-diff``: what became of each unit between two networks."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from convscope.cli.options import Json
from convscope.cli.output import emit, note, say, table

if TYPE_CHECKING:
    from convscope.atlas.compare import Comparison


def atlas_diff(
    before: Annotated[Path, typer.Argument(metavar="BEFORE", help="An atlas.", show_default=False)],
    after: Annotated[Path, typer.Argument(metavar="AFTER", help="Another, of the same photos.", show_default=False)],
    *,
    out: Annotated[
        Path, typer.Option("--out", "-o", metavar="DIR", help="Where changes.csv and changed.png go.")
    ] = Path("atlas-diff"),
    model: Annotated[
        str | None, typer.Option(metavar="MODEL", help="The model of both, where that is your own code: net.py:Net.")
    ] = None,
    json: Json = False,
) -> None:
    """What fine-tuning did to each unit: kept, changed, moved to another place, died."""
    from convscope.atlas.atlas import Atlas
    from convscope.atlas.compare import compare
    from convscope.cli.files import staged
    from convscope.progress import ConsoleProgress, reporting

    with Atlas(before, model) as first, Atlas(after, model) as second, reporting(ConsoleProgress()):
        found = compare(first, second)
        with staged(out) as draft:
            files = _write(found, draft)
        if json:
            emit({"before": before, "after": after, "layers": found.summary(), "units": found.rows()})
            return
        _tell(found)
    say(f"{out}: {', '.join(files)}")


def _write(found: Comparison, draft: Path) -> list[str]:
    """The names of the files that were written."""
    import csv

    from convscope.errors import ConvscopeError

    rows = found.rows()
    with (draft / "changes.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    try:
        found.sheet().save(draft / "changed.png")
    except ConvscopeError as error:  # such as photos that are gone: the figures stand
        note(f"no picture: {error}")
        return ["changes.csv"]
    return ["changes.csv", "changed.png"]


def _tell(found: Comparison) -> None:
    summary = found.summary()
    head = tuple(summary[0])
    table(head, [tuple(_cell(row[name]) for name in head) for row in summary], right=head[1:])
    say()
    head = ("changed most", "r", "like it now", "r", "same photos", "class before", "class after")
    rows = [
        (
            f"{one.layer}:{one.unit}",
            _cell(one.correlation),
            _cell(one.match),
            _cell(one.match_correlation),
            f"{one.shared:.0%}",
            one.class_before or "",
            one.class_after or "",
        )
        for one in found.most_changed()
    ]
    table(head, rows, right=("r", "like it now", "same photos"))


def _cell(value: Any) -> str:
    return (
        ""
        if value is None
        else f"{value:.2f}"
        if isinstance(value, float)
        else f"{value:,}"
        if isinstance(value, int)
        else str(value)
    )
