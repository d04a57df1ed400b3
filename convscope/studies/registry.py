"""The registry of studies. A study is one frozen dataclass of settings in one file, registered under its name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import isfinite
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol, TypeVar, dataclass_transform

from convscope.errors import UsageError, unknown
from convscope.settings import setting, settled

if TYPE_CHECKING:
    from convscope.studies.result import Result
    from convscope.studies.subject import Album, DataSet

Of = Literal["photos", "data", "architecture"]


@dataclass(frozen=True)
class Traits:
    """What a study is of, and what it needs.

    ``of``: "photos" is a classifier and some photos, "data" a classifier and a labelled data set, "architecture" a data
    set on which networks are trained. ``paper``: where it is described. ``fewest``: photos that it needs at least.
    """

    of: Of
    paper: str
    fewest: int = 1


class PhotoStudy(Protocol):
    """Settings with a ``run`` over photos."""

    name: ClassVar[str]
    traits: ClassVar[Traits]

    def run(self, album: Album, seed: int = 0) -> Result: ...


class DataStudy(Protocol):
    """Settings with a ``run`` over a data set. What it trains goes into the set's folder, so that it can be resumed."""

    name: ClassVar[str]
    traits: ClassVar[Traits]

    def run(self, data: DataSet, seed: int = 0) -> Result: ...


STUDIES: dict[str, type[Any]] = {}
T = TypeVar("T", bound=type)


@dataclass_transform(frozen_default=True, field_specifiers=(setting,))
def register(name: str, of: Of, paper: str, *, fewest: int = 1) -> Callable[[T], T]:
    """Make a class a frozen dataclass and a study called ``name``."""

    def enter(cls: T) -> T:
        made: Any = dataclass(frozen=True)(cls)
        made.name = name
        made.traits = Traits(of, paper, fewest)
        STUDIES[name] = made
        return made

    return enter


def configure(name: str, settings: Mapping[str, Any] | None = None) -> Any:
    """A study by name with settings, which may come as text from a command line."""
    if name not in STUDIES:
        raise unknown("study", name, STUDIES)
    found = settled(STUDIES[name], name, settings or {}, f"`convscope study {name} --help` explains them")
    for key, value in vars(found).items():
        numbers = value if isinstance(value, tuple) else (value,)
        if any(isinstance(one, float) and not isfinite(one) for one in numbers):
            raise UsageError(f"{name}: {key} is {value}, a finite number is needed")
    return found
