"""Settings of methods and studies: the fields of a frozen dataclass, each with a line for a user.

Command lines and forms are derived from them; values may come as text.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field, fields
from typing import Annotated, Any, TypeAlias, TypeVar

from pydantic import BeforeValidator, TypeAdapter, ValidationError

from convscope.errors import UsageError, unknown

T = TypeVar("T")


def setting(*, default: Any, help: str, choices: tuple[str, ...] = ()) -> Any:
    """A field of settings: its default, one line for a user, and the words it may take."""
    return field(default=default, metadata={"help": help, "choices": choices})


def _parted(value: Any) -> Any:
    """The parts of a text with commas; what is no sequence is the only part."""
    if isinstance(value, str):
        return tuple(part.strip() for part in value.split(",") if part.strip())
    return value if isinstance(value, (list, tuple)) else (value,)


Words: TypeAlias = Annotated[tuple[str, ...], BeforeValidator(_parted)]
Counts: TypeAlias = Annotated[tuple[int, ...], BeforeValidator(_parted)]
Reals: TypeAlias = Annotated[tuple[float, ...], BeforeValidator(_parted)]


@dataclass(frozen=True)
class SettingInfo:
    """A setting as a command line or a form shows it."""

    name: str
    type: str
    default: Any
    help: str
    choices: tuple[str, ...]


def settings_of(cls: type[Any]) -> list[SettingInfo]:
    """What may be set, read off the dataclass."""
    return [
        SettingInfo(
            f.name,
            f.type if isinstance(f.type, str) else f.type.__name__,
            None if f.default is MISSING else f.default,
            f.metadata["help"],
            f.metadata["choices"],
        )
        for f in fields(cls)
    ]


def settled(cls: type[T], name: str, given: Mapping[str, Any], hint: str = "") -> T:
    """The settings of ``name`` with what is given, of which "none" stands for None.

    ``hint``: where they are explained. UsageError names what is wrong.
    """
    known = {f.name: f for f in fields(cls)}  # type: ignore[arg-type]
    for key, value in given.items():
        if key not in known:
            raise unknown(f"setting of {name}", key, known, hint)
        choices = known[key].metadata["choices"]
        if choices and value not in choices:
            raise UsageError(f"{name}: {key} is {value!r}, not one of {', '.join(choices)}")
    try:
        return TypeAdapter(cls).validate_python({k: None if v == "none" else v for k, v in given.items()})
    except ValidationError as error:
        problem = error.errors()[0]
        where = ".".join(map(str, problem["loc"][:1]))
        raise UsageError(f"{name}: {where} is {problem['input']!r}: {problem['msg'].lower()}") from None


def summary(cls: type[Any]) -> str:
    """The first line of a docstring: what it is, and of which paper."""
    return (cls.__doc__ or "").strip().splitlines()[0]
