"""From what a user names to a study's result."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor

from convscope.data.sources import SourceOptions
from convscope.errors import ImageError, UsageError, unknown
from convscope.images.frame import Placement
from convscope.images.given import Photos, Source, canvases, joined, several
from convscope.images.read import Photo, find_photos, read_photo
from convscope.models.classifier import Classifier
from convscope.studies.registry import STUDIES, configure
from convscope.studies.result import RESULT, Result
from convscope.studies.subject import Album, DataSet, drawn
from convscope.types import Images

KINDS = ("csv", "png", "svg", "json", "html")  # of files that a result has
SAMPLE = 100  # photos, at most, where nobody says
SMALL = 256  # pixels: photos themselves are not looked at again, and many would fill the memory


def study(
    classifier: Classifier,
    name: str,
    subject: Photos,
    settings: Mapping[str, Any],
    *,
    label: int | str | None = None,
    sample: int | None = SAMPLE,
    background: str = "white",
    out: str | Path | None = None,
    options: Mapping[str, Any] | None = None,
    workers: int | None = None,
    model: Mapping[str, Any] | None = None,
    seed: int = 0,
) -> Result:
    """A study of photos, by ``label``, ``sample`` and ``background``; or of a data set, by ``options`` and ``workers``.

    ``model``: how the classifier was loaded. The result is written to ``out``, where that is given; a study of a data
    set always has a folder.
    """
    if name not in STUDIES:
        raise unknown("study", name, STUDIES)
    kind = STUDIES[name].traits.of
    if kind == "architecture":
        raise UsageError(f"{name} trains networks from nothing: convscope study {name} DATA --model MODEL")
    if kind == "photos":
        _refuse(f"{name} is a study of photos", options=options, workers=workers)
        study = configure(name, settings)
        if out is not None:
            check_free(Path(out), name)
        found = _of_photos(classifier, study, subject, seed, label=label, sample=sample, background=background)
        if out is not None:
            found.save(out)
        return found
    _refuse(f"{name} is a study of a data set", label=label, sample=None if sample == SAMPLE else sample)
    if not isinstance(subject, (str, Path)):
        raise UsageError(f"{name} is a study of a data set: name a folder or list of photos, or a set")
    machine = {"workers": workers, "device": classifier.device}
    data = _data(name, subject, out, model or {}, options, machine, classifier)
    return _of_data(configure(name, settings), data, seed)


def _refuse(why: str, **given: Any) -> None:
    if meant := [name for name, value in given.items() if value is not None and value != {}]:
        raise UsageError(f"{why}, which takes no {' and no '.join(meant)}")


def study_architecture(
    name: str,
    source: str | Path,
    model: str,
    *,
    out: str | Path | None = None,
    options: Mapping[str, Any] | None = None,
    machine: Mapping[str, Any] | None = None,
    seed: int = 0,
    **settings: Any,
) -> Result:
    """A study that trains networks of an architecture, named as for ``convscope.load``, from nothing."""
    study = configure(name, settings)
    if study.traits.of != "architecture":
        raise UsageError(f"{name} is a study of a model: convscope.load(...).study({name!r}, ...)")
    return _of_data(study, _data(name, source, out, {"spec": model}, options, machine or {}), seed)


def _of_photos(
    classifier: Classifier,
    study: Any,
    photos: Photos,
    seed: int,
    *,
    label: int | str | None,
    sample: int | None,
    background: str,
) -> Result:
    check_seed(seed)
    if sample is not None and sample < 1:
        raise UsageError(f"sample is at least 1, got {sample}")
    chosen, total = _drawn(photos, sample, seed)  # before any is read
    fewer = sample is not None and sample < total
    remarks = [f"{sample} of {total:,} photos, drawn at random (seed {seed})"] if fewer else []
    images, seen, refused = _readable(chosen, classifier, background)
    remarks += [f"left out: {reason}" for reason in refused]
    if len(images) < study.traits.fewest:
        broken = f"; {refused[0]}" if refused else ""
        raise UsageError(
            f"{study.name} compares photos: give at least {study.traits.fewest}, got {len(images)}{broken}"
        )
    album = Album.of(classifier, images.to(classifier.device), seen, label, remarks)
    _ = album.probabilities  # a network that gives none is refused now
    found: Result = study.run(album, seed)
    return found


def _readable(
    photos: Photos, classifier: Classifier, background: str
) -> tuple[Images, list[tuple[Photo, Placement]], list[str]]:
    """The canvases of the photos that can be read, their photos in that size, and why the others cannot."""
    how = classifier.framing, classifier.channels, background
    sources = [] if isinstance(photos, Tensor) else [one for one in several(photos) if not isinstance(one, Tensor)]
    if not sources or len(sources) < len(several(photos)):  # tensors are canvases already
        return *canvases(photos, *how), []
    found, names, refused = [], [], list[str]()
    seen: list[tuple[Photo, Placement]] = []
    for number, source in enumerate(sources, start=1):
        name = None if isinstance(source, (str, Path, Photo)) else f"photo {number}"
        try:
            image, [(photo, placement)] = canvases(read_photo(source, background=background, name=name), *how)
        except ImageError as error:  # of many photos one may be broken
            refused.append(str(error))
            continue
        found.append(image)
        names.append(photo.name)
        seen.append((replace(photo, image=photo.image.reduce(max(1, max(photo.image.size) // SMALL))), placement))
    if not found:
        raise ImageError(refused[0])
    return joined(found, names), seen, refused


def _data(
    name: str,
    source: str | Path,
    out: str | Path | None,
    model: Mapping[str, Any],
    options: Mapping[str, Any] | None,
    machine: Mapping[str, Any],
    classifier: Classifier | None = None,
) -> DataSet:
    SourceOptions.of(options or {})  # what is wrong with them is said now
    folder = Path(out) if out is not None else Path("studies") / name
    return DataSet(str(source), folder, model, classifier, options or {}, machine)


def check_seed(seed: int) -> None:
    if seed < 0:
        raise UsageError(f"a seed is 0 or more, got {seed}")


def check_free(folder: Path, name: str) -> None:
    """Refuse a folder that holds the result of another study, with which it would be mixed, or files of someone's own,
    which might be replaced."""
    try:
        there = json.loads((folder / RESULT).read_text("utf-8"))["study"]
    except (OSError, ValueError, TypeError, KeyError):
        own = [file for kind in KINDS for file in folder.glob(f"*.{kind}")]
        if own:
            raise UsageError(f"{folder} holds files of yours, such as {own[0].name}: choose another folder") from None
        return
    if there != name:
        raise UsageError(f"{folder} holds the result of the study {there}: choose another folder")


def _of_data(study: Any, data: DataSet, seed: int) -> Result:
    check_seed(seed)
    check_free(data.folder, study.name)
    found: Result = study.run(data, seed)
    found.save(data.folder)
    return found


def _drawn(photos: Photos, sample: int | None, seed: int) -> tuple[Photos, int]:
    """The photos that are studied, and how many there were."""
    if isinstance(photos, Tensor):
        rows = drawn(len(photos), sample, seed) if photos.ndim == 4 else None
        return (photos if rows is None else photos[rows.tolist()]), len(photos)
    every: list[Source] = []
    for source in several(photos):
        every += find_photos([source]) if isinstance(source, (str, Path)) else [source]
    return [every[row] for row in drawn(len(every), sample, seed)], len(every)
