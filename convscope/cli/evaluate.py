"""``convscope evaluate``: how good a classifier is on labelled photos."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from convscope.cli.options import Background, Json, ModelChoice
from convscope.cli.output import as_json, emit, note, say, table
from convscope.cli.train import SOURCE, DataChoice
from convscope.errors import UsageError

if TYPE_CHECKING:
    from convscope.data.catalog import Catalog
    from convscope.training.evaluate import Evaluation

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
    out: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Also write evaluation.json, the confusion and the photos of largest loss."),
    ] = None,
    workers: Annotated[int | None, typer.Option(metavar="N", min=0, help="Processes that read photos.")] = None,
    background: Background = "white",
    json: Json = False,
) -> None:
    """Accuracy with its interval, figures of every class, and the photos it is most wrong about.

    Photos' classes are matched to the model's by name. MODEL may be a run's folder.
    """
    from convscope.cli.files import staged
    from convscope.data.catalog import catalog
    from convscope.models.registry import parse
    from convscope.progress import ConsoleProgress, reporting
    from convscope.training.evaluate import evaluate as evaluated
    from convscope.training.evaluate import own_split, trained_on

    prefix, name, _ = parse(chosen.model)
    run = Path(name) if prefix == "run" else None
    scope = chosen.open(background=background)
    with ExitStack() as stack:
        draft = stack.enter_context(staged(out)) if out is not None else None
        stack.enter_context(reporting(ConsoleProgress()))
        rows = None
        if photos is None:
            found, rows, which = _own(run, own_split)
            note(f"the run's own {which} photos")
        else:
            found = catalog(photos, data.options())
        result = evaluated(scope.classifier, found, rows, ten_crop=ten_crop, background=background, workers=workers)
        if draft is not None and result.leads:
            _write(result, found, draft, out)
    if not result.leads:
        return
    for remark in result.remarks:
        note(remark)
    if rows is None and (found.given >= 0).any():
        note("train, val and test photos are measured together; name one of the folders for it alone")
    if run is not None and rows is None and (seen := trained_on(run, found)):
        note(f"{seen:,} of these photos trained the model: its figures on them say little")
    if result.refused:
        first = result.refused[0]
        note(f"{len(result.refused):,} photos are left out, such as {first.name} ({first.reason})")
    if json:
        emit({"model": chosen.model, "source": found.source, **result.metrics.as_dict()})
    else:
        _tell(result)
    if out is not None:
        note(f"{out}: evaluation.json, confusion.png, largest-losses.png")


def _own(run: Path | None, own_split: Any) -> tuple[Catalog, Any, str]:
    """The test photos of a run, or its validation photos where it has none."""
    if run is None:
        raise UsageError("say which photos: a folder with a folder for each class; only a run has photos of its own")
    from convscope.data.listing import TEST, VAL
    from convscope.models.run import CONFIG
    from convscope.training.config import read_config, resolve_config
    from convscope.training.prepare import read_catalog

    if not (run / "split.csv").exists():
        raise UsageError(f"{run} has no photos of its own: name some")
    held = read_config(run / CONFIG)
    found = read_catalog(resolve_config({"data": held.get("data")}, {}).data)
    for which, word in ((TEST, "test"), (VAL, "validation")):
        rows = own_split(run, found, which)
        if len(rows):
            return found, rows, word
    raise UsageError(f"{run} kept no photos to test on: name some")


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


def _verdict(true: str, predicted: str) -> str:
    return f"{true}, rightly," if true == predicted else f"{true}, taken for {predicted},"


def _write(result: Evaluation, found: Catalog, draft: Path, out: Path | None) -> None:
    from convscope.images.sheet import contact_sheet
    from convscope.training import charts

    metrics = result.metrics
    (draft / "evaluation.json").write_text(as_json(metrics.as_dict()) + "\n", encoding="utf-8")
    names = [one.name for one in metrics.per_class]
    charts.confusion(metrics.confusion, names, draft, (out or draft).resolve().name)
    place = {name: i for i, name in enumerate(found.store.names)}
    wrong = [one for one in metrics.top_losses if one.true != one.predicted]
    worst = [one for one in wrong or metrics.top_losses if one.name in place][:WORST]
    if worst:
        tiles = [found.store.photo(place[one.name]) for one in worst]
        labels = [f"{one.name}: {_verdict(one.true, one.predicted)} {one.probability:.2f}" for one in worst]
        sheet = contact_sheet(tiles, labels, columns=6, tile=224, title="the largest losses")
        sheet.save(draft / "largest-losses.png")
