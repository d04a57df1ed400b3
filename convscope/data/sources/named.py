"""Sets that are known by name: scikit-learn's digits, scikit-image's faces, and torchvision's classification sets."""

from __future__ import annotations

import pickle
import sys
from collections.abc import Callable, Sequence
from contextlib import redirect_stdout
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from convscope.data.cache import cache_folder
from convscope.data.listing import Listing
from convscope.data.names import Names
from convscope.data.sets import TORCHVISION, Part
from convscope.data.sources.options import PLAIN, SourceOptions, by_index, listed
from convscope.data.store import Arrays, Files, Store
from convscope.errors import ConvscopeError, UsageError, unknown
from convscope.images.read import printable


def read_named(source: str, options: SourceOptions = PLAIN) -> Listing:
    """The set of this name. UsageError if there is none, or it is not here; ConvscopeError if it cannot be fetched."""
    if source not in SETS:
        raise unknown("set", source, SETS)
    return SETS[source](source, options)


def _module(source: str, module: str, package: str) -> Any:
    """A library's module, or one line that says how to get it."""
    try:
        return import_module(module)
    except ImportError:
        raise _needs(source, package) from None


def _needs(source: str, package: str) -> UsageError:
    return UsageError(f"{source} needs {package}: pip install {package}")


def _digits(source: str, options: SourceOptions) -> Listing:
    """scikit-learn's 1,797 handwritten digits of 8x8 pixels, whose 17 shades of grey are spread over 0 to 255."""
    digits = _module(source, "sklearn.datasets", "scikit-learn").load_digits()
    pixels = np.rint(digits.images * (255 / 16)).astype(np.uint8)
    words, notes = by_index(source, map(str, digits.target.tolist()), options)
    return listed(source, "set", Arrays(pixels, _numbered("digit", len(pixels))), words, options, remarks=notes)


def _faces(source: str, options: SourceOptions) -> Listing:
    """scikit-image's 100 faces and 100 other cuttings of photos, 25x25 and grey."""
    faces = _module(source, "skimage.data", "scikit-image").lfw_subset()
    pixels = np.rint(faces * 255).astype(np.uint8)
    words = ["face"] * 100 + ["no face"] * 100
    return listed(source, "set", Arrays(pixels, _numbered("cutting", len(pixels))), words, options)


def _numbered(what: str, count: int) -> Names:
    width = max(5, len(str(count - 1)))
    return Names.of(f"{what}-{i:0{width}d}" for i in range(count))


def _torchvision(name: str, source: str, options: SourceOptions) -> Listing:
    """A set of torchvision, its photos as they lie on disk or in memory, with the split its makers gave it."""
    entry = TORCHVISION[name]
    root = Path(options.root).expanduser() if options.root is not None else cache_folder("datasets")
    sets = [_opened(source, name, root, entry.folder, part.keywords, options.download) for part in entry.parts]
    labels = [_labels(source, one) for one in sets]
    names = _class_names(source, sets, labels)
    words, notes = by_index(source, [names[label] for part in labels for label in part], options)
    splits = [part.split for part, found in zip(entry.parts, labels, strict=True) for _ in found]
    store = _store(source, root, entry.parts, sets)
    if len(store) != len(words):
        raise ConvscopeError(f"{source}: {len(store):,} photos and {len(words):,} labels; download it again")
    classes = names if options.classes is None else None
    return listed(source, "set", store, words, options, splits=splits, remarks=notes, classes=classes)


def _opened(source: str, name: str, root: Path, folder: str, keywords: dict[str, Any], download: bool) -> Any:
    """A part of a set as torchvision's own object."""
    from torchvision import datasets

    expected = printable(root / folder)
    try:
        with redirect_stdout(sys.stderr):  # torchvision says there that it downloads; stdout is for results
            return getattr(datasets, name)(str(root), **keywords, download=download)
    except ImportError as error:
        raise _needs(source, (error.name or "scipy").split(".")[0]) from None
    except (OSError, EOFError, RuntimeError, ValueError, pickle.UnpicklingError) as error:
        reason = " ".join(str(error).split())[:160] or type(error).__name__
        if download:
            raise ConvscopeError(f"{source} could not be downloaded into {printable(root)}: {reason}") from None
        if not (root / folder).exists():
            reason = "no such folder"
        raise UsageError(
            f"{source} was not found in {expected}, or is damaged ({reason.removesuffix('.')}): say where it is with "
            "--root, or fetch it with --download"
        ) from None


def _first(holder: Any, names: Sequence[str]) -> Any:
    return next((getattr(holder, name) for name in names if hasattr(holder, name)), None)


def _labels(source: str, one: Any) -> list[int]:
    found = _first(one, ("targets", "labels", "_labels"))
    if found is None:
        samples = _first(one, ("samples", "_samples"))
        found = None if samples is None else [label for _, label in samples]
    labels = None if found is None else np.asarray(found)
    if labels is None or labels.ndim != 1 or labels.dtype.kind not in "iu" or (len(labels) and labels.min() < 0):
        raise ConvscopeError(f"{source}: this version of torchvision keeps its labels where they are not looked for")
    return labels.tolist()


def _class_names(source: str, sets: Sequence[Any], labels: Sequence[Sequence[int]]) -> tuple[str, ...]:
    """The names of classes in the order of the labels: the set's own, or their numbers."""
    count = 1 + max((label for part in labels for label in part), default=-1)
    own = {tuple(map(_name, found)) for one in sets if (found := getattr(one, "classes", None)) is not None}
    if not own:
        return tuple(map(str, range(count)))
    names = next(iter(own))
    if len(own) > 1 or len(names) < count or len(set(names)) < len(names):
        raise ConvscopeError(f"{source}: its parts do not agree on their classes; download it again")
    return names


def _name(found: Any) -> str:
    """A class's name, of which some sets have several."""
    return found if isinstance(found, str) else ", ".join(found)


def _store(source: str, root: Path, parts: Sequence[Part], sets: Sequence[Any]) -> Store:
    """Where the photos of a set are: in memory, or in files of their own."""
    if all(hasattr(getattr(one, "data", None), "shape") for one in sets):  # an array or a tensor
        pixels = [_pixels(np.asarray(one.data)) for one in sets]
        if {part.dtype for part in pixels} == {np.dtype(np.uint8)} and len({part.shape[1:] for part in pixels}) == 1:
            names = [
                name for part, found in zip(parts, pixels, strict=True)
                for name in _numbered(part.split or "image", len(found))
            ]  # fmt: skip
            return Arrays(np.concatenate(pixels), Names.of(names))
    files = [_files(one) for one in sets]
    if None in files:
        raise ConvscopeError(f"{source}: this version of torchvision keeps its photos where they are not looked for")
    start = f"{root}/"
    return Files(root, Names.of(str(file).removeprefix(start) for part in files for file in part or ()))


def _pixels(data: np.ndarray) -> np.ndarray:
    """Pixels "n h w" or "n h w 3"; some sets have them "n 3 h w"."""
    return data.transpose(0, 2, 3, 1) if data.ndim == 4 and data.shape[1] == 3 != data.shape[3] else data


def _files(one: Any) -> list[Any] | None:
    found = _first(one, ("_image_files", "_images"))
    if found is not None:
        return list(found)
    samples = _first(one, ("samples", "_samples"))
    if samples is None or not all(isinstance(path, str | Path) for path, _ in samples):
        return None
    return [path for path, _ in samples]


SETS: dict[str, Callable[[str, SourceOptions], Listing]] = {
    "digits": _digits,
    "lfw-subset": _faces,
    **{f"torchvision:{name}": partial(_torchvision, name) for name in TORCHVISION},
}
