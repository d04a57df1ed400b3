"""``convscope methods``: what there is to explain with."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from convscope.cli.options import Json
from convscope.cli.output import emit, say, table


def methods(
    name: Annotated[
        str | None, typer.Argument(metavar="NAME", help="A method, to see its settings.", show_default=False)
    ] = None,
    json: Json = False,
) -> None:
    """The methods; with a NAME its settings, their defaults and what they mean."""
    from convscope.errors import unknown
    from convscope.methods import METHODS

    if name is not None and name not in METHODS:
        raise unknown("method", name, METHODS, "`convscope methods` lists them")
    if name is not None:
        _one(name, METHODS[name], json)
    elif json:
        emit([_about(key, cls) for key, cls in METHODS.items()])
    else:
        table(("method", "kind", "what it is"), [(key, _kind(cls), _summary(cls)) for key, cls in METHODS.items()])


def _one(name: str, cls: type[Any], json: bool) -> None:
    from convscope.settings import settings_of

    settings = settings_of(cls)
    if json:
        emit({**_about(name, cls), "settings": [vars(setting) for setting in settings]})
        return
    say(f"{name} ({_kind(cls)})\n\n{_docstring(cls)}\n")
    rows = [
        (
            s.name,
            "none" if s.default is None else str(s.default),
            s.help + (f" ({', '.join(s.choices)})" if s.choices else ""),
        )
        for s in settings
    ]
    if rows:
        table(("setting", "default", "what it does"), rows)
        say(f"\nSet with --set {name}.{rows[0][0]}=VALUE")
    else:
        say("It has no settings.")


def _about(name: str, cls: type[Any]) -> dict[str, Any]:
    return {"name": name, "summary": _summary(cls), **vars(cls.traits)}


def _kind(cls: type[Any]) -> str:
    return f"{cls.traits.sign} {cls.traits.kind}" + (", slow" if cls.traits.costly else "")


def _summary(cls: type[Any]) -> str:
    from convscope.settings import summary

    return summary(cls)


def _docstring(cls: type[Any]) -> str:
    import inspect

    return (inspect.getdoc(cls) or "").replace("``", "")
