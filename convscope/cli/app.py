"""The application: its global options and its commands, in the order in which help lists them."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer
from typer.core import TyperGroup

from convscope import __version__
from convscope.cli import (
    activations,
    allocator,
    atlas,
    atlas_diff,
    check,
    diagnose,
    evaluate,
    explain,
    export,
    filters,
    layers,
    methods,
    models,
    predict,
    study,
    train,
    unit,
    visualize,
)
from convscope.cli.options import grouped
from convscope.cli.output import say

if TYPE_CHECKING:
    from typer._click.core import Command, Context  # typer's own copy of click


class Commands(TyperGroup):
    """The commands. What a study's is made of is imported once it is called, not for the list of all."""

    def resolve_command(self, ctx: Context, args: list[str]) -> tuple[str | None, Command | None, list[str]]:
        name, command, rest = super().resolve_command(ctx, args)
        return name, study.command_of("diagnose") if name == "diagnose" else command, rest


@dataclass
class Invocation:
    """How convscope was called; what commands find in ``context.obj``."""

    args: Sequence[str]
    allocator: str = "default"

    @property
    def command(self) -> str:
        """The command as it can be pasted into a shell."""
        return shlex.join(["convscope", *self.args])


class Allocator(StrEnum):
    tuned = allocator.TUNED
    default = allocator.DEFAULT


app = typer.Typer(
    cls=Commands,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback(invoke_without_command=True)
def convscope(
    context: typer.Context,
    how: Annotated[
        Allocator, typer.Option("--allocator", envvar="CONVSCOPE_ALLOCATOR", help=allocator.HELP)
    ] = Allocator.tuned,
    version: Annotated[bool, typer.Option("--version", help="The version, and what it runs on.")] = False,
) -> None:
    """See what convolutional networks learned: one command from a model and a photo to a report."""
    context.obj.allocator = allocator.apply(how.value)
    if version:
        for line in versions(context.obj.allocator):
            say(line)
    elif context.invoked_subcommand is None:
        typer.echo(context.get_help())


def versions(allocation: str) -> list[str]:
    """What runs here. Nothing is imported for it."""
    import platform
    from importlib.metadata import PackageNotFoundError, version

    lines = [f"convscope {__version__}", f"python {platform.python_version()}"]
    for package in ("torch", "torchvision", "timm"):
        try:
            lines.append(f"{package} {version(package)}")
        except PackageNotFoundError:
            lines.append(f"{package} is not installed")
    return [*lines, f"allocator {allocation}"]


for command in (
    check.check,
    train.train,
    evaluate.evaluate,
    explain.explain,
    visualize.visualize,
    atlas.atlas,
    unit.unit,
    atlas_diff.atlas_diff,
    predict.predict,
    export.export,
    layers.layers,
    activations.activations,
    filters.filters,
    methods.methods,
    models.models,
):
    app.command()(grouped(command))
app.command()(diagnose.diagnose)
several = typer.Typer(cls=study.Studies, context_settings={"help_option_names": ["-h", "--help"]})
several.callback(invoke_without_command=True)(study.studies)
app.add_typer(several, name="study")
