"""Options that commands share, each defined once."""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable
from dataclasses import MISSING, dataclass, fields, is_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_type_hints

import typer

from convscope.cli.output import note, results_only
from convscope.cli.values import assignment, canvas, device_named, numbers

if TYPE_CHECKING:
    from convscope.scope import Scope

NETWORK = "Model"  # a panel of help


def option(panel: str, metavar: str | None, help: str, *names: str, min: float | None = None) -> Any:
    """An option with a value, in a panel of help."""
    return typer.Option(*names, metavar=metavar, help=help, rich_help_panel=panel, show_default=False, min=min)


def flag(panel: str, help: str, *names: str) -> Any:
    """An option without a value."""
    return typer.Option(*names, help=help, rich_help_panel=panel, show_default=False)


MODEL = "Such as convscope:efficientnet_lite0, torchvision:vgg16 or net.py:Net; `convscope models` lists the sources."
Model = Annotated[str, typer.Argument(metavar="MODEL", help=MODEL, show_default=False)]
Weights = Annotated[
    Path | None, option(NETWORK, "FILE", "Checkpoint to load: .safetensors, or PyTorch's with tensors only.")
]
Classes = Annotated[Path | None, option(NETWORK, "FILE", "Class names, one a line or JSON; or imagenet.")]
Mean = Annotated[str | None, option(NETWORK, "A,B,C", "Mean of the normalisation, of pixels in 0 to 1.")]
Std = Annotated[str | None, option(NETWORK, "A,B,C", "Standard deviation of the normalisation.")]
CANVAS = "The network's canvas, such as 224 or 96x128."
Size = Annotated[str | None, option(NETWORK, "N|HxW", CANVAS)]
Options = Annotated[
    list[str] | None,
    option(NETWORK, "NAME=VALUE", "Option of the architecture or factory; may be repeated.", "--option"),
]
Device = Annotated[
    str | None, option(NETWORK, "DEVICE", "cpu, cuda, cuda:1 or mps; by default a GPU where there is one.")
]

PHOTOS = "Photos, folders of photos, or quoted globs."
Photos = Annotated[list[str], typer.Argument(metavar="PHOTOS...", help=PHOTOS, show_default=False)]
Background = Annotated[
    str | None,
    typer.Option(
        metavar="COLOUR",
        help="What lies behind transparent photos; by default as in training, else white.",
        show_default=False,
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON, and nothing else on stdout.")]


@dataclass(frozen=True, kw_only=True)
class ModelChoice:
    """Which model, and how it sees: the options of every command that opens one."""

    model: Model
    weights: Weights = None
    classes: Classes = None
    mean: Mean = None
    std: Std = None
    size: Size = None
    options: Options = None
    device: Device = None

    def open(
        self, *, background: str | None = None, structure_only: bool = False, canvas_option: str = "--size"
    ) -> Scope:
        """The Scope over it. ``structure_only``: for its layers alone; no weights are fetched. ``canvas_option``: what
        the option of ``size`` is called."""
        mean, std, size = numbers("--mean", self.mean), numbers("--std", self.std), canvas(self.size, canvas_option)
        options = dict(assignment("--option", text) for text in self.options or ())
        from convscope.images.convert import paper_colour
        from convscope.models.registry import parse
        from convscope.scope import load

        if background is not None:
            paper_colour(background)  # refused now rather than with the first photo
        found = load(
            self.model,
            weights=self.weights,
            classes=self.classes,
            mean=mean,
            std=std,
            size=size,
            device=device_named(self.device),
            structure_only=structure_only,
            options=options,
            background=background,
        )
        if parse(self.model)[0] in ("file", "module") and not structure_only:
            assumed = {
                "--weights": "the network is used as its factory made it" if self.weights is None else "",
                "--mean and --std": "pixels go in from 0 to 1" if mean is std is None else "",
                canvas_option: "photos go in as large as they are" if size is None else "",
            }
            told = [f"no {option}, so {what}" for option, what in assumed.items() if what]
            if told and int(os.environ.get("RANK") or 0) == 0:  # of several processes one speaks
                note(f"{self.model}: {'; '.join(told)}")
        return found


def grouped(command: Callable[..., Any]) -> Callable[..., Any]:
    """The command with each parameter that is a dataclass of options replaced by its fields, as typer wants them.

    What it prints by other ways than ``say`` and ``emit`` goes to stderr.
    """
    groups: dict[str, type[Any]] = {}
    parameters = []
    for parameter in inspect.signature(command, eval_str=True).parameters.values():
        group = parameter.annotation
        if not is_dataclass(group):
            parameters.append(parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY))
            continue
        groups[parameter.name] = group  # type: ignore[assignment]
        hints = get_type_hints(group, include_extras=True)
        for field in fields(group):
            default = inspect.Parameter.empty if field.default is MISSING else field.default
            parameters.append(
                inspect.Parameter(
                    field.name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=hints[field.name]
                )
            )

    def called(**given: Any) -> Any:
        for name, group in groups.items():
            given[name] = group(**{field.name: given.pop(field.name) for field in fields(group)})
        with results_only():
            return command(**given)

    called.__name__, called.__doc__ = command.__name__, command.__doc__
    called.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    called.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return called
