"""Class names, and how a user's word finds its class."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path

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

    def find(self, query: str | int) -> int:
        """Index of a class by index, full name, synset or one of its synonyms; a name two classes share is refused."""
        if isinstance(query, int):
            return self._index(query)
        wanted = query.strip().casefold()
        for candidates in (self.names, self.synsets):
            hits = [i for i, name in enumerate(candidates) if name.casefold() == wanted]
            if hits:
                return self._only(query, hits)
        if wanted.lstrip("-").isdigit():
            return self._index(int(wanted))
        synonyms = [[part.strip() for part in name.split(",")] for name in self.names]
        hits = [i for i, parts in enumerate(synonyms) if wanted in (part.casefold() for part in parts)]
        if hits:
            return self._only(query, hits)
        raise unknown("class", query, [part for parts in synonyms for part in parts])

    def _index(self, index: int) -> int:
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
def imagenet() -> Classes:
    """The 1,000 classes of ImageNet with their synsets, from timm."""
    from timm.data import ImageNetInfo

    info = ImageNetInfo()
    count = info.num_classes()
    names = tuple(info.index_to_description(i) for i in range(count))
    return Classes(names, tuple(info.index_to_label_name(i) for i in range(count)))


def read_classes(path: str | Path) -> Classes:
    """Class names from a file: one name a line, or a JSON list, or an object {"0": name, ...}; "imagenet" is known."""
    if str(path) == "imagenet":
        return imagenet()
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"class names {path}: cannot be read as text ({_reason(error)})") from None
    if path.suffix.lower() == ".json":
        return Classes(_from_json(path, text))
    names = [line.strip() for line in text.splitlines()]
    while names and not names[-1]:
        names.pop()
    if not names or "" in names:
        raise UsageError(
            f"class names {path}: " + ("line " + str(names.index("") + 1) if names else "the file") + " is empty"
        )
    return Classes(tuple(names))


def _from_json(path: Path, text: str) -> tuple[str, ...]:
    try:
        found = json.loads(text)
        if isinstance(found, dict):
            found = [found[str(i)] for i in range(len(found))]
        if found and all(isinstance(name, str) for name in found):
            return tuple(found)
    except (ValueError, KeyError, TypeError):
        pass
    raise UsageError(f'class names {path}: expected a JSON list of names or an object {{"0": name, "1": name, ...}}')


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or type(error).__name__
