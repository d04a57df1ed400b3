"""The registry of methods. A method is one frozen dataclass of settings in one file, registered under its name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import MISSING, dataclass, field, fields
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol, TypeVar, dataclass_transform

from pydantic import TypeAdapter, ValidationError

from convscope.errors import UsageError, unknown

if TYPE_CHECKING:
    from convscope.instrument.target import Target
    from convscope.methods.explanation import Explanation
    from convscope.models.classifier import Classifier
    from convscope.types import Images

Kind = Literal["map", "pixels", "features", "weights"]
Sign = Literal["signed", "positive", "relative"]  # relative: only differences within a map mean something


@dataclass(frozen=True)
class Traits:
    """What a method promises: the shape of ``raw`` and its sign.

    ``kind``: "map" is "b h w" and "pixels" is "b c h w", both on the input's canvas; "features" is "b k fh fw", maps of
    a layer; "weights" is "n c kh kw", filters. ``targeted``: the result depends on the target. ``costly``: hundreds of
    forward passes an image. ``local``: a neuron is explained from its receptive field alone, and zero outside of it.
    """

    kind: Kind
    sign: Sign
    targeted: bool = True
    costly: bool = False
    local: bool = False


class Method(Protocol):
    """Settings with a ``run``. Image methods explain one target an image; their result is on the images' device."""

    name: ClassVar[str]
    traits: ClassVar[Traits]

    def run(self, classifier: Classifier, images: Images, target: Target) -> Explanation: ...


METHODS: dict[str, type[Any]] = {}
T = TypeVar("T", bound=type)


def setting(*, default: Any, help: str, choices: tuple[str, ...] = ()) -> Any:
    """A field of a method: its default, one line for a user, and the words it may take."""
    return field(default=default, metadata={"help": help, "choices": choices})


@dataclass_transform(frozen_default=True, field_specifiers=(setting,))
def register(
    name: str, kind: Kind, sign: Sign, *, targeted: bool = True, costly: bool = False, local: bool = False
) -> Callable[[T], T]:
    """Make a class a frozen dataclass and a method called ``name``."""

    def enter(cls: T) -> T:
        made: Any = dataclass(frozen=True)(cls)
        made.name = name
        made.traits = Traits(kind, sign, targeted, costly, local)
        METHODS[name] = made
        return made

    return enter


def configure(name: str, settings: Mapping[str, Any] | None = None) -> Any:
    """A method by name with settings, which may come as text from a command line."""
    if name not in METHODS:
        raise unknown("method", name, METHODS)
    cls, settings = METHODS[name], dict(settings or {})
    known = {f.name: f for f in fields(cls)}
    for key, value in settings.items():
        if key not in known:
            raise unknown(f"setting of {name}", key, known, "`convscope methods NAME` explains them")
        choices = known[key].metadata["choices"]
        if choices and value not in choices:
            raise UsageError(f"{name}: {key} is {value!r}, not one of {', '.join(choices)}")
    try:
        return TypeAdapter(cls).validate_python({k: None if v == "none" else v for k, v in settings.items()})
    except ValidationError as error:
        problem = error.errors()[0]
        where = ".".join(map(str, problem["loc"][:1]))
        raise UsageError(f"{name}: {where} is {problem['input']!r}: {problem['msg'].lower()}") from None


@dataclass(frozen=True)
class SettingInfo:
    """A setting as a command line or a form shows it."""

    name: str
    type: str
    default: Any
    help: str
    choices: tuple[str, ...]


def settings_of(cls: type[Any]) -> list[SettingInfo]:
    """A method's settings, read off its dataclass."""
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


def summary(cls: type[Any]) -> str:
    """The first line of a method's docstring: its name and paper."""
    return (cls.__doc__ or "").strip().splitlines()[0]
