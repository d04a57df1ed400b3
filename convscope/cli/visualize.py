"""``convscope visualize``: what units want to see, as pictures."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from convscope.cli.options import Background, Json, ModelChoice
from convscope.cli.output import counted, emit, note, say
from convscope.cli.values import canvas, device_named, listed_layers
from convscope.errors import Cancelled, UsageError, some

if TYPE_CHECKING:
    from convscope.optvis.visualize import Job
    from convscope.scope import Scope


def visualize(
    chosen: ModelChoice,
    what: Annotated[
        str,
        typer.Argument(
            metavar="LAYER[:UNITS],...",
            help="Layers, globs, units as features.10:0-63, a neuron layer3:12@7,4, or classes as @logits:tench,tabby.",
            show_default=False,
        ),
    ],
    recipe: Annotated[str, typer.Option(metavar="NAME", help="fourier, maco or classic.")] = "fourier",
    canvas_size: Annotated[
        str | None,
        typer.Option(
            "--canvas",
            metavar="N|HxW",
            help="Pixels of a pattern; by default the layer's receptive field and a margin, for classes the input.",
            show_default=False,
        ),
    ] = None,
    steps: Annotated[int | None, typer.Option(metavar="N", min=1, help="Steps of ascent.", show_default=False)] = None,
    seed: Annotated[int, typer.Option(help="What the noise is drawn from that patterns begin as.")] = 0,
    diversity: Annotated[int, typer.Option(metavar="N", min=1, help="Patterns of each unit, as unlike as can be.")] = 1,
    negative: Annotated[bool, typer.Option("--negative", help="What units want least.")] = False,
    photos: Annotated[
        list[str] | None,
        typer.Option(
            metavar="PHOTOS",
            help="Compare with the strongest answers to these photos, and take the spectrum of maco from them; may be "
            "repeated.",
            show_default=False,
        ),
    ] = None,
    evolve: Annotated[
        str | None,
        typer.Option(metavar="run:DIR", help="Also the same units of a run's checkpoints.", show_default=False),
    ] = None,
    dream: Annotated[
        Path | None, typer.Option(metavar="PHOTO", help="Instead: the photo, changed towards what excites the layer.")
    ] = None,
    caricature: Annotated[
        Path | None, typer.Option(metavar="PHOTO", help="Instead: what the layer sees in the photo, amplified.")
    ] = None,
    budget: Annotated[float, typer.Option(metavar="MIB", help="Memory that a batch of patterns may take.")] = 2048.0,
    out: Annotated[Path, typer.Option(metavar="FOLDER", help="Where the pictures go.")] = Path("patterns"),
    background: Background = None,
    json: Json = False,
) -> None:
    """What units want to see: pictures by gradient ascent, many at once. Run again, it goes on where it stopped."""
    from convscope.progress import ConsoleProgress, reporting

    if dream is not None and caricature is not None:
        raise UsageError("--dream and --caricature each make a picture of their own: ask for one at a time")
    if dream is not None or caricature is not None:
        given = {
            "--recipe": recipe != "fourier",
            "--diversity": diversity != 1,
            "--negative": negative,
            "--photos": photos is not None,
            "--evolve": evolve is not None,
        }
        if idle := [option for option, there in given.items() if there]:
            raise UsageError(f"{some(idle)}: not of a dream or a caricature, leave it out")
    size = canvas(canvas_size, "--canvas")
    scope = chosen.open(background=background)
    with reporting(ConsoleProgress()):
        if dream is not None or caricature is not None:
            _of_photo(scope, what, dream, caricature, size, {"steps": steps, "seed": seed}, budget, out, json)
            return
        stages = {"": scope} | (_checkpoints(evolve, chosen) if evolve is not None else {})
        options: dict[str, Any] = {"recipe": recipe, "size": size, "steps": steps, "seed": seed, "copies": diversity}
        options |= {"negative": negative, "budget": budget}
        jobs = {stage: _jobs(one, what, photos, options) for stage, one in stages.items()}  # all, before the long work
        _comparable(jobs)
        told = {stage: _made(found, out / stage) for stage, found in jobs.items()}
        compared = _compared(jobs, out, chosen.model) if evolve is not None else []
    if json:
        emit({"model": chosen.model, "out": out, "layers": told[""], "evolution": compared})
        return
    for line in told[""]:
        say(f"{line['sheet']}: {counted(len(line['patterns']), 'pattern')} of {line['layer']}")
    for file in compared:
        say(f"{file}: the same units of {evolve}")


def _jobs(scope: Scope, what: str, photos: list[str] | None, options: dict[str, Any]) -> list[Job]:
    """A job a layer, all of them checked."""
    from convscope.instrument.address import LOGITS
    from convscope.optvis.visualize import plan_patterns

    seen = scope.images(photos)[0] if photos is not None else None
    wanted = [what] if what.startswith(LOGITS) else _layers(scope, what)
    return [plan_patterns(scope.classifier, one, photos=seen, **options) for one in wanted]


def _layers(scope: Scope, what: str) -> list[str]:
    from convscope.cli.photos import explained_size
    from convscope.instrument.address import LOGITS
    from convscope.optvis.asked import layers_of, merged

    if LOGITS in what:
        raise UsageError(f"{LOGITS} is the output: ask for it alone, as {LOGITS} or {LOGITS}:tabby,tench")
    with explained_size(scope):
        found = [layer for part in listed_layers(what) or [what] for layer in layers_of(scope.classifier, part)]
    return merged(found)


def _made(jobs: Sequence[Job], out: Path) -> list[dict[str, Any]]:
    """The patterns of jobs, written as they come; what is there already is not made again."""
    from convscope.optvis.folder import PatternFolder
    from convscope.progress import track

    folder = PatternFolder(out)
    told = []
    for job in track(jobs, "layers") if len(jobs) > 1 else jobs:
        done = folder.done(job)
        if others := folder.others(job):
            note(f"{job.title}: {counted(others, 'pattern')} made in another way will be replaced")
        if done:
            note(f"{job.title}: {len(done):,} of {counted(len(job), 'pattern')} are there already")
        for remark in job.notes:
            note(remark)
        try:
            for rows, patterns in job.batches(done):
                folder.keep(job, rows, patterns)
        except (SystemExit, KeyboardInterrupt, Cancelled):
            note(f"{folder.path}: what was made is there; the same command goes on with it")
            raise
        sheet, lines = folder.write_sheet(job), folder.rows(job)
        for verdict in dict.fromkeys(line["verdict"] for line in lines if line["verdict"]):
            note(f"{verdict}: {some([line['name'] for line in lines if line['verdict'] == verdict])}")
        told.append({"layer": job.title, "sheet": sheet, "patterns": lines, **job.about(), "notes": list(job.notes)})
    return told


def _checkpoints(run: str, chosen: ModelChoice) -> dict[str, Scope]:
    """The networks that a run keeps, by their epochs."""
    from convscope.scope import load
    from convscope.training.folder import RunFolder

    path, device = Path(run.removeprefix("run:")), device_named(chosen.device)
    load(f"run:{path}", structure_only=True)  # which says so where it is no run
    stages = RunFolder(path).stages()
    if not stages:
        raise UsageError(f"--evolve {run}: the run has no checkpoint yet")
    return {f"epoch-{epoch:03d}": load(f"run:{path}", weights=file, device=device) for epoch, file in stages.items()}


def _comparable(jobs: dict[str, list[Job]]) -> None:
    """Refuse units of which a checkpoint of the run has others, or none."""

    def units(found: list[Job]) -> dict[str, Any]:
        return {job.title: [job.own.unit(row, job.classifier.classes) for row in range(len(job))] for job in found}

    before = units(jobs[""])
    for stage, found in jobs.items():
        own = units(found)
        if other := [title for title in before | own if before.get(title) != own.get(title)]:
            raise UsageError(
                f"{some(other)}: the model has other units there than {stage} of the run has: name layers and units "
                "that both have"
            )


def _compared(jobs: dict[str, list[Job]], out: Path, model: str) -> list[Path]:
    """A sheet a layer: a row a unit, before and at each checkpoint."""
    from convscope.cli.files import placed
    from convscope.images.lettering import Line
    from convscope.images.sheet import contact_sheet
    from convscope.optvis.folder import PatternFolder, stem

    files = []
    folders = {stage: PatternFolder(out / stage) for stage in jobs}
    for i, job in enumerate(jobs[""]):
        tiles, labels = [], []
        lines = {stage: folders[stage].rows(found[i]) for stage, found in jobs.items()}
        for row in range(len(job)):
            for stage in jobs:
                line = lines[stage][row]
                tiles.append(folders[stage].picture(line["file"]))
                unit, when = line["name"].removeprefix(f"{job.title}:"), stage.replace("-", " ") or "before"
                labels.append([Line(unit), Line(f"{when}: {line['after']:.3g}")])
        file = out / f"evolution-{stem(job)}.png"
        with placed(file) as draft:
            title = f"{job.title}: {model}, then the run"
            contact_sheet(tiles, labels, columns=max(8 // len(jobs), 1) * len(jobs), tile=128, title=title).save(draft)
        files.append(file)
    return files


def _of_photo(
    scope: Scope,
    what: str,
    dream: Path | None,
    caricature: Path | None,
    size: int | tuple[int, int] | None,
    options: dict[str, Any],
    budget: float,
    out: Path,
    json: bool,
) -> None:
    """A dream or a caricature, as one picture."""
    if size is not None and (caricature is not None or not isinstance(size, int)):
        raise UsageError("--canvas of a dream is the photo's longer side; a caricature takes the network's input")
    from convscope.cli.files import staged
    from convscope.images.slug import slug

    photo = dream or caricature
    assert photo is not None
    if caricature is not None and photo.is_dir():
        raise UsageError(f"--caricature {photo}: name one photo, not a folder")
    with staged(out) as draft:
        kind = "dream" if dream is not None else "caricature"
        if dream is not None:
            found = scope.dream(photo, what, size=size, **options)
        else:
            found = scope.caricature(photo, what, budget=budget, **options)
        name = f"{kind}-{slug(photo.stem)}-{slug(what)}.png"
        found.picture().save(draft / name)
    for remark in found.notes:
        note(remark)
    if json:
        emit({"file": out / name, **found.about()})
    else:
        say(f"{out / name}: {found.title}, score {float(found.before[0]):.3g} to {float(found.after[0]):.3g}")
