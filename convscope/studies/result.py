"""What a study came to: tables, figures and sentences, and the files that they go into."""

from __future__ import annotations

import csv
import io
import json
import math
import os
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from PIL import Image

from convscope import __version__
from convscope.errors import UsageError, unknown
from convscope.images.charting import defaults, drawn
from convscope.images.own import make_own
from convscope.images.show import png_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Drawn

    from convscope.studies.subject import Album, DataSet

Cell: TypeAlias = float | int | str | bool | None
DOTS = 150  # per inch, of pictures
RESULT = "result.json"


@dataclass(frozen=True)
class Table:
    """Rows of plain values. ``columns``: what each is called, and what it is, with its unit and range.

    ``told``: the findings say all of it in words, so a terminal shows them alone.
    """

    name: str
    about: str
    columns: Mapping[str, str]
    rows: Sequence[Sequence[Cell]]
    told: bool = False

    def __post_init__(self) -> None:
        assert all(len(row) == len(self.columns) for row in self.rows), f"{self.name}: a row is not as the columns"

    def __len__(self) -> int:
        return len(self.rows)

    def records(self) -> list[dict[str, Cell]]:
        """Each row by its columns' names. A number that is not finite is None."""
        return [dict(zip(self.columns, map(_plain, row), strict=True)) for row in self.rows]

    def column(self, name: str) -> list[Cell]:
        """The values of a column."""
        if name not in self.columns:
            raise unknown(f"column of {self.name}", name, self.columns)
        at = list(self.columns).index(name)
        return [row[at] for row in self.rows]

    def csv(self) -> str:
        """As comma-separated values, every digit kept; what is missing is empty."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(self.columns)
        writer.writerows(["" if (cell := _plain(value)) is None else cell for value in row] for row in self.rows)
        return text.getvalue()

    def texts(self) -> list[tuple[str, ...]]:
        """The rows as a person reads them: three digits that count."""
        return [tuple(map(in_words, row)) for row in self.rows]

    @property
    def numeric(self) -> list[str]:
        """The columns that hold numbers, which stand to the right."""
        return [name for i, name in enumerate(self.columns) if not any(isinstance(row[i], str) for row in self.rows)]

    def to_pandas(self) -> Any:
        """As a pandas DataFrame."""
        try:
            import pandas  # type: ignore[import-untyped]
        except ImportError:
            raise UsageError("to_pandas needs pandas: pip install 'convscope[tables]'") from None
        return pandas.DataFrame.from_records(self.records(), columns=list(self.columns))


@dataclass(frozen=True)
class Figure:
    """A figure of a study. ``draw`` makes it anew each time, by matplotlib."""

    name: str
    caption: str
    draw: Callable[[], Drawn]

    @defaults()
    def picture(self) -> Image.Image:
        return drawn(self.draw(), DOTS)

    @defaults()
    def save(self, path: Path) -> None:
        """As the file's ending says: .png or .svg."""
        self.draw().savefig(path, dpi=DOTS, metadata={"Date": None} if path.suffix == ".svg" else None)


@dataclass(frozen=True, eq=False)
class Result:
    """What a study came to.

    ``tables`` and ``figures``: the one that the paper shows first. ``findings``: what came out, in sentences.
    ``notes``: what its reader should know. ``settings``: all that may be set, the seed apart. ``of``: what was studied.
    """

    study: str
    paper: str
    title: str
    of: Mapping[str, Any]
    settings: Mapping[str, Any]
    seed: int
    tables: Sequence[Table]
    figures: Sequence[Figure] = ()
    findings: Sequence[str] = ()
    notes: Sequence[str] = ()
    faults: int = 0  # of diagnose: how many things are to be mended
    _drawn: dict[str, Image.Image] = field(default_factory=dict, repr=False)

    def table(self, name: str | None = None) -> Table:
        """A table by name; by default the first."""
        return _named("table", self.tables, name)

    def figure(self, name: str | None = None) -> Figure:
        """A figure by name; by default the first."""
        return _named("figure", self.figures, name)

    def plot(self, name: str | None = None) -> Any:
        """A figure as matplotlib's, for a notebook or a paper."""
        with defaults():
            return self.figure(name).draw()

    def picture(self, name: str | None = None) -> Image.Image:
        """A figure as a picture."""
        figure = self.figure(name)
        if figure.name not in self._drawn:
            self._drawn[figure.name] = figure.picture()
        return self._drawn[figure.name]

    def about(self) -> dict[str, Any]:
        """All of it but the figures, in plain types."""
        return {
            "study": self.study,
            "paper": self.paper,
            "title": self.title,
            "convscope": __version__,
            **self.of,
            "settings": dict(self.settings),
            "seed": self.seed,
            "findings": list(self.findings),
            "notes": list(self.notes),
            "tables": {
                table.name: {"about": table.about, "columns": dict(table.columns), "rows": table.records()}
                for table in self.tables
            },
            "figures": {figure.name: figure.caption for figure in self.figures},
        }

    def save(self, folder: str | Path) -> list[Path]:
        """Write ``NAME.csv`` of each table, ``NAME.png`` and ``NAME.svg`` of each figure, ``result.json`` with all
        that is said, and ``report.html`` with all of it; the files.

        They come to their places once all are written, and what an earlier result had there beside them goes.
        """
        folder = Path(folder)
        make_own(folder)
        earlier = earlier_files(folder)
        with tempfile.TemporaryDirectory(prefix=".study-", dir=folder) as draft:
            names = [file.name for file in self._write(Path(draft))]
            if blocked := next((name for name in names if (folder / name).is_dir()), None):
                raise UsageError(f"{folder / blocked} is a folder and in the way: choose another place")
            for name in names:
                os.replace(Path(draft, name), folder / name)
        forget(folder, earlier.difference(names))
        return [folder / name for name in names]

    def _write(self, folder: Path) -> list[Path]:
        from convscope.studies.page import html

        files: list[Path] = []

        def place(name: str) -> Path:
            files.append(folder / name)
            return files[-1]

        for table in self.tables:
            place(f"{table.name}.csv").write_text(table.csv(), "utf-8", "backslashreplace")
        for figure in self.figures:
            self.picture(figure.name).save(place(f"{figure.name}.png"))
            figure.save(place(f"{figure.name}.svg"))
        place("report.html").write_text(html(self), "utf-8", "backslashreplace")
        told = json.dumps(self.about(), indent=2, ensure_ascii=False, default=str)
        place(RESULT).write_text(told + "\n", "utf-8", "backslashreplace")
        return files

    @cached_property
    def text(self) -> str:
        """What came out, and what its reader should know."""
        return "\n".join([self.title, *(f"- {line}" for line in (*self.findings, *self.notes))])

    def __repr__(self) -> str:
        return f"<{self.study}: {'; '.join(self.findings) or self.title}>"

    def _repr_png_(self) -> bytes | None:
        return png_of(self.picture()) if self.figures else None


def result(
    study: Any,
    title: str,
    seed: int,
    subject: Album | DataSet,
    tables: Sequence[Table],
    figures: Sequence[Figure] = (),
    findings: Sequence[str] = (),
    notes: Sequence[str] = (),
    faults: int = 0,
) -> Result:
    """What a study's ``run`` gives back."""
    notes = (*subject.notes, *notes)
    paper, settings = study.traits.paper, asdict(study)
    return Result(study.name, paper, title, subject.about(), settings, seed, tables, figures, findings, notes, faults)


def earlier_files(folder: Path) -> set[str]:
    """The tables and figures of the result that a folder holds."""
    try:
        told = json.loads((folder / RESULT).read_text("utf-8"))
        names = [f"{name}.csv" for name in dict(told["tables"])]
        names += [f"{name}.{kind}" for name in dict(told["figures"]) for kind in ("png", "svg")]
    except (OSError, ValueError, TypeError, KeyError):
        return set()
    return {name for name in names if Path(name).name == name}


def forget(folder: Path, names: Iterable[str]) -> None:
    """Remove what an earlier result left and a later one does not have."""
    for name in names:
        (folder / name).unlink(missing_ok=True)


def in_words(value: Cell) -> str:
    """A cell as a person reads it."""
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:.3g}" if isinstance(value, float) else f"{value:,}" if isinstance(value, int) else value


def _plain(value: Cell) -> Cell:
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _named(kind: str, among: Sequence[Any], name: str | None) -> Any:
    if name is None and among:
        return among[0]
    for one in among:
        if one.name == name:
            return one
    raise unknown(kind, str(name), [one.name for one in among])
