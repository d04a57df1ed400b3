"""Class names, and how a user's word finds its class."""

from __future__ import annotations

import json
import operator
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import SupportsIndex

from convscope.errors import UsageError, unknown


@dataclass(frozen=True)
class Classes:
    """Names in the order of the outputs. A name may list synonyms with commas, as ImageNet's do."""

    names: tuple[str, ...]
    synsets: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> str:
        return self.names[index]

    def short(self, index: int) -> str:
        """The first synonym: what fits on a label."""
        return self.names[index].split(",")[0].strip()

    def find(self, query: str | SupportsIndex) -> int:
        """Index of a class by index, full name, synset or one of its synonyms; a name two classes share is refused."""
        if not isinstance(query, str):
            return self._index(query)
        exact, wanted = query.strip(), query.strip().casefold()
        for candidates in (self.names, self.synsets):
            hits = [i for i, name in enumerate(candidates) if name.casefold() == wanted]
            if hits:
                return self._only(query, [i for i in hits if candidates[i] == exact] or hits)
        if re.fullmatch(r"-?[0-9]+", wanted):
            return self._index(int(wanted))
        synonyms = [[part.strip() for part in name.split(",")] for name in self.names]
        hits = [i for i, parts in enumerate(synonyms) if wanted in (part.casefold() for part in parts)]
        if hits:
            return self._only(query, hits)
        raise unknown("class", query, [part for parts in synonyms for part in parts])

    def _index(self, number: SupportsIndex) -> int:
        try:
            index = operator.index(number)  # numpy's and torch's integers too
        except TypeError:
            raise UsageError(f"a class is a name or an index, not {number!r}") from None
        if not 0 <= index < len(self):
            raise UsageError(f"class index {index} is out of range: the model has {len(self)} classes")
        return index

    def _only(self, query: str, hits: list[int]) -> int:
        if len(hits) == 1:
            return hits[0]
        ways = [f"{i} ({self.synsets[i]})" if self.synsets else str(i) for i in hits]
        raise UsageError(f"class {query!r} names {len(hits)} classes: give the index instead, {' or '.join(ways)}")


def numbered(count: int) -> Classes:
    """Names for classes that have none."""
    return Classes(tuple(f"class {i}" for i in range(count)))


@cache
def imagenet(subset: str = "imagenet-1k") -> Classes:
    """The classes of ImageNet (1,000 of them, or another subset that timm knows) with their synsets, from timm."""
    from timm.data import ImageNetInfo

    info = ImageNetInfo(subset)
    return Classes(tuple(info.label_descriptions()), tuple(info.label_names()))


def as_classes(classes: Classes | Iterable[object] | str | Path | None) -> Classes | None:
    """What a user gives for ``classes``: names in the order of the outputs, a file of them, or "imagenet"."""
    if classes is None or isinstance(classes, Classes):
        return classes
    if isinstance(classes, (str, Path)):
        return read_classes(classes)
    names = _listed(classes if isinstance(classes, Mapping) else [str(name) for name in classes])
    if names is None:
        raise UsageError("classes are the names in the order of the outputs, none of them empty, or a file of them")
    return Classes(names)


def read_classes(path: str | Path) -> Classes:
    """Class names from a file: one a line, or JSON: a list, {"0": name, ...} or {name: 0, ...}; "imagenet" is known."""
    if str(path) == "imagenet":
        return imagenet()
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise UsageError(f"class names {path}: not UTF-8 text; save it as UTF-8") from None
    except OSError as error:
        raise UsageError(f"class names {path}: cannot be read ({error.strerror})") from None
    if path.suffix.lower() == ".json":
        return Classes(_from_json(path, text))
    names = [line.strip() for line in text.split("\n")]
    while names and not names[-1]:
        names.pop()
    if not names or "" in names:
        what = f"line {names.index('') + 1}" if names else "the file"
        raise UsageError(f"class names {path}: {what} is empty")
    return Classes(tuple(names))


def _from_json(path: Path, text: str) -> tuple[str, ...]:
    try:
        names = _listed(json.loads(text))
    except ValueError:
        names = None
    if names is None:
        forms = 'a JSON list of names, or an object {"0": name, "1": name, ...} or {name: 0, name: 1, ...}'
        raise UsageError(f"class names {path}: expected {forms}")
    return names


def _listed(found: object) -> tuple[str, ...] | None:
    """The names in a list of them, in names by index, or in indices by name, torchvision's class_to_idx."""
    if isinstance(found, Mapping):
        inverted = all(isinstance(value, int) for value in found.values())
        by_index = {str(value if inverted else key): key if inverted else value for key, value in found.items()}
        found = [by_index.get(str(i)) for i in range(len(found))]
    if isinstance(found, list) and found and all(isinstance(name, str) and name.strip() for name in found):
        return tuple(found)
    return None
