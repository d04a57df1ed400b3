"""The registry of methods. A method is one frozen dataclass of settings in one file, registered under its name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol, TypeVar, dataclass_transform

from convscope.errors import unknown
from convscope.settings import setting, settled

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
    return settled(METHODS[name], name, settings or {}, "`convscope methods NAME` explains them")
