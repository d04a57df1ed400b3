"""``convscope export``: the model as one file for elsewhere, with its preprocessing and class names."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from convscope.cli.options import Background, Json, ModelChoice
from convscope.cli.output import bytes_in_words, counted, emit, note, say
from convscope.errors import UsageError, unknown

if TYPE_CHECKING:
    from convscope.models.export import Checked
    from convscope.scope import Scope


def export(
    chosen: ModelChoice,
    format: Annotated[
        str | None,
        typer.Option(
            metavar="FORMAT",
            help="onnx runs anywhere; safetensors holds the weights. By default what --out ends in, else onnx.",
            show_default=False,
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="By default the model's name, in this folder.", show_default=False),
    ] = None,
    check: Annotated[
        list[str] | None,
        typer.Option(
            metavar="PHOTOS", help="Photos to check the export on as well; may be repeated.", show_default=False
        ),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace a file that is there already.")] = False,
    background: Background = None,
    json: Json = False,
) -> None:
    """The model as one ONNX or safetensors file, with preprocessing and class names; checked to give the same."""
    from convscope.cli.files import placed
    from convscope.cli.photos import explained_size

    wanted = _format(format, out)
    out = out or Path(f"{_name(chosen.model)}.{wanted}")
    if out.suffix.lower() != f".{wanted}":
        raise UsageError(f"--out {out} is for the format {wanted}: end it in .{wanted}")
    if out.is_file() and not force:
        raise UsageError(f"{out} is there already: --force replaces it, --out names another")
    scope = chosen.open(background=background)
    with placed(out) as draft, explained_size(scope):
        checked = scope.export(draft, check=check)
    _tell(chosen, scope, out, wanted, checked, json)


def _format(format: str | None, out: Path | None) -> str:
    """The format that was asked for, by its name or by the end of the file's."""
    from convscope.models.export import WRITERS

    if format is not None and format not in WRITERS:
        raise unknown("--format", format, WRITERS)
    end = out.suffix.lower().removeprefix(".") if out is not None else ""
    return format or (end if end in WRITERS else "onnx")


def _name(spec: str) -> str:
    """What the file is called: the run folder's name, or the model's."""
    from convscope.models.registry import parse

    prefix, name, _ = parse(spec)
    if prefix == "run":
        return Path(name).expanduser().resolve().name
    return name.rpartition(":")[2].rpartition("/")[2]


def _tell(chosen: ModelChoice, scope: Scope, out: Path, format: str, checked: Checked, json: bool) -> None:
    size = out.stat().st_size
    canvas = "any size" if checked.canvas is None else "x".join(map(str, checked.canvas))
    if json:
        emit(
            {
                "model": chosen.model,
                "file": out,
                "format": format,
                "bytes": size,
                "canvas": checked.canvas,
                "dtype": checked.dtype,
                "checked": {"images": checked.images, "largest_difference": checked.difference},
            }
        )
    else:
        difference = f"{checked.difference:.1g}".replace("e-0", "e-")
        verdict = f"checked on {counted(checked.images, 'image')}: largest difference {difference}"
        say(f"{out}: {canvas}, {checked.dtype}, {bytes_in_words(size)}; {verdict}")
    if checked.canvas != scope.classifier.framing.size:
        note(f"{out} takes {canvas} alone: height and width could not be left open; --size sets them")
