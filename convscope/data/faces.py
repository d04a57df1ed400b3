"""Faces: a cropped copy of a data set of people, so that a network learns the faces and not the rooms around them."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import unicodedata
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePath
from typing import Any, Literal, NamedTuple

from PIL import Image

from convscope.data.cache import key_of, replacing
from convscope.data.cascade import Face, check_margin, crop_face, find_faces
from convscope.data.listing import NONE, SPLITS, TRAIN, WORDS, Listing, Refused
from convscope.data.scan import cores
from convscope.data.store import Files, Store
from convscope.errors import ConvscopeError, UsageError
from convscope.images.read import printable
from convscope.progress import track

__all__ = ["Face", "Outcome", "Report", "crop_face", "crop_faces", "find_faces"]

MARKER, LOG, REPORT = ".convscope-faces.json", ".convscope-faces.jsonl", "report.csv"
CROPPED, NO_FACE, SEVERAL, BROKEN = "cropped", "none", "several", "broken"


@dataclass(frozen=True)
class Report:
    """What became of the photos, by their names. ``kept``: how many were done by an earlier run already."""

    out: Path
    photos: int
    cropped: int
    kept: int
    none: tuple[str, ...]
    several: tuple[str, ...]  # cropped to the largest face, or skipped
    broken: tuple[Refused, ...]


class Outcome(NamedTuple):
    """What became of one photo. ``stamp``: of the photo, as it was; ``copy``: where its crop belongs, below ``out``."""

    photo: str
    stamp: tuple[int, int]
    copy: str
    faces: int
    box: Face | None
    verdict: str
    reason: str = ""


def crop_faces(
    listing: Listing,
    out: Path,
    *,
    margin: float = 0.3,
    several: Literal["largest", "skip"] = "largest",
    quality: int = 95,
    smallest: float = 0.1,
) -> Report:
    """Write a copy of a data set that is cropped to the faces: ``out/class/name.jpg``, below train/, val/ and test/ if
    the listing comes split. Photos without a face are left out; ``out/report.csv`` tells of each.

    ``several``: of photos with several faces the largest is taken, or they are left out. When ``out`` is an earlier
    run's, photos that did not change since are not opened again, and crops of photos that are gone are removed.

    Raises UsageError if ``out`` is not empty and not by this function with these settings, or is inside the source.
    """
    check_margin(margin)
    if several not in ("largest", "skip"):
        raise UsageError(f"several is 'largest' or 'skip': got {several!r}")
    if not 1 <= quality <= 100:
        raise UsageError(f"quality is from 1 to 100: got {quality}")
    find_faces(Image.new("L", (1, 1)), smallest=smallest)  # fails now rather than in a thread, if it must
    store = listing.store
    settings = {
        "source": os.path.abspath(listing.source),
        "margin": margin,
        "several": several,
        "quality": quality,
        "smallest": smallest,
    }
    copies = _copies(listing)
    stamps = [(int(size), int(changed)) for size, changed in store.stamps()]
    try:
        _claim(listing, out, settings)
        done = _recall(out, store, stamps, copies)
        work = partial(_crop, store, stamps, copies, out, settings)
        todo = [row for row in range(len(store)) if copies[row] not in done]
        with (out / LOG).open("a", encoding="ascii") as log, closing(_in_parallel(work, todo)) as found:
            for row, outcome in zip(todo, found, strict=True):
                done[copies[row]] = outcome
                log.write(json.dumps(outcome) + "\n")
                log.flush()
        outcomes = [done[copy] for copy in copies]
        _write_report(out, outcomes)
    except OSError as error:
        where = printable(error.filename or out)
        raise ConvscopeError(f"{where}: {error.strerror or error}; run it again, what is done is kept") from None
    return _reported(out, outcomes, len(store) - len(todo))


def _in_parallel(work: Callable[[int], Outcome], rows: Sequence[int]) -> Generator[Outcome]:
    """Outcomes in order, by a thread for each core: decoding and the cascade let go of Python's lock."""
    workers = cores()
    waiting: deque[Future[Outcome]] = deque()
    with ThreadPoolExecutor(workers, "faces") as pool:
        try:
            for number, _ in enumerate(track(rows, "faces cropped")):
                while len(waiting) + number < len(rows) and len(waiting) <= 4 * workers:
                    waiting.append(pool.submit(work, rows[number + len(waiting)]))
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()


def _crop(
    store: Store,
    stamps: Sequence[tuple[int, int]],
    copies: Sequence[str],
    out: Path,
    settings: dict[str, Any],
    row: int,
) -> Outcome:
    start = (store.names[row], stamps[row], copies[row])
    target = out / copies[row]
    try:
        photo = store.photo(row)
    except (ConvscopeError, OSError, ValueError) as error:
        target.unlink(missing_ok=True)
        return Outcome(*start, 0, None, BROKEN, getattr(error, "strerror", None) or str(error))
    faces = find_faces(photo, smallest=settings["smallest"])
    if not faces or (len(faces) > 1 and settings["several"] == "skip"):
        target.unlink(missing_ok=True)  # the crop of what the photo was before
        return Outcome(*start, len(faces), faces[0] if faces else None, SEVERAL if faces else NO_FACE)
    content = io.BytesIO()
    crop_face(photo, faces[0], margin=settings["margin"]).save(content, "JPEG", quality=settings["quality"])
    target.parent.mkdir(parents=True, exist_ok=True)
    draft = target.with_name(f".{key_of(target.name)}.part")
    draft.write_bytes(content.getvalue())
    os.replace(draft, target)
    return Outcome(*start, len(faces), faces[0], CROPPED)


def _claim(listing: Listing, out: Path, settings: dict[str, Any]) -> None:
    """Make ``out`` ours, or find that it is."""
    if listing.kind == "folder" and isinstance(listing.store, Files):
        root = listing.store.root.resolve()
        if out.resolve().is_relative_to(root):
            raise UsageError(f"{out} is inside the photos' folder {root}: choose a folder outside of it")
    if out.exists() and not out.is_dir():
        raise UsageError(f"{out} is a file: choose a folder")
    try:
        before = dict(json.loads((out / MARKER).read_bytes()))
    except FileNotFoundError:
        if out.is_dir() and any(out.iterdir()):
            raise UsageError(f"{out} is not empty and not by this command: choose another folder") from None
        with replacing(out / MARKER) as draft:
            draft.write_text(json.dumps(settings, indent=1) + "\n", "ascii")
        return
    except (ValueError, TypeError):  # a damaged file
        before = {}
    for name, value in settings.items():
        if before.get(name) != value:
            raise UsageError(
                f"{out} was made with {name} {before.get(name)!r}, not {value!r}: choose another folder, or delete it"
            )


def _recall(out: Path, store: Store, stamps: Sequence[tuple[int, int]], copies: Sequence[str]) -> dict[str, Outcome]:
    """What earlier runs did of photos that did not change since. The crops of all others are removed."""
    rows = {copy: row for row, copy in enumerate(copies)}
    done, gone = {}, set()
    for outcome in _logged(out / LOG):
        row = rows.get(outcome.copy)
        if row is None:
            gone.add(outcome.copy)
        elif outcome.photo == store.names[row] and outcome.stamp == stamps[row] and stamps[row] != (0, 0):
            done[outcome.copy] = outcome
    for copy in gone:
        if not {"..", ""} & set(copy.split("/")):  # below out, even if somebody edited the log
            (out / copy).unlink(missing_ok=True)
    for copy, outcome in list(done.items()):
        if outcome.verdict == BROKEN or (outcome.verdict == CROPPED and not (out / copy).is_file()):
            del done[copy]
    with replacing(out / LOG) as draft:  # without the line that an interruption cut
        draft.write_text("".join(json.dumps(outcome) + "\n" for outcome in done.values()), "ascii")
    return done


def _logged(log: Path) -> Iterator[Outcome]:
    try:
        lines = log.read_bytes().splitlines()
    except FileNotFoundError:
        return
    for line in lines:
        with suppress(ValueError, TypeError):
            photo, stamp, copy, faces, box, verdict, reason = json.loads(line)
            yield Outcome(photo, tuple(stamp), copy, faces, Face(*box) if box else None, verdict, reason)


def _copies(listing: Listing) -> list[str]:
    """Where each photo's crop belongs, below ``out``. JPEGs keep their name; others get .jpg after it."""
    folders = [_safe(name.replace("/", "_" if listing.kind != "folder" else "/")) for name in listing.classes]
    if len(set(folders)) < len(folders):
        twice = next(name for i, name in enumerate(folders) if name in folders[:i])
        raise UsageError(f"{listing.source}: two classes would share the folder {twice!r}: rename one of them")
    is_split = bool((listing.given != NONE).any())
    shared = _shared_folder(listing.store.names)
    taken: set[str] = set()
    copies = []
    for name, label, given in zip(listing.store.names, listing.labels.tolist(), listing.given.tolist(), strict=True):
        class_name = listing.classes[label] if label >= 0 else None
        parts = [SPLITS[TRAIN if given == NONE else given]] if is_split else []
        parts += [] if class_name is None else [folders[label]]
        parts.append(_safe("/".join(_below_class(PurePath(name).parts[shared:], class_name, is_split))))
        copies.append(_free("/".join(parts), taken))
    return copies


def _shared_folder(names: Sequence[str]) -> int:
    """How many leading parts absolute names share."""
    if not names or not all(map(os.path.isabs, names)):
        return 0
    return len(PurePath(os.path.commonpath([os.path.dirname(name) for name in names])).parts)


def _below_class(parts: Sequence[str], class_name: str | None, is_split: bool) -> Sequence[str]:
    """A photo's path below its class's folder; all of it where there is none."""
    parts = [part for part in parts if part not in ("..", ".") and not PurePath(part).is_absolute()] or ["photo"]
    first = int(is_split and len(parts) > 1 and parts[0].casefold() in WORDS)
    words = [] if class_name is None else class_name.split("/")
    for i in range(first, len(parts) - len(words)):
        if parts[i : i + len(words)] == words:
            return parts[i + len(words) :]
    return parts[first:]


def _safe(path: str) -> str:
    """A path whose parts can be names of files anywhere, and are not hidden."""
    parts = (re.sub(r"[\\\x00]", "_", part).strip() or "_" for part in path.split("/"))
    return "/".join("_" + part if part.startswith(".") else part for part in parts)


def _free(path: str, taken: set[str]) -> str:
    """The path, with a number if another photo's differs from it in case at most."""
    stem, suffix = os.path.splitext(path)
    if not re.fullmatch(r"\.(jpe?g|jpe|jfif)", suffix, re.IGNORECASE):
        stem, suffix = path, ".jpg"
    number = 1
    while (
        key := unicodedata.normalize("NFC", path := f"{stem}{f'-{number}' * (number > 1)}{suffix}").casefold()
    ) in taken:
        number += 1
    taken.add(key)
    return path


def _write_report(out: Path, outcomes: Sequence[Outcome]) -> None:
    with (
        replacing(out / REPORT) as draft,
        draft.open("w", encoding="utf-8", errors="surrogateescape", newline="") as file,
    ):
        table = csv.writer(file)
        table.writerow(["photo", "faces", *Face._fields, "verdict"])
        for found in outcomes:
            verdict = f"{found.verdict}: {found.reason}" if found.reason else found.verdict
            table.writerow([found.photo, found.faces, *(found.box or [""] * 4), verdict])


def _reported(out: Path, outcomes: Sequence[Outcome], kept: int) -> Report:
    return Report(
        out,
        len(outcomes),
        sum(found.verdict == CROPPED for found in outcomes),
        kept,
        tuple(found.photo for found in outcomes if found.verdict == NO_FACE),
        tuple(found.photo for found in outcomes if found.faces > 1),
        tuple(Refused(found.photo, found.reason) for found in outcomes if found.verdict == BROKEN),
    )
