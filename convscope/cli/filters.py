"""``convscope filters``: the weights of a convolution as pictures."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from convscope.cli.options import Json, ModelChoice
from convscope.cli.output import emit, say


def filters(
    chosen: ModelChoice,
    layer: Annotated[
        str,
        typer.Option(help="A convolution, or filters of it (features.0:0-15); first is the one that sees the pixels."),
    ] = "first",
    out: Annotated[
        Path, typer.Option(metavar="FILE", help="A .png, .jpg or .webp picture, or the numbers as .safetensors or .pt.")
    ] = Path("filters.png"),
    json: Json = False,
) -> None:
    """The filters of a convolution on one sheet: the first layer in colour, deeper ones slice by slice."""
    from convscope.cli.files import placed

    scope = chosen.open()
    with placed(out) as draft:
        found = scope.filters(layer)
        found.save(draft)
    if json:
        emit({"model": chosen.model, "layer": found.layer, "shape": tuple(found.raw.shape), "file": out})
    else:
        count, inputs, height, width = found.raw.shape
        say(f"{out}: {count} filters of {inputs}x{height}x{width} at {found.layer}")
