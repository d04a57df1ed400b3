"""``convscope evaluate``: how good a classifier is on labelled photos."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from convscope.cli.data import SOURCE, DataChoice
from convscope.cli.options import Background, Json, ModelChoice
from convscope.cli.output import as_json, counted, emit, note, say, table

if TYPE_CHECKING:
    from convscope.images.lettering import Line
    from convscope.training.evaluate import Evaluation
    from convscope.training.metrics import TopLoss

WORST = 24  # photos on the sheet of largest losses


def evaluate(
    chosen: ModelChoice,
    photos: Annotated[
        str | None,
        typer.Argument(metavar="[PHOTOS]", help=f"{SOURCE} By default the run's own test photos.", show_default=False),
    ] = None,
    *,
    data: DataChoice,
    ten_crop: Annotated[
        bool, typer.Option("--ten-crop", help="The mean prediction of corners and centre, also mirrored.")
    ] = False,
    unseen: Annotated[
        bool, typer.Option("--unseen", help="Leave out photos that the run has learned from, wherever they lie now.")
    ] = False,
    out: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Also write evaluation.json, the confusion and the photos of largest loss."),
    ] = None,
    workers: Annotated[int | None, typer.Option(metavar="N", min=0, help="Processes that read photos.")] = None,
    background: Background = None,
    json: Json = False,
) -> None:
    """Accuracy with its interval, figures of every class, and the photos it is most wrong about.

    Photos' classes are matched to the model's by name. MODEL may be a run's folder.
    """
    from convscope.cli.files import staged
    from convscope.progress import ConsoleProgress, reporting
    from convscope.training.evaluate import evaluate_source

    scope = chosen.open(background=background)
    place = staged(out) if out is not None else nullcontext()
    with place as draft:  # first: a place that cannot be written is said now
        with reporting(ConsoleProgress()):
            result = evaluate_source(
                scope.classifier,
                photos,
                scope.run,
                data.options(),
                unseen=unseen,
                ten_crop=ten_crop,
                background=scope.background,
                workers=workers,
            )
        if not result.leads:
            return
        _say(result, chosen.model, json)  # before it is written: a full disk takes nothing from the terminal
        if draft is not None:
            _write(result, draft, out)
    if out is not None:
        note(f"{out}: evaluation.json, confusion.png, largest-losses.png")


def _say(result: Evaluation, model: str, json: bool) -> None:
    for remark in result.remarks:
        note(remark)
    if result.refused:
        first = result.refused[0]
        note(f"left out: {counted(len(result.refused), 'photo')}, such as {first.name} ({first.reason})")
    if json:
        emit({"model": model, "source": result.catalog.source, **result.metrics.as_dict()})
    else:
        _tell(result)


def _tell(result: Evaluation) -> None:
    metrics = result.metrics
    for name, *values in metrics.summary():
        say(f"{name:<22}{'  '.join(values)}")
    say()
    head, *rows = metrics.table()
    table(head, rows, right=head[1:])
    if metrics.top_losses:
        say()
        say("largest losses:")
        table(
            ("photo", "true", "predicted", "p(true)", "loss"),
            [
                (one.name, one.true, one.predicted, f"{one.probability:.3f}", f"{one.loss:.2f}")
                for one in metrics.top_losses[:10]
            ],
            right=("p(true)", "loss"),
        )


def _verdict(one: TopLoss, classes: Sequence[str]) -> list[Line]:
    """What is written under a photo: its name, its class with the class's probability, what it was taken for."""
    from convscope.images.lettering import Line, class_label

    true, predicted = (class_label(name, classes.index(name)) for name in (one.true, one.predicted))
    after = f" ({one.probability:.2f})"
    if one.true == one.predicted:
        return [Line(one.name), Line(true, "rightly ", after)]
    return [Line(one.name), Line(true, "true: ", after), Line(predicted, "taken for ")]


def _write(result: Evaluation, draft: Path, out: Path | None) -> None:
    from convscope.images.lettering import font_remark
    from convscope.images.sheet import contact_sheet
    from convscope.training import charts

    metrics, found = result.metrics, result.catalog
    (draft / "evaluation.json").write_text(as_json(metrics.as_dict()) + "\n", encoding="utf-8")
    names = [one.name for one in metrics.per_class]
    charts.confusion(metrics.confusion, names, draft, (out or draft).resolve().name)
    place = {name: i for i, name in enumerate(found.store.names)}
    wrong = [one for one in metrics.top_losses if one.true != one.predicted]
    worst = [one for one in wrong or metrics.top_losses if one.name in place][:WORST]
    if worst:
        tiles = [found.store.photo(place[one.name]) for one in worst]
        labels = [_verdict(one, names) for one in worst]
        title = "the largest losses; in brackets the true class's probability"
        contact_sheet(tiles, labels, columns=6, tile=224, title=title).save(draft / "largest-losses.png")
    if remark := font_remark([*names, *(one.name for one in worst)]):
        note(remark)
