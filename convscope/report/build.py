"""Writing the report. Photos are drawn one by one and wait on disk: memory does not grow with their number."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import IO

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from convscope.report.page import PhotoPage, Trouble


@dataclass(frozen=True)
class About:
    """What a report is of. ``versions``: one a line."""

    model: str
    device: str
    command: str
    canvas: str = ""
    normalisation: str = ""
    versions: Sequence[str] = ()
    date: datetime = field(default_factory=lambda: datetime.now().astimezone())


@dataclass(frozen=True)
class Entry:
    """A photo in the table of contents."""

    anchor: str
    name: str
    top: Sequence[tuple[str, float]]
    methods: Sequence[str]


class Report:
    """Use as ``with Report(about) as report``: ``add`` photos, then ``write``."""

    def __init__(self, about: About) -> None:
        self.about = about
        self.entries: list[Entry] = []
        self.troubles: list[Trouble] = []
        self._templates = environment()

    def __enter__(self) -> Report:
        self._parts: IO[bytes] = tempfile.TemporaryFile()
        self._ends = [0]
        return self

    def __exit__(self, *_: object) -> None:
        self._parts.close()

    def add(self, page: PhotoPage) -> None:
        """Draw a photo's section."""
        self._parts.write(self._templates.get_template("photo.html").render(page=page).encode("utf-8", "replace"))
        self._ends.append(self._parts.tell())
        methods = [group.first.method for group in page.methods]
        self.entries.append(Entry(page.anchor, page.name, page.top, methods))
        self.troubles += page.troubles

    def write(self, path: Path, failed: Sequence[Trouble] = ()) -> int:
        """Write the page; its size in bytes. ``failed``: photos that are not in it, and why."""
        stream = self._templates.get_template("report.html").stream(
            about=self.about, entries=self.entries, sections=self._sections(), failed=[*failed, *self.troubles]
        )
        with path.open("wb") as file:
            for piece in stream:
                file.write(piece.encode("utf-8", "replace"))
        return path.stat().st_size

    def _sections(self) -> Iterator[Markup]:
        self._parts.seek(0)
        for start, end in zip(self._ends[:-1], self._ends[1:], strict=True):
            yield Markup(self._parts.read(end - start).decode("utf-8"))


def environment() -> Environment:
    found = Environment(
        loader=PackageLoader("convscope.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    found.filters["setting"] = _setting
    found.filters["number"] = lambda value: f"{value:.3g}"
    found.filters["percent"] = _percent
    return found


def _setting(value: object) -> str:
    if isinstance(value, (list, tuple)):
        return ", ".join(map(str, value))
    return f"{value:g}" if isinstance(value, float) else str(value)


def _percent(share: float) -> str:
    """A probability in words that do not round to certainty."""
    if 0.9995 <= share < 1:
        return "> 99.9 %"
    return "< 0.1 %" if 0 < share < 0.0005 else f"{100 * share:.1f} %"
