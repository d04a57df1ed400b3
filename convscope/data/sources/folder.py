"""A folder of photos: one folder a class, or train/val/test folders with one folder a class in each."""

from __future__ import annotations

import os
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import chain, repeat
from pathlib import Path

import numpy as np

from convscope.data.listing import WORDS, Listing, Refused
from convscope.data.names import Names
from convscope.data.sources.entries import hidden, is_photo, natural, no_photos, some, suffix
from convscope.data.sources.options import PLAIN, SourceOptions, listed
from convscope.data.store import Files
from convscope.errors import ImageError, UsageError
from convscope.images.own import is_own
from convscope.images.read import printable

OUTSIDE = "lies outside of every class folder"


@dataclass
class _Tree:
    """A folder that is being read. ``top`` ends in a slash; all else is named by its path below it."""

    top: str
    refused: list[Refused] = field(default_factory=list)
    passed: Counter[str] = field(default_factory=Counter)  # files that are no photos, by suffix
    again: list[str] = field(default_factory=list)  # folders that a link leads back to
    empty: list[str] = field(default_factory=list)
    written: list[str] = field(default_factory=list)  # folders of convscope's results

    def entries(self, folder: str) -> tuple[list[str], list[str]]:
        """The folders (each with a slash) and photos right in a folder. Nothing is asked of a file but its name."""
        folders, photos = [], []
        if folder and is_own(self.top + folder):
            self.written.append(folder.rstrip("/"))
            return [], []
        try:
            with os.scandir(self.top + folder) as found:
                for entry in found:
                    name = entry.name
                    if hidden(name):
                        continue
                    if _is(entry.is_dir):
                        folders.append(f"{folder}{name}/")
                    elif not is_photo(name):
                        self.passed[suffix(name)] += 1
                    elif _is(entry.is_file):
                        photos.append(folder + name)
                    else:
                        reason = "no such file: a link to nothing" if entry.is_symlink() else "is not a regular file"
                        self.refused.append(Refused(folder + name, reason))
        except OSError as error:
            where = printable(self.top + folder)
            raise ImageError(f"{where} cannot be listed: {error.strerror}; make the folder readable") from None
        return sorted(folders, key=natural), photos

    def below(self, folder: str, above: Iterable[str]) -> Iterator[list[str]]:
        """The photos of a folder and all below it, one list a folder. Links are followed, but never to where one was.

        ``above`` are the folders that this one is read for; what is reached from another class too is read there too.
        """
        seen = {self._identity(parent) for parent in above}
        waiting = [folder]
        while waiting:
            here = waiting.pop()
            if (identity := self._identity(here)) in seen:
                self.again.append(here)
                continue
            seen.add(identity)
            folders, photos = self.entries(here)
            waiting += reversed(folders)
            yield photos

    def _identity(self, folder: str) -> tuple[int, int]:
        try:
            found = os.stat(self.top + folder)
        except OSError as error:
            where = printable(self.top + folder)
            raise ImageError(f"{where} cannot be listed: {error.strerror}; make the folder readable") from None
        return found.st_dev, found.st_ino

    def photos(self, folder: str, above: Iterable[str]) -> Names:
        """All photos in and below a folder in natural order; the folder is noted if there are none."""
        found = Names.of(sorted(chain.from_iterable(self.below(folder, above)), key=natural))
        if not len(found):
            self.empty.append(folder.rstrip("/"))
        return found

    def holds(self, folder: str) -> bool:
        """Whether a photo lies in or below a folder; nothing is noted."""
        return any(_Tree(self.top).below(folder, {""}))

    def remarks(self) -> list[str]:
        """What the user should know of what was passed over."""
        remarks = []
        if self.written:
            remarks.append(_left_out(self.written))
        if empty := [folder for folder in self.empty if folder not in self.written]:
            remarks.append(f"no photos in {some(empty)}: no class")
        if self.again:
            remarks.append(f"a link leads back to what was read already, left out: {some(self.again)}")
        if self.passed:
            remarks.append(no_photos(self.passed))
        return remarks


def _is(question: Callable[[], bool]) -> bool:
    try:
        return question()
    except OSError:  # a link to itself
        return False


def has_class_folder(source: str) -> bool:
    """Whether a photo lies in a folder below this one."""
    tree = _Tree(os.path.join(source, ""))
    return any(tree.holds(folder) for folder in tree.entries("")[0])


def read_folder(source: str, options: SourceOptions = PLAIN) -> Listing:
    """A folder as a listing: its folders are the classes, or what lies in them if all are called train, val or test.

    Photos at the top are refused beside class folders; without any class folder they are photos without a label.
    """
    tree = _Tree(os.path.join(os.path.expanduser(source), ""))
    homes, loose, divided, remarks = _layout(tree)
    parts = {folder: tree.photos(folder, {"", homes[folder]}) for folder in sorted(homes, key=natural)}
    parts = {folder: names for folder, names in parts.items() if len(names)}
    labelled = bool(parts)
    if labelled:
        tree.refused += [Refused(name, OUTSIDE) for names in loose.values() for name in sorted(names, key=natural)]
        remarks += _doubtful({_own(folder) for folder in parts}) + ([] if divided else _nested(parts))
    else:
        parts = {home: Names.of(sorted(names, key=natural)) for home, names in sorted(loose.items()) if names}
        homes = {home: home for home in parts}
    if not parts:
        raise UsageError(_nothing(source, tree))
    labels = chain.from_iterable(repeat(_own(f) if labelled else None, len(names)) for f, names in parts.items())
    splits = chain.from_iterable(repeat(_word(homes[f]) or None, len(names)) for f, names in parts.items())
    return listed(
        source, "folder", Files(Path(tree.top), _joined(parts.values())), labels, options,
        splits=list(splits) if divided else None, refused=tree.refused, remarks=remarks + tree.remarks(),
    )  # fmt: skip


def _layout(tree: _Tree) -> tuple[dict[str, str], dict[str, list[str]], bool, list[str]]:
    """Which folders may be classes and the split folder each lies in ("" if none), the photos outside of them by where
    they lie, whether there are splits, and remarks on that."""
    folders, top = tree.entries("")
    words = [folder for folder in folders if _word(folder) in WORDS]
    rest = [folder for folder in folders if _word(folder) not in WORDS]
    homes, loose = dict.fromkeys(folders, ""), {"": top}
    if not any(tree.holds(folder) for folder in words):
        return homes, loose, False, []
    if others := [folder for folder in rest if tree.holds(folder)]:
        return (
            homes,
            loose,
            False,
            [f"{_plain(words)}: read as a class, not as a split, for photos lie in {_plain(others)} too"],
        )
    homes = dict.fromkeys(rest, "")  # without photos, which is noted
    for word in words:
        inner, loose[word] = tree.entries(word)
        homes |= dict.fromkeys(inner, word)
        if not inner and not loose[word]:
            tree.empty.append(word.rstrip("/"))
    return homes, loose, True, []


def _own(folder: str) -> str:
    """A folder's own name."""
    return folder.rstrip("/").rpartition("/")[2]


def _word(folder: str) -> str:
    return _own(folder).strip().casefold()


def _plain(folders: Iterable[str]) -> str:
    return some([folder.rstrip("/") for folder in folders])


def _joined(parts: Iterable[Names]) -> Names:
    """Names one after the other, without making them strings again."""
    parts = list(parts)
    before = np.cumsum([0, *(len(part.blob) for part in parts)])
    ends = [part.ends + start for part, start in zip(parts, before[:-1], strict=True)]
    return Names(np.concatenate([part.blob for part in parts]), np.concatenate(ends))


def _doubtful(classes: set[str]) -> list[str]:
    """Remarks on classes that a person would not tell apart."""
    alike: dict[str, list[str]] = {}
    for name in sorted(classes):
        alike.setdefault(unicodedata.normalize("NFC", name).strip().casefold(), []).append(name)
    return [
        f"class folders that differ only in case or spaces: {', '.join(map(repr, names))}"
        for names in alike.values()
        if len(names) > 1
    ]


def _nested(parts: dict[str, Names]) -> list[str]:
    """A remark on one class alone with folders in it: an unpacked archive often has one folder too many."""
    if len(parts) != 1:
        return []
    ((folder, names),) = parts.items()
    inner = {below.split("/")[0] for name in names if "/" in (below := name.removeprefix(folder))}
    if len(inner) < 2:
        return []
    return [f"one class alone, {printable(_own(folder))}; if the folders in it are the classes, name that folder"]


def _nothing(source: str, tree: _Tree) -> str:
    """Why a folder is no source."""
    name = printable(source)
    what = "a source is a folder with one folder of photos for each class"
    if tree.refused:
        return f"{name}: no photo can be read; the first, {printable(tree.refused[0].name)}: {tree.refused[0].reason}"
    if tree.passed:
        return f"{name}: no photos in or below it ({no_photos(tree.passed)}); {what}"
    if tree.written:
        return f"{name}: no photos in or below it ({_left_out(tree.written)}); {what}"
    return f"{name}: no photos in or below it; {what}" if tree.empty else f"{name} is empty; {what}"


def _left_out(written: list[str]) -> str:
    return f"left out, as convscope wrote it: {some(written)}"
