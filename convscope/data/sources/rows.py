"""What every list of photos has in common: where its photos are, which are listed twice, and what is left out."""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from convscope.data.listing import Listing, Refused
from convscope.data.names import Names
from convscope.data.sources.options import SourceOptions, by_index, decoded, listed
from convscope.data.store import Files
from convscope.errors import UsageError
from convscope.images.read import printable

MISSING = "no such file"


class Row(NamedTuple):
    """What a line says. ``label``, ``split`` and ``group`` are None where the list has no such column, or no word."""

    line: int
    path: str
    label: str | None = None
    split: str | None = None
    group: str | None = None


class Left(NamedTuple):
    """A line that is left out."""

    line: int
    refused: Refused


def left(source: str, line: int, reason: str, path: str = "", label: str = "") -> Left:
    """A line that is left out for what it says, by the photo's name if it has one."""
    name = path or f"{os.path.basename(source)}:{line}"
    return Left(line, Refused(name, f"line {line} {reason}", label))


class _Places:
    """Where paths lead. The real place of a folder is asked once, that of a file only if it is a link."""

    def __init__(self, root: Path) -> None:
        self.root = str(root)
        self._folders: dict[str, str] = {}

    def __call__(self, path: str) -> tuple[str, str, str]:
        """The path as it is there, the real path, and why it is no file, or ""."""
        real, reason = self._look(os.path.join(self.root, path))
        if reason == MISSING and "\\" in path and os.sep == "/":
            slashed = path.replace("\\", "/")
            other, why = self._look(os.path.join(self.root, slashed))
            if why != MISSING:
                return slashed, other, why
        return path, real, reason

    def _look(self, full: str) -> tuple[str, str]:
        try:
            found = os.lstat(full)
            if linked := stat.S_ISLNK(found.st_mode):
                found = os.stat(full)
        except PermissionError:
            return full, "no permission to open it"
        except (OSError, ValueError):  # a name that is too long, or holds a null
            return full, MISSING
        if not stat.S_ISREG(found.st_mode):
            return full, "is a folder" if stat.S_ISDIR(found.st_mode) else "is not a regular file"
        if linked:
            return os.path.realpath(full), ""
        folder, _, name = full.rpartition("/") if os.sep == "/" else (os.path.dirname(full), "", os.path.basename(full))
        if folder not in self._folders:
            self._folders[folder] = os.path.realpath(folder or "/")
        return os.path.join(self._folders[folder], name), ""


def rows_listing(
    source: str,
    kind: str,
    rows: Sequence[Row],
    out: Sequence[Left],
    options: SourceOptions,
    remarks: Sequence[str] = (),
    *,
    divided: bool = False,
    grouped: bool = False,
) -> Listing:
    """The listing of what lines say: of each photo that is there, once. ``divided``, ``grouped``: if a column says so.

    A photo that is listed again is refused; if the lines disagree about it, all are. UsageError if no photo is there.
    """
    words, notes = by_index(source, [row.label for row in rows], options)
    rows = [row._replace(label=word) for row, word in zip(rows, words, strict=True)]
    root = Path(options.root).expanduser() if options.root is not None else Path(os.path.dirname(source) or ".")
    if not root.is_dir():
        raise UsageError(f"--root {printable(root)} is not a folder")
    places = _Places(root)
    out = list(out)
    there: dict[str, list[Row]] = {}  # by the real path
    reasons = set()
    for row in rows:
        path, real, reason = places(row.path)
        if not reason:
            there.setdefault(real, []).append(row._replace(path=path))
            continue
        reasons.add(reason)
        if reason == MISSING and not decoded(row.path):
            reason += f"; line {row.line} is not UTF-8 text"
        out.append(Left(row.line, Refused(row.path, reason, row.label or "")))
    if rows and reasons == {MISSING} and not there:
        first = rows[0].path
        raise UsageError(
            f"{printable(source)}: none of its {len(rows):,} photos is there; {printable(first)} was looked for as "
            f"{printable(os.path.join(root, first))}; say where the paths begin with --root"
        )
    kept = []
    for same in there.values():
        quarrel = _quarrel(same)
        if not quarrel:
            kept.append(same[0])
        again = same if quarrel else same[1:]
        out += [Left(row.line, Refused(row.path, quarrel or "listed twice", row.label or "")) for row in again]
    kept.sort(key=lambda row: row.line)
    return listed(
        source, kind, Files(root, Names.of(row.path for row in kept)), [row.label for row in kept], options,
        splits=[row.split for row in kept] if divided else None,
        groups=[f"\0{i}" if row.group is None else row.group for i, row in enumerate(kept)] if grouped else None,
        refused=[refused for _, refused in sorted(out, key=lambda one: one.line)], remarks=[*remarks, *notes],
    )  # fmt: skip


def _quarrel(same: Sequence[Row]) -> str:
    """What lines about one photo disagree on, or ""."""
    for what in ("label", "split", "group") if len(same) > 1 else ():
        said = list(dict.fromkeys(getattr(row, what) or "none" for row in same))
        if len(said) > 1:
            return f"listed with {len(said)} {what}s: {', '.join(sorted(said))}"
    return ""
