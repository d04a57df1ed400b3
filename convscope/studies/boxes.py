"""Boxes that a person drew on photos, of a JSON file or a dict, brought to the network's canvas.

Either what a photo shows, ``{"photo.jpg": [[top, left, bottom, right], ...]}``, or its parts by name,
``{"photo.jpg": {"right eye": [top, left, bottom, right]}}``, in pixels of the photo as it is seen (upright, before it
is resized), rows before columns; the last row and column are the first that are outside. A photo is named by its file,
or by the end of its path where files are called the same.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from pathlib import Path, PurePosixPath
from typing import Any, TypeAlias

from convscope.errors import UsageError, some
from convscope.images.frame import Placement
from convscope.studies.subject import Album

Box: TypeAlias = tuple[int, int, int, int]  # top, left, bottom, right on the canvas
Given: TypeAlias = str | Path | Mapping[str, Any]  # a file, or what such a file holds

SIMPLE = '{"photo.jpg": [[top, left, bottom, right]]}'
NAMED = '{"photo.jpg": {"right eye": [top, left, bottom, right]}}'


def boxes_of(album: Album, given: Given) -> tuple[list[tuple[Box, ...]], list[str]]:
    """Each photo's boxes on the canvas, none where it has none that the network sees, and what is to be said of them.

    ``given``: a JSON file, or what it would hold. UsageError in one line where that does not say what it should.
    """
    file = called(given)
    told_of, notes = _by_photo(album, given, SIMPLE)
    found: list[tuple[Box, ...]] = []
    unseen = 0
    for row, name in enumerate(album.names):
        told = told_of.get(row, [])
        if isinstance(told, dict) or not isinstance(told, list):
            raise UsageError(f"{file}: of {name} a list of boxes is expected, as in {SIMPLE}")
        each = [told] if told and not isinstance(told[0], list) else told  # one box needs no list around it
        placed = [_placed(album, row, box, f"{file}: {name}") for box in each]
        unseen += sum(box is None for box in placed)
        found.append(tuple(box for box in placed if box is not None))
    return found, [*notes, *_unseen(unseen)]


def parts_of(album: Album, given: Given) -> tuple[list[dict[str, Box]], list[str]]:
    """Each photo's named parts on the canvas, and what is to be said of them; as ``boxes_of`` otherwise."""
    file = called(given)
    told_of, notes = _by_photo(album, given, NAMED)
    found: list[dict[str, Box]] = []
    unseen = 0
    for row, name in enumerate(album.names):
        told = told_of.get(row, {})
        if not isinstance(told, dict):
            raise UsageError(f"{file}: of {name} named parts are expected, as in {NAMED}")
        placed = {part: _placed(album, row, box, f"{file}: {part} of {name}") for part, box in told.items()}
        unseen += sum(box is None for box in placed.values())
        found.append({part: box for part, box in placed.items() if box is not None})
    return found, [*notes, *_unseen(unseen)]


def called(given: Given) -> str:
    """How a message names where boxes come from."""
    return "the given dict" if isinstance(given, Mapping) else str(given)


def _by_photo(album: Album, given: Given, form: str) -> tuple[dict[int, Any], list[str]]:
    """What is said of each photo that is named, by the photo's row."""
    # As JSON would hold them: tuples are lists.
    told = json.loads(json.dumps(dict(given))) if isinstance(given, Mapping) else _read(given, form)
    file = called(given)
    found: dict[int, Any] = {}
    strange = []
    for name, value in told.items():
        rows = _rows(album, name)
        if len(rows) > 1:
            raise UsageError(f"{file}: {len(rows)} photos are called {name}: name them with their folders")
        if not rows:
            strange.append(name)
        elif rows[0] in found:
            raise UsageError(f"{file} names {album.names[rows[0]]} twice")
        else:
            found[rows[0]] = value
    if not found:
        raise UsageError(
            f"{file} names none of the photos: it has {some(list(told), 3) or 'no name'}, "
            f"the photos are {some(list(album.names), 3)}"
        )
    notes = [f"{Path(file).name} names photos that are not studied here: {some(strange, 3)}"] if strange else []
    return found, notes


def _read(file: str | Path, form: str) -> dict[str, Any]:
    try:
        told = json.loads(Path(file).read_text("utf-8-sig"), object_pairs_hook=_once)
    except FileNotFoundError:
        raise UsageError(f"there is no file of boxes {file}") from None
    except OSError as error:
        raise UsageError(f"{file} cannot be read: {error.strerror or error}") from None
    except _Twice as error:
        raise UsageError(f"{file} names {error} twice") from None
    except (ValueError, RecursionError) as error:  # of the JSON, or of the text's encoding
        where = f" (line {error.lineno})" if isinstance(error, json.JSONDecodeError) else ""
        raise UsageError(f"{file} is not JSON{where}: boxes are written as {form}") from None
    if not isinstance(told, dict):
        raise UsageError(f"{file} holds no names of photos: boxes are written as {form}")
    return told


class _Twice(Exception):
    pass


def _once(pairs: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in pairs:
        if name in found:
            raise _Twice(name)
        found[name] = value
    return found


def _rows(album: Album, name: str) -> list[int]:
    """The photos that a name means."""
    parts = PurePosixPath(name.replace("\\", "/")).parts
    exact = [row for row, known in enumerate(album.names) if known == name]
    if len(exact) == 1:
        return exact
    ends = [path.resolve().parts[-len(parts) :] if path is not None and parts else () for path in album.paths]
    return [row for row, end in enumerate(ends) if end and end == parts] or exact


def _placed(album: Album, row: int, box: Any, what: str) -> Box | None:
    """A box of the photo on the canvas; None where the network does not see it."""
    if (
        not isinstance(box, list)
        or len(box) != 4
        or not all(isinstance(side, (int, float)) and not isinstance(side, bool) for side in box)
        or not all(math.isfinite(side) for side in box)
    ):
        raise UsageError(f"{what}: a box is four numbers, [top, left, bottom, right], got {_short(box)}")
    top, left, bottom, right = box
    canvas = (int(album.images.shape[-2]), int(album.images.shape[-1]))
    placement = album.placements[row] if album.placements else Placement(canvas, canvas, 0, 0, canvas)
    height, width = placement.original
    if not (top < bottom and left < right):
        raise UsageError(f"{what}: the box {_short(box)} holds nothing: it is [top, left, bottom, right]")
    if top < 0 or left < 0 or bottom > height or right > width:
        raise UsageError(
            f"{what}: the box {_short(box)} reaches beyond the photo of {height} rows and {width} columns; "
            "it is [top, left, bottom, right]"
        )
    return placement.on_canvas(box)


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else f"{text[:59]}…"


def _unseen(count: int) -> list[str]:
    if not count:
        return []
    return [f"left out, lying outside of what the network sees of its photo: {count} box{'es' * (count > 1)}"]
