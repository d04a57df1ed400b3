"""``convscope predict``: the most probable classes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from convscope.cli.options import Background, Json, ModelChoice, Photos
from convscope.cli.output import emit, table

if TYPE_CHECKING:
    from convscope.images.read import Photo


def predict(
    chosen: ModelChoice,
    photos: Photos,
    top: Annotated[int, typer.Option(min=1, help="How many classes for each photo.")] = 5,
    background: Background = "white",
    json: Json = False,
) -> None:
    """The most probable classes of photos."""
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
    if json:
        emit({"model": chosen.model, "photos": found, "failed": [vars(failure) for failure in batch.failures]})
    else:
        rows = [
            (printable(one["photo"]), f"{entry['probability']:.3f}", str(entry["index"]), entry["name"])
            for one in found
            for entry in one["top"]
        ]
        table(("photo", "probability", "index", "class"), rows, right=("probability", "index"), group=True)
    if code := batch.tell():
        raise typer.Exit(code)
