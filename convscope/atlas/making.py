"""Making an atlas from a source of photos: the scan, the pass, and what pictures were asked for with it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from accelerate import Accelerator

from convscope.atlas.atlas import Atlas
from convscope.atlas.build import SECONDS, Build, build
from convscope.atlas.photos import whereabouts
from convscope.atlas.projections import projecting
from convscope.data.catalog import catalog
from convscope.data.loading import Photos
from convscope.data.sources import SourceOptions
from convscope.errors import Cancelled, ConvscopeError, UsageError
from convscope.images.read import printable
from convscope.instrument.canvas import on_canvas
from convscope.instrument.layers import resolve
from convscope.models.classifier import Classifier
from convscope.parallel import led, most, on_own_device
from convscope.progress import cancelled


@dataclass(frozen=True)
class Wish:
    """What is wanted: layers (addresses, globs, aliases) with their ``top`` photos, and pictures to be made at once."""

    out: Path
    layers: Sequence[str] = ("@stages",)
    top: int = 9
    project: Sequence[str] = ()
    patterns: bool = False


def make_atlas(
    classifier: Classifier,
    source: str | Path,
    wish: Wish,
    loading: Mapping[str, Any] | None,
    options: Mapping[str, Any],
    background: str,
    workers: int | None = None,
    every: float = SECONDS,
) -> Atlas:
    """See ``Scope.atlas``. ``loading``: how the classifier can be loaded again, if it can."""
    if not isinstance(source, (str, Path)):
        raise UsageError(f"an atlas is of a source of photos, by its path or name, not of a {type(source).__name__}")
    if classifier.framing.size is None:
        raise UsageError(f"{classifier.name} takes photos of any size, which cannot be one batch: load it with a size")
    projecting(wish.project)
    with on_canvas(classifier):
        layers = layers_of(classifier, wish.layers)
    how = SourceOptions.of(options)
    with on_own_device(classifier, classifier.device) as accelerator:
        with led(accelerator):  # the others find the scan in the cache
            found = catalog(source, how)
        photos = Photos(found, classifier.framing, classifier.channels, background=background)
        told = {
            **whereabouts(photos, how),
            "loading": loading,
            "mean": list(classifier.mean),
            "std": list(classifier.std),
            "projected": list(wish.project),
            "refused": [[printable(one.name), printable(one.reason)] for one in found.refused],
        }
        build(Build(classifier, photos, layers, wish.out, wish.top, told), workers=workers, every=every)
        atlas = Atlas(wish.out, classifier)
        _draw(atlas, wish, accelerator)
    return atlas


def _draw(atlas: Atlas, wish: Wish, accelerator: Accelerator) -> None:
    """The pictures that were asked for. None of the processes is left waiting for one that failed."""
    failed: ConvscopeError | None = None
    try:
        if wish.project:
            atlas.project(wish.project, share=(accelerator.process_index, accelerator.num_processes))
        if wish.patterns and accelerator.is_main_process:
            atlas.patterns()
    except ConvscopeError as error:
        failed = error
    if most(int(failed is not None), accelerator):
        raise failed or (Cancelled("interrupted") if cancelled() else ConvscopeError("another process failed"))


def layers_of(classifier: Classifier, wanted: Sequence[str]) -> tuple[str, ...]:
    """The addresses that are meant, each once."""
    found: dict[str, None] = {}
    for pattern in wanted:
        for address in resolve(classifier.network, pattern, classifier.blank(), through=classifier):
            if address.units is not None:
                raise UsageError(f"{pattern}: an atlas is of whole layers, leave out the units")
            found[address.key] = None
    return tuple(found)
