"""``convscope study``: one experiment a command, made of the study's settings; so is ``convscope diagnose``."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from convscope.cli.data import SOURCE, DataChoice
from convscope.cli.options import CANVAS, NETWORK, Background, Json, ModelChoice, Photos, grouped, option
from convscope.cli.output import counted, emit, note, say, table

if TYPE_CHECKING:
    from typer._click.core import Command, Context  # typer's own copy of click

    from convscope.studies.result import Result, Table

SHOWN = 40  # rows of the first table that a terminal is shown; the others are for files
WIDEST = 150  # characters of a table with all its columns
ASIDE = ("low", "high", "photos")  # how columns end that a wider one leaves to the file
SETTINGS = "Study"  # a panel of help
OWN = "own_"  # begins the parameters that are the study's own settings: some are called as a model's are
CANVAS_OPTION = "--canvas"  # the model's --size elsewhere; here that may be a study's own


class Studies(TyperGroup):
    """The studies there are; none is imported before one is asked for."""

    def list_commands(self, ctx: Context) -> list[str]:
        from convscope.studies import STUDIES

        return [name for name in STUDIES if name != "diagnose"]

    def get_command(self, ctx: Context, cmd_name: str) -> Command | None:
        from convscope.errors import unknown
        from convscope.studies import STUDIES

        if cmd_name not in STUDIES:
            raise unknown("study", cmd_name, STUDIES)
        return command_of(cmd_name)


def studies(context: typer.Context) -> None:
    """Controlled experiments, each with its table, its figure and what it means: convscope study NAME --help."""
    if context.invoked_subcommand is None:
        say(context.get_help())


def command_of(name: str) -> Command:
    """The command of a study: its photos or data, an option for each of its settings, and where the result goes."""
    from convscope.studies import STUDIES

    one = typer.Typer(
        add_completion=False, rich_markup_mode="rich", context_settings={"help_option_names": ["-h", "--help"]}
    )
    one.command(name)(_with_canvas(grouped(_function(name, STUDIES[name]))))
    found = typer.main.get_command(one)
    found.name = name
    return found


def _function(name: str, study: Any) -> Any:
    """A function with the parameters that the command has, as typer reads them."""
    from convscope.settings import settings_of

    ways: dict[str, Callable[..., None]] = {"photos": _of_photos, "data": _of_data, "architecture": _of_architecture}
    run = ways[study.traits.of]
    own = settings_of(study)

    def called(**given: Any) -> None:
        settings = {one.name: value for one in own if (value := given.pop(OWN + one.name)) is not None}
        run(name, settings, **given)

    parameters = [
        parameter
        for parameter in inspect.signature(run, eval_str=True).parameters.values()
        if parameter.name not in ("name", "settings")
    ]
    for setting in own:
        kind: Any = bool | None if setting.type == "bool" else str | None
        default = "" if setting.default is None else f" \\[default: {_typed(setting.default)}]"
        choices = f" ({', '.join(setting.choices)})" if setting.choices else ""
        flag = setting.name.replace("_", "-")
        shown = typer.Option(
            f"--{flag}/--no-{flag}" if setting.type == "bool" else f"--{flag}",
            metavar=None if setting.type == "bool" else METAVARS.get(setting.type.split(" ")[0], "TEXT"),
            help=f"{_plain(setting.help)}{choices}{default}",
            rich_help_panel=SETTINGS,
            show_default=False,
        )
        parameters.append(
            inspect.Parameter(
                OWN + setting.name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=Annotated[kind, shown]
            )
        )
    called.__name__, called.__doc__ = name, _help(study)
    called.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
        [parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY) for parameter in parameters]
    )
    called.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return called


def _with_canvas(command: Callable[..., Any]) -> Callable[..., Any]:
    """The command with the model's size under its other name."""
    signature = inspect.signature(command)
    names = [CANVAS_OPTION, *([] if f"{OWN}size" in signature.parameters else ["--size"])]  # as other commands call it
    canvas = option(NETWORK, "N|HxW", CANVAS, *names)
    parameters = [
        one.replace(annotation=Annotated[str | None, canvas]) if one.name == "size" else one
        for one in signature.parameters.values()
    ]
    command.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
    command.__annotations__ = {one.name: one.annotation for one in parameters}
    return command


METAVARS = {
    "int": "N",
    "float": "X",
    "str": "TEXT",
    "Counts": "N,N",
    "Reals": "X,X",
    "Words": "NAME,...",
    "Layers": "LAYERS",
}
HOW = "cpu, cuda, cuda:1 or mps; by default a GPU where there is one."
WHERE = "Where the result goes; by default studies/NAME."
Seed = Annotated[int, typer.Option(metavar="N", min=0, help="Of everything that is drawn at random.")]
Out = Annotated[
    Path | None,
    typer.Option("--out", "-o", metavar="DIR", help=WHERE, show_default=False),
]


def _of_photos(
    name: str,
    settings: dict[str, Any],
    chosen: ModelChoice,
    photos: Photos,
    label: Annotated[
        str | None,
        typer.Option(
            metavar="CLASS",
            help="The true class of all photos. By default that which a photo's folder is called, or else the most "
            "probable one.",
            show_default=False,
        ),
    ] = None,
    sample: Annotated[
        int, typer.Option(metavar="N", min=1, help="At most so many photos, drawn at random where there are more.")
    ] = 100,
    seed: Seed = 0,
    out: Out = None,
    background: Background = None,
    json: Json = False,
) -> None:
    from convscope.cli.files import staged
    from convscope.cli.photos import explained_size
    from convscope.progress import ConsoleProgress, reporting
    from convscope.studies import configure
    from convscope.studies.making import check_free
    from convscope.studies.result import earlier_files, forget

    configure(name, settings)  # what is wrong with a setting is said before a model is loaded
    place = out or Path("studies") / name
    check_free(place, name)
    scope = chosen.open(background=background, canvas_option=CANVAS_OPTION)
    earlier = earlier_files(place)
    with staged(place) as draft:
        with reporting(ConsoleProgress()), explained_size(scope, option=CANVAS_OPTION):
            found = scope.study(name, photos, label=label, sample=sample, seed=seed, **settings)
        names = [file.name for file in found.save(draft)]
    forget(place, earlier.difference(names))
    _tell(found, place, json)


def _of_data(
    name: str,
    settings: dict[str, Any],
    chosen: ModelChoice,
    data: Annotated[str, typer.Argument(metavar="DATA", help=SOURCE, show_default=False)],
    *,
    read: DataChoice,
    workers: Annotated[int | None, typer.Option(metavar="N", min=0, help="Processes that read photos.")] = None,
    seed: Seed = 0,
    out: Out = None,
    background: Background = None,
    json: Json = False,
) -> None:
    from convscope.studies import configure

    configure(name, settings)
    scope = chosen.open(background=background, canvas_option=CANVAS_OPTION)
    place = out or Path("studies") / name
    options = {key: value for key, value in read.settings().items() if value}
    with _going_on():
        found = scope.study(name, data, out=place, seed=seed, options=options, workers=workers, **settings)
    _tell(found, place, json)


def _of_architecture(
    name: str,
    settings: dict[str, Any],
    data: Annotated[str, typer.Argument(metavar="DATA", help=SOURCE, show_default=False)],
    *,
    read: DataChoice,
    model: Annotated[str, typer.Option(metavar="MODEL", help="The architecture, such as convscope:zfnet.")],
    workers: Annotated[int | None, typer.Option(metavar="N", min=0, help="Processes that read photos.")] = None,
    device: Annotated[
        str | None,
        typer.Option(metavar="DEVICE", help=HOW),
    ] = None,
    seed: Seed = 0,
    out: Out = None,
    json: Json = False,
) -> None:
    from convscope.cli.values import device_named
    from convscope.studies.making import study_architecture

    place = out or Path("studies") / name
    options = {key: value for key, value in read.settings().items() if value}
    machine = {"workers": workers, "device": device_named(device)}
    with _going_on():
        found = study_architecture(
            name, data, model, out=place, seed=seed, options=options, machine=machine, **settings
        )
    _tell(found, place, json)


@contextmanager
def _going_on() -> Iterator[None]:
    """A study that trains comes to an orderly end, and is told how to go on."""
    from convscope.cli.process import asked_to_end
    from convscope.errors import Cancelled
    from convscope.progress import ConsoleProgress, reporting

    with asked_to_end() as ended, reporting(ConsoleProgress(), cancel=ended):
        try:
            yield
        except Cancelled as end:
            if end.on:
                note(end.on)
            raise


def _tell(found: Result, place: Path, json: bool) -> None:
    if json:
        emit({**found.about(), "out": place})
    else:
        first = found.tables[0]
        shown = not first.told and len(first) <= SHOWN
        if shown:
            say(f"{first.about}:")
            _shown(first, place)
            say()
        for one in found.tables[shown:]:
            say(f"{one.about}: {counted(len(one), 'row')} in {place / one.name}.csv")
        say()
        for line in found.findings:
            say(line)
        say(f"\n{place / 'report.html'}")
    for line in found.notes:
        note(line)
    if found.faults:
        raise typer.Exit(1)


def _shown(one: Table, place: Path) -> None:
    """A table, without its intervals where it is too wide to be read with them."""
    names, texts = list(one.columns), one.texts()
    width = sum(2 + max(len(name), *(len(row[i]) for row in texts)) for i, name in enumerate(names)) if texts else 0
    kept = [i for i, name in enumerate(names) if width <= WIDEST or name.rpartition(" ")[2] not in ASIDE]
    table([names[i] for i in kept], [[row[i] for i in kept] for row in texts], right=one.numeric)
    if len(kept) < len(names):
        say(f"(with intervals in {place / one.name}.csv)")


def _plain(text: str) -> str:
    """Brackets are brackets, and no markup."""
    return text.replace("[", "\\[")


def _typed(value: Any) -> str:
    return (
        ",".join(map(str, value))
        if isinstance(value, tuple)
        else str(value).lower()
        if isinstance(value, bool)
        else str(value)
    )


def _help(study: type[Any]) -> str:
    """The docstring, its paragraphs not broken into lines."""
    text = (inspect.getdoc(study) or "").replace("``", "")
    return "\n\n".join(" ".join(part.split()) for part in text.split("\n\n"))
