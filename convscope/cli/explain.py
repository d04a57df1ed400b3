"""``convscope explain``: photos to a report."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from convscope.cli.options import Background, Json, ModelChoice, Photos
from convscope.cli.output import as_json, bytes_in_words, counted, emit, say, table
from convscope.cli.values import assignment, layer_paths, listed, listed_layers
from convscope.errors import ConvscopeError, UsageError, unknown

if TYPE_CHECKING:
    from convscope.cli.photos import Batch
    from convscope.report import About, Trouble
    from convscope.scope import Scope

STAGES = "@stages"
METHODS = "grad-cam,guided,deconvnet,occlusion"


def explain(
    context: typer.Context,
    chosen: ModelChoice,
    photos: Photos,
    methods: Annotated[
        str | None,
        typer.Option(
            metavar="NAME,...",
            help=f"Methods, or all; `convscope methods` lists them. By default {METHODS}, less what cannot explain the "
            "target.",
            show_default=False,
        ),
    ] = None,
    target: Annotated[
        list[str] | None,
        typer.Option(
            metavar="TARGET",
            help="What to explain: a class by name or index (default: the most probable), a unit such as layer4:137, a "
            "neuron layer4:137@row,col, or a layer for its strongest units. May be repeated.",
            show_default=False,
        ),
    ] = None,
    against: Annotated[
        str | None, typer.Option(metavar="CLASS", help="A second class: why the target rather than this?")
    ] = None,
    strongest: Annotated[int, typer.Option(min=1, metavar="N", help="Units shown where the target is a layer.")] = 9,
    layer: Annotated[
        str | None, typer.Option(metavar="LAYER", help="Layer for the methods that look at one, such as grad-cam.")
    ] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="METHOD.SETTING=VALUE", help="A setting of a method; may be repeated.", show_default=False
        ),
    ] = None,
    layers: Annotated[
        str, typer.Option(metavar="PATTERN,...", help="Layers whose feature maps are shown too; none for none.")
    ] = STAGES,
    out: Annotated[Path, typer.Option(metavar="FOLDER", help="Where the report and its pictures go.")] = Path("report"),
    background: Background = None,
    json: Json = False,
) -> None:
    """Explain photos: what in them speaks for a class, by several methods, in one HTML report."""
    from convscope.cli.files import files_in, only, remark_left_over, staged
    from convscope.cli.findings import Plan, photo_findings
    from convscope.cli.photos import Batch
    from convscope.progress import ConsoleProgress, reporting
    from convscope.report import Report

    chosen_methods = configured(methods or METHODS, layer, set_ or [])
    scope = chosen.open(background=background)
    shown = shown_layers(scope, layers)
    plan = Plan(chosen_methods, target or [None], against, strongest, shown, choosy=methods is None)
    batch = Batch(scope, photos, alone=not json)
    with staged(out) as draft, Report(_about(context, scope)) as report:
        with reporting(ConsoleProgress()):
            found = batch.all(
                lambda index, photo: photo_findings(scope, plan, index, photo, draft),
                lambda one: report.add(one.pop("page")),
            )
        batch.failures += [failure for one in found for failure in one.pop("failures")]
        summary = _summary(report.about, found, batch)
        only(draft, {one["folder"] for one in found})
        size = 0
        if found:
            size = report.write(draft / "report.html", _troubles(batch))
            (draft / "summary.json").write_text(as_json(summary) + "\n", "utf-8", "backslashreplace")
        own = files_in(draft)
    if found:
        remark_left_over(out, own)
    if json:
        emit({**summary, "out": out, "report": out / "report.html" if found else None})
    elif found:
        _tell(found, out, size)
    if code := batch.tell():
        raise typer.Exit(code)


def configured(names: str, layer: str | None, settings: list[str]) -> list[Any]:
    """The methods that ``--methods``, ``--layer`` and ``--set`` ask for, ready to run."""
    from dataclasses import fields

    from convscope.methods import METHODS, configure

    pictures = [name for name, cls in METHODS.items() if cls.traits.kind in ("map", "pixels")]
    wanted = list(dict.fromkeys(pictures if names.strip() == "all" else listed(names)))
    if not wanted:
        raise UsageError("--methods names no method")
    for name in wanted:
        if name not in METHODS:
            raise unknown("method", name, METHODS, "`convscope methods` explains them")
        if name not in pictures:
            raise UsageError(f"{name} does not make a map of a photo: use `convscope {name}`")
    given: dict[str, dict[str, Any]] = {name: {} for name in wanted}
    if layer is not None:
        layered = [name for name in wanted if any(field.name == "layer" for field in fields(METHODS[name]))]
        if not layered:
            raise UsageError(f"--layer {layer}: none of {', '.join(wanted)} looks at a layer; did you mean --target?")
        given.update({name: {"layer": layer} for name in layered})
    for text in settings:
        path, value = assignment("--set", text)
        name, dot, setting = path.partition(".")
        if not dot:
            raise UsageError(f"--set {text!r} is not of the form METHOD.SETTING=VALUE")
        if name not in given:
            raise unknown("method in --set", name, given, "it must be among --methods")
        given[name][setting] = value
    return [configure(name, values) for name, values in given.items()]


def shown_layers(scope: Scope, patterns: str) -> list[str]:
    """The layers whose feature maps are shown. Not every network has the stages that are the default."""
    if patterns.strip() == "none":
        return []
    from convscope.cli.photos import explained_size

    try:
        with explained_size(scope):
            return layer_paths(scope, listed_layers(patterns))
    except ConvscopeError:
        if patterns == STAGES:
            return []
        raise


def _about(context: typer.Context, scope: Scope) -> About:
    from convscope.cli.app import versions
    from convscope.report import About

    size = scope.classifier.framing.size
    return About(
        model=scope.classifier.name,
        device=device_in_words(scope.classifier.device),
        command=context.obj.command,
        canvas="" if size is None else f"{size[1]} × {size[0]}",
        normalisation=_normalisation(scope),
        versions=versions(context.obj.allocator),
    )


def _normalisation(scope: Scope) -> str:
    mean, std = ([f"{value:.4g}" for value in values] for values in (scope.classifier.mean, scope.classifier.std))
    if set(mean) == {"0"} and set(std) == {"1"}:
        return "none"
    return f"mean {', '.join(dict.fromkeys(mean))}; std {', '.join(dict.fromkeys(std))}"


def _summary(about: About, found: list[dict[str, Any]], batch: Batch) -> dict[str, Any]:
    """What ``summary.json`` and ``--json`` say."""
    return {
        "model": about.model,
        "command": about.command,
        "device": about.device,
        "date": about.date.isoformat(timespec="seconds"),
        "versions": about.versions,
        "photos": found,
        "failed": [vars(failure) for failure in batch.failures],
    }


def device_in_words(device: Any) -> str:
    import torch

    if device.type == "cuda":
        return f"{torch.cuda.get_device_name(device)} ({device})"
    return f"CPU, {counted(torch.get_num_threads(), 'thread')}" if device.type == "cpu" else str(device)


def _troubles(batch: Batch) -> list[Trouble]:
    """Photos that failed as a whole; what failed on a photo, its own section says."""
    from convscope.report import Trouble

    return [Trouble(f.photo, f.reason) for f in batch.failures if f.method is None]


def _tell(found: list[dict[str, Any]], out: Path, size: int) -> None:
    from convscope.images.read import printable

    rows = []
    for one in found:
        best, targets = one["top"][0], dict.fromkeys(e["target"] for e in one["explanations"] if e["target"])
        told = ", ".join(list(targets)[:3]) + (f" and {len(targets) - 3} more" if len(targets) > 3 else "")
        name = best["name"].split(",")[0]
        rows.append((printable(one["photo"]), name, f"{best['probability']:.3f}", told, one["folder"]))
    table(("photo", "class", "probability", "explained", "folder"), rows, right=("probability",))
    say(f"\n{out / 'report.html'} ({bytes_in_words(size)})")
