"""Which photos: the options of every command that reads a data set."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from convscope.cli.options import flag, option
from convscope.cli.values import assignment, listed
from convscope.data.sets import NAMES

if TYPE_CHECKING:
    from convscope.data.sources import SourceOptions

DATA = "Photos"  # a panel of help
TORCHVISION = "torchvision:"
SOURCE = (
    "A folder with a folder of photos for each class (or train/, val/, test/ with such folders), a list of `path "
    "label` lines, .csv, .jsonl, IDX files, tar shards, or a set by name: "
    f"{', '.join(name for name in NAMES if not name.startswith(TORCHVISION))}, or {TORCHVISION}NAME with one of "
    f"{', '.join(name.removeprefix(TORCHVISION) for name in NAMES if name.startswith(TORCHVISION))}."
)


@dataclass(frozen=True, kw_only=True)
class DataChoice:
    """Which photos, and how their source is read."""

    root: Annotated[Path | None, option(DATA, "DIR", "Where a list's paths begin; by default at the list.")] = None
    columns: Annotated[
        str | None, option(DATA, "path=A,label=B", "A table's columns: of path, label, group, split.")
    ] = None
    group: Annotated[
        str | None, option(DATA, "REGEX", "What belongs together, in photos' names; it is never parted by the split.")
    ] = None
    download: Annotated[bool, flag(DATA, "Fetch a set by name that is not there.", "--download")] = False

    def settings(self) -> dict[str, Any]:
        columns = dict(assignment("--columns", part) for part in listed(self.columns or ""))
        return {
            "root": str(self.root) if self.root is not None else None,
            "columns": {key: str(value) for key, value in columns.items()} or None,
            "group": self.group,
            "download": self.download or None,
        }

    def options(self, classes: list[str] | None = None) -> SourceOptions:
        from convscope.data.sources import SourceOptions

        settings = self.settings()
        names = tuple(classes) if classes is not None else None
        return SourceOptions(settings["columns"] or {}, self.root, self.group, names, self.download)


@dataclass(frozen=True, kw_only=True)
class ClassNames:
    """What labels that are numbers stand for."""

    classes: Annotated[
        Path | None, option(DATA, "FILE", "Class names, one a line or JSON, for labels that are numbers.")
    ] = None

    def names(self) -> list[str] | None:
        from convscope.models.classes import read_classes

        return list(read_classes(self.classes).names) if self.classes is not None else None
