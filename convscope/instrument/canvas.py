"""Which sizes a network takes: many flatten, or assert, and break on the first photo of another size."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from convscope.errors import ModelError, first_line, out_of_memory
from convscope.instrument.state import undisturbed
from convscope.models.classifier import Classifier

REFUSALS = (RuntimeError, ValueError, AssertionError)  # of torch and of networks, for a size that they do not take
CURE = "load it with the size that it takes, size= or --size"


@contextmanager
def on_canvas(classifier: Classifier, size: tuple[int, int] | None = None, cure: str = CURE) -> Iterator[None]:
    """A network that does not run on a size is said to; by default on its own, or the usual one where it has none."""
    try:
        yield
    except REFUSALS as error:
        if out_of_memory(error):
            raise
        height, width = size or classifier.canvas
        raise ModelError(
            f"{classifier.name} fails on an input of {height}x{width} ({first_line(error)}): {cure}"
        ) from error


def check_canvas(classifier: Classifier, size: tuple[int, int] | None = None, cure: str = CURE) -> None:
    """ModelError where the network does not run on a size; by default on its own."""
    with on_canvas(classifier, size, cure), undisturbed(classifier, grad=False):
        classifier(classifier.blank(size))
