"""The photos of an atlas, read again from where they lay when it was made."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import Any

from torch import Tensor

from convscope.atlas.store import Row
from convscope.data.catalog import Catalog
from convscope.data.loading import Photos
from convscope.data.names import Names
from convscope.data.scan import content_hash, why
from convscope.data.sources import SourceOptions, open_source
from convscope.data.store import Files, Store, members
from convscope.errors import ConvscopeError, UsageError
from convscope.images.frame import Framing
from convscope.images.read import printable


def whereabouts(photos: Photos, options: SourceOptions) -> dict[str, Any]:
    """What is needed to find photos again, in plain types."""
    found, framing = photos.catalog, photos.framing
    how = {name: value for name, value in asdict(options).items() if value}
    how = {name: str(value) if isinstance(value, Path) else value for name, value in how.items()}
    return {
        "source": {"path": _lasting(found), "kind": found.kind, "options": how, "files": _root(found.store)},
        "framing": asdict(framing),
        "channels": photos.channels,
        "background": photos.background,
    }


def _root(store: Store) -> str | None:
    return str(store.root.resolve()) if isinstance(store, Files) else None


def _lasting(found: Catalog) -> str:
    path = Path(found.source).expanduser()
    return str(path.resolve()) if path.exists() else found.source


def fingerprint(words: Iterable[int]) -> str:
    """A content's hash, which are two words, as the database has it."""
    return "".join(f"{int(word):016x}" for word in words)


class Canvases:
    """What the network was given of each image, by its row of the table: pixels "c h w" as bytes."""

    def __init__(self, told: Mapping[str, Any]) -> None:
        self.told, self.channels, self.background = told, told["channels"], told["background"]
        self.framing = framing_of(told)

    def of(self, image: Row) -> Tensor:
        """ConvscopeError where the photo is gone or is another one now."""
        name, source = printable(image["name"]), self.told["source"]
        if image["shard"] is not None:
            store: Store = members([(image["shard"], image["name"], image["start"], image["bytes"])])
            index = 0
        elif source["files"] is not None:
            store, index = Files(Path(source["files"]), Names.of([image["name"]])), 0
        else:
            store, index = self._reopened, self._numbers.get(image["name"], -1)
            if index < 0:
                raise ConvscopeError(f"{name} is no longer in {source['path']}")
        try:
            content = store.content(index)
            if fingerprint(content_hash(content)) != image["content"]:
                raise ConvscopeError(f"{name} is not the photo that the atlas was made of: build it anew")
            return self.framing.canvas(store.photo(index, self.background), self.channels)
        except OSError as error:
            raise ConvscopeError(f"{name} cannot be read any more from {source['path']}: {why(error, name)}") from error

    @cached_property
    def _reopened(self) -> Store:
        """Of what is in no file of its own: IDX files, or a set by name."""
        source = self.told["source"]
        try:
            return open_source(source["path"], SourceOptions.of(source["options"])).store
        except UsageError as error:
            raise ConvscopeError(f"the atlas's photos are not there any more: {error}") from error

    @cached_property
    def _numbers(self) -> dict[str, int]:
        return {name: i for i, name in enumerate(self._reopened.names)}


def framing_of(told: Mapping[str, Any]) -> Framing:
    """How photos were framed."""
    framing = told["framing"]
    return Framing(**{**framing, "size": tuple(framing["size"])})
