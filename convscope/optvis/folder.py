"""Patterns in a folder: a PNG each, a line each in ``patterns.jsonl``, a sheet a layer. It can be gone on with.

patterns.jsonl            one line a pattern: layer, file, key, digest, name, before, after, peak, natural, verdict
features.10/0012.png      each pattern alone
features.10.png           all of a layer
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from PIL import Image

from convscope.data.cache import key_of, replacing
from convscope.errors import ConvscopeError
from convscope.images.own import make_own
from convscope.images.slug import slug
from convscope.instrument.address import LOGITS
from convscope.instrument.weights import weights_key
from convscope.models.classifier import Classifier
from convscope.optvis.patterns import Patterns, pattern_sheet
from convscope.optvis.visualize import Job

LINES = "patterns.jsonl"


class PatternFolder:
    """A folder of patterns. What is written is whole: a picture takes its place before its line is added."""

    def __init__(self, path: Path) -> None:
        self.path = path
        with self._writing():
            make_own(path)
        self._lines = self._read()
        self._weights: dict[Classifier, str] = {}

    def done(self, job: Job) -> set[int]:
        """The rows of a job that are there, made from the same weights in the same way."""
        return {row for row in range(len(job)) if self._line(job, row) is not None}

    def others(self, job: Job) -> int:
        """How many of a job's pictures are there in another form, which making them replaces."""
        files = [self.file(job, row) for row in range(len(job)) if self._line(job, row) is None]
        return sum(file in self._lines and (self.path / file).is_file() for file in files)

    def keep(self, job: Job, rows: Sequence[int], patterns: Patterns) -> None:
        """Add the patterns of some rows."""
        lines = []
        with self._writing():
            for i, (row, told) in enumerate(zip(rows, patterns.rows(), strict=True)):
                file = self.file(job, row)
                with replacing(self.path / file) as draft:
                    patterns.picture(i).save(draft, "PNG")
                    digest = key_of(draft.read_bytes())
                lines.append({"layer": job.title, "file": file, "key": self.key(job, row), "digest": digest, **told})
            with (self.path / LINES).open("a", encoding="utf-8") as opened:
                opened.write("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines))
        self._lines |= {line["file"]: line for line in lines}

    def rows(self, job: Job) -> list[Mapping[str, Any]]:
        """What is known of each of a job's patterns."""
        return [self._lines[self.file(job, row)] for row in range(len(job))]

    def write_sheet(self, job: Job) -> Path:
        """All patterns of a job on one sheet."""
        rows = self.rows(job)
        pictures = [self.picture(row["file"]) for row in rows]
        place = self.path / f"{stem(job)}.png"
        with self._writing(), replacing(place) as draft:
            pattern_sheet(pictures, rows, job.heading, prefix=job.title).save(draft, "PNG")
        return place

    def file(self, job: Job, row: int) -> str:
        """Where a picture lies in the folder: by its unit, and its copy where there are several."""
        found = job.own.unit(row, job.classifier.classes)
        name = slug(job.own.name(row)) if found is None else f"{found[1]:04d}"
        if found is not None and found[0].layer == LOGITS:
            name += f"-{slug(job.own.name(row).removeprefix('-'))}"
        again = job.copy(row)
        copy = f"-{again}" if again or job.objective.group > 1 else ""
        return f"{stem(job)}/{name}{copy}.png"

    def _line(self, job: Job, row: int) -> Mapping[str, Any] | None:
        line = self._lines.get(self.file(job, row))
        if line is None or line.get("key") != self.key(job, row):
            return None
        try:  # a kill between a picture and its line leaves it with the line of the one before
            there = key_of((self.path / line["file"]).read_bytes())
        except OSError:
            return None
        return line if there == line.get("digest") else None

    def key(self, job: Job, row: int) -> str:
        """A job's key and that of the weights, which are read once for all jobs."""
        if job.classifier not in self._weights:
            self._weights[job.classifier] = weights_key(job.classifier.network)
        return key_of(self._weights[job.classifier], job.key(row))

    def picture(self, file: str) -> Image.Image:
        """One that is there."""
        try:
            with Image.open(self.path / file) as opened:
                return opened.convert("RGB")
        except OSError:
            raise ConvscopeError(f"{self.path / file} is gone or cannot be read: run again to make it anew") from None

    def _read(self) -> dict[str, Mapping[str, Any]]:
        """The lines by file, later ones over earlier; one that a kill cut short is passed over."""
        found: dict[str, Mapping[str, Any]] = {}
        try:  # one that was cut short may end inside of a character
            text = (self.path / LINES).read_bytes().decode("utf-8", "replace") if (self.path / LINES).exists() else ""
        except OSError as error:
            raise ConvscopeError(f"{self.path / LINES} cannot be read: {error}") from None
        if text and not text.endswith("\n"):
            with self._writing(), (self.path / LINES).open("a", encoding="utf-8") as opened:
                opened.write("\n")  # so that what is added does not run on from it
        for line in text.split("\n"):  # names may hold other ends of lines
            try:
                told = json.loads(line)
                found[told["file"]] = told
            except (ValueError, KeyError, TypeError):
                continue
        return found

    @contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise ConvscopeError(
                f"cannot write {self.path}: {error.strerror or error}; what is there already is kept"
            ) from error


def stem(job: Job) -> str:
    """What a job's sheet and the folder of its pictures are called; no two layers alike."""
    name = slug(job.title)
    if name != job.title:
        name += f"-{key_of(job.title)[:6]}"
    at = next((f"@{need.position[0]},{need.position[1]}" for need in job.own.needs if need.position), "")
    return f"{name}{at}" + ("-negative" if job.negative else "")
