"""The methods that a study compares, as a user names them, and what each makes of photos: one map a photo."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import fields, replace
from typing import Any, TypeVar

from torch import Tensor

from convscope.errors import Cancelled, ConvscopeError, UsageError, some, unknown
from convscope.instrument.target import Target
from convscope.methods import METHODS
from convscope.methods import configure as method_named
from convscope.models.classifier import Classifier
from convscope.progress import track
from convscope.types import Images

T = TypeVar("T")
ALL = "all"
METHODS_HELP = (
    "methods, with commas; all is every one that maps a photo, but those that take hundreds of passes a photo"
)
AVERAGING = ("steps", "samples")  # what methods that average gradients call their number
USUAL = (
    "grad-cam",
    "guided-grad-cam",
    "guided",
    "deconvnet",
    "gradient",
    "input-x-gradient",
    "integrated-gradients",
)


def methods_meant(words: Sequence[str], passes: int | None = None) -> tuple[list[Any], list[str]]:
    """The methods that words mean, each once with its usual settings, in the order they were named, and what is to be
    said of the choice.

    ``passes``: what a method that averages gradients takes at most, where so many maps are made that its usual number
    costs too much. "all" is every method that makes a map of a photo, less the costly ones, which have to be named:
    "all,rise". UsageError for what is unknown, or does not map a photo.
    """
    pictures = [name for name, method in METHODS.items() if method.traits.kind in ("map", "pixels")]
    found: dict[str, Any] = {}
    for word in words:
        if word == ALL:
            found.update({name: None for name in pictures if not METHODS[name].traits.costly and name not in found})
        elif word not in METHODS:
            raise unknown("method", word, [ALL, *METHODS], "`convscope methods` explains them")
        elif word not in pictures:
            raise UsageError(f"{word} does not make a map of a photo: compare others, such as {some(pictures, 3)}")
        else:
            found[word] = None
    if not found:
        raise UsageError("no method is named")
    left_out = [name for name in pictures if name not in found] if ALL in words else []
    notes = [f"left out for what they cost: {', '.join(left_out)}; who names them has them"] if left_out else []
    return [_with_passes(method_named(name), passes) for name in found], notes


def maps(method: Any, classifier: Classifier, images: Images, target: Target) -> Tensor:
    """What a method makes of images for their targets, as one map each, "b h w" in their dtype.

    A map stays as the method gave it: what is signed stays signed. Of pixel attributions "b c h w" it is the sum of
    magnitudes over channels, at least 0: what this house lays over a photo, less the smoothing. A method that knows no
    target (``traits.targeted``) makes the same of all.
    """
    return as_maps(method, attributions(method, classifier, images, target))


def attributions(method: Any, classifier: Classifier, images: Images, target: Target) -> Tensor:
    """What a method gives, "b h w" or "b c h w"."""
    found: Tensor = method.run(classifier, images, target).raw
    return found.detach()


def as_maps(method: Any, raw: Tensor) -> Tensor:
    """Attributions as ``maps`` gives them."""
    return raw.abs().sum(1) if method.traits.kind == "pixels" else raw


def as_signed_maps(method: Any, raw: Tensor) -> Tensor | None:
    """Attributions with their sign, of pixels the sum over channels; None of a method whose maps have no sign."""
    if method.traits.sign != "signed":
        return None
    return raw.sum(1) if method.traits.kind == "pixels" else raw


def all_maps(
    methods: Sequence[Any], classifier: Classifier, images: Images, target: Target
) -> tuple[dict[str, Tensor], list[str]]:
    """``maps`` of each method by its name, and what ``of_each`` says."""
    return of_each(methods, lambda method: maps(method, classifier, images, target))


def of_each(methods: Sequence[Any], make: Callable[[Any], T]) -> tuple[dict[str, T], list[str]]:
    """``make`` of each method by its name, without those that cannot look at the network, and a line on each of these.

    Where none can, the first one's error.
    """
    found: dict[str, T] = {}
    refusals: dict[str, ConvscopeError] = {}
    for method in track(methods, "methods"):
        try:
            found[method.name] = make(method)
        except Cancelled:
            raise
        except ConvscopeError as error:
            refusals[method.name] = error
    if not found:
        raise next(iter(refusals.values()))
    return found, [f"left out: {name}: {error}" for name, error in refusals.items()]


def _with_passes(method: Any, passes: int | None) -> Any:
    fewer = {
        one.name: passes
        for one in fields(method)
        if passes is not None and one.name in AVERAGING and getattr(method, one.name) > passes
    }
    return replace(method, **fewer)
