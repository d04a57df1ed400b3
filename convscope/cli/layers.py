"""``convscope layers``: the table of a network's layers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from convscope.cli.options import Json, ModelChoice
from convscope.cli.output import emit, say, table

if TYPE_CHECKING:
    from convscope.instrument.layers import LayerRow

HEAD = ("layer", "type", "output", "parameters", "receptive field", "stride")
NUMBERS = ("output", "parameters", "receptive field", "stride")
STATUSES = {"whole": "whole input", "unknown": "unknown"}


def layers(
    chosen: ModelChoice,
    functions: Annotated[
        bool, typer.Option("--functions", help="Show functions called in forward too; they are layers as well.")
    ] = False,
    json: Json = False,
) -> None:
    """Every layer: path, type, output shape, parameters, receptive field and stride. No weights are fetched."""
    from convscope.cli.photos import explained_size

    scope = chosen.open(structure_only=True)
    with explained_size(scope):
        rows = scope.layers(functions=functions)
    total = sum(parameter.numel() for parameter in scope.classifier.network.parameters())
    size = tuple(scope.blank().shape[-2:])
    if json:
        emit({"model": chosen.model, "input": size, "parameters": total, "layers": [_about(row) for row in rows]})
        return
    table(HEAD, [_cells(row) for row in rows], right=NUMBERS)
    say(f"\n{total:,} parameters; shapes and fields for an input of {_by(size)}")


def _cells(row: LayerRow) -> tuple[str, ...]:
    shape = "" if row.shape is None else _by(row.shape)
    parameters = f"{row.parameters:,}" if row.parameters else ""
    if row.field is None:
        return row.address or "(the network)", row.kind, shape, parameters, "", ""
    field = STATUSES.get(row.field.status, _by(row.field.size))
    stride = "" if row.field.stride is None else _by(row.field.stride)
    return row.address or "(the network)", row.kind, shape, parameters, field, stride


def _about(row: LayerRow) -> dict[str, Any]:
    field = row.field
    return {
        "layer": row.address,
        "type": row.kind,
        "output": row.shape,
        "parameters": row.parameters,
        "receptive_field": None
        if field is None
        else {"status": field.status, "size": field.size, "stride": field.stride},
    }


def _by(sizes: tuple[int, ...]) -> str:
    return "x".join(map(str, sizes))
