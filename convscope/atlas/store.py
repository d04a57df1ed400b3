"""The atlas's database: all of its SQL. One SQLite file, read by any number of processes while one writes.

Schema 1; ``meta`` says which. Layers, units, images and classes are numbered from 0. ``patches`` has the images of each
unit: ``top`` ones by rank, ``middle`` ones about the median, ``random`` ones; ``row`` and ``col`` are on the layer's
map, NULL where it has none. ``renders`` are pictures of a unit on an image, by what they show (``photo``, a method, or
``pattern`` on no image, -1), with the box of the canvas that they are of. docs/atlas.md has it column by column.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

from convscope.errors import ConvscopeError, UsageError
from convscope.images.read import printable

FILE = "atlas.sqlite"
SCHEMA = 1
_TABLES = """
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE images (
    image INTEGER PRIMARY KEY, name NOT NULL, class INTEGER, height INTEGER, width INTEGER, content TEXT,
    shard, start INTEGER, bytes INTEGER, error TEXT
);
CREATE TABLE classes (class INTEGER PRIMARY KEY, name TEXT NOT NULL);
CREATE TABLE layers (
    layer INTEGER PRIMARY KEY, address TEXT NOT NULL UNIQUE, kind TEXT NOT NULL, units INTEGER NOT NULL,
    rows INTEGER, cols INTEGER, field TEXT NOT NULL, field_rows INTEGER, field_cols INTEGER,
    step_rows REAL, step_cols REAL
);
CREATE TABLE units (
    layer INTEGER NOT NULL, unit INTEGER NOT NULL, mean REAL, std REAL, max REAL, active REAL,
    q10 REAL, q50 REAL, q90 REAL, selectivity REAL, class INTEGER, dead INTEGER NOT NULL, duplicate_of INTEGER,
    PRIMARY KEY (layer, unit)
) WITHOUT ROWID;
CREATE TABLE patches (
    layer INTEGER NOT NULL, unit INTEGER NOT NULL, kind TEXT NOT NULL, rank INTEGER NOT NULL,
    image INTEGER NOT NULL, value REAL NOT NULL, row INTEGER, col INTEGER,
    PRIMARY KEY (layer, unit, kind, rank)
) WITHOUT ROWID;
CREATE TABLE neighbours (
    layer INTEGER NOT NULL, unit INTEGER NOT NULL, rank INTEGER NOT NULL, other INTEGER NOT NULL,
    correlation REAL NOT NULL, PRIMARY KEY (layer, unit, rank)
) WITHOUT ROWID;
CREATE TABLE renders (
    layer INTEGER NOT NULL, unit INTEGER NOT NULL, image INTEGER NOT NULL, what TEXT NOT NULL,
    picture BLOB NOT NULL, top INTEGER, "left" INTEGER, bottom INTEGER, "right" INTEGER, about TEXT NOT NULL,
    PRIMARY KEY (layer, unit, image, what)
);
"""
COLUMNS = {
    "images": ("image", "name", "class", "height", "width", "content", "shard", "start", "bytes", "error"),
    "classes": ("class", "name"),
    "layers": (
        *("layer", "address", "kind", "units", "rows", "cols", "field", "field_rows", "field_cols"),
        *("step_rows", "step_cols"),
    ),
    "units": (
        *("layer", "unit", "mean", "std", "max", "active", "q10", "q50", "q90", "selectivity", "class", "dead"),
        "duplicate_of",
    ),
    "patches": ("layer", "unit", "kind", "rank", "image", "value", "row", "col"),
    "neighbours": ("layer", "unit", "rank", "other", "correlation"),
    "renders": ("layer", "unit", "image", "what", "picture", "top", "left", "bottom", "right", "about"),
}
ORDERS = ("unit", "mean", "std", "max", "active", "q50", "selectivity")

LOCK = ".building"
BUSY = {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED}

Row = Mapping[str, Any]


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Be the only one who builds in a folder. The lock is one of SQLite's, which ends with its process everywhere."""
    try:
        with closing(sqlite3.connect(folder / LOCK, timeout=0, isolation_level=None)) as lock:
            lock.execute("BEGIN EXCLUSIVE")
            yield
    except sqlite3.OperationalError as error:
        if error.sqlite_errorcode not in BUSY:
            raise ConvscopeError(f"{folder} cannot be written: {error}") from error
        raise UsageError(f"{folder} is being built by another process: wait for it, or give another folder") from None


class Store:
    """The database of an atlas's folder. ``write``: by the one that builds it; else it is opened to be read."""

    def __init__(self, folder: Path, *, write: bool = False) -> None:
        self.file, self._writes = folder / FILE, write
        if not write and not self.file.is_file():
            raise UsageError(f"{folder} is no atlas: it has no {FILE}")
        with self._told():
            self._open = self._connected()
            if write:
                self._open.execute("PRAGMA journal_mode = WAL")
            schema = self._schema()
            if schema is None:
                if not write:
                    raise UsageError(f"{folder} is no atlas yet: its {FILE} is empty")
                with self.transaction():
                    for statement in filter(str.strip, _TABLES.split(";")):
                        self._open.execute(statement)
                    self.set_meta({"schema": SCHEMA})
            elif schema != SCHEMA:
                raise UsageError(f"{self.file} has schema {schema}, this convscope reads {SCHEMA}: build it anew")

    def _connected(self) -> sqlite3.Connection:
        connect = partial(sqlite3.connect, uri=True, isolation_level=None, check_same_thread=False)
        place = self.file.resolve().as_uri()
        found = connect(f"{place}?mode={'rwc' if self._writes else 'ro'}")
        if not self._writes:
            try:
                found.execute("SELECT * FROM sqlite_master").fetchone()
            except sqlite3.OperationalError:  # readers leave their marks beside it, where the disk lets them
                found.close()
                found = connect(f"{place}?mode=ro&immutable=1")
        found.row_factory = sqlite3.Row
        return found

    def close(self) -> None:
        if self._writes:
            # All in the one file, where no reader is at work: it may be copied alone, and lie on a read-only disk.
            with suppress(sqlite3.Error):
                self._open.execute("PRAGMA busy_timeout = 0")
                self._open.execute("PRAGMA journal_mode = DELETE")
        self._open.close()

    def _schema(self) -> int | None:
        tables = {row["name"] for row in self._open.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
        if not tables:
            return None
        if "meta" not in tables:
            return -1
        found = self._open.execute("SELECT value FROM meta WHERE key = 'schema'").fetchone()
        return int(json.loads(found["value"])) if found is not None else -1

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """All of what is written inside, or nothing."""
        with self._told():
            self._open.execute("BEGIN IMMEDIATE")
            try:
                yield
                self._open.execute("COMMIT")
            except BaseException:
                if self._open.in_transaction:
                    self._open.execute("ROLLBACK")
                raise

    @contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            raise ConvscopeError(f"{self.file}: {error}; what is there already is kept") from error

    def _rows(self, query: str, values: Sequence[Any] = ()) -> list[Row]:
        with self._told():
            return [_decoded(dict(row)) for row in self._open.execute(query, values)]

    # --- what there is to know of the whole

    def meta(self) -> dict[str, Any]:
        return {row["key"]: json.loads(row["value"]) for row in self._rows("SELECT key, value FROM meta")}

    def set_meta(self, values: Mapping[str, Any]) -> None:
        told = [(key, json.dumps(value)) for key, value in values.items()]
        with self._told():
            self._open.executemany("INSERT OR REPLACE INTO meta VALUES (?, ?)", told)

    def put(self, table: str, rows: Iterable[Sequence[Any]]) -> None:
        """Add rows, in the order of COLUMNS; over those with the same key."""
        names = COLUMNS[table]
        marks = ", ".join("?" * len(names))
        with self._told():
            self._open.executemany(
                f"INSERT OR REPLACE INTO {table} ({', '.join(map(_quoted, names))}) VALUES ({marks})",
                rows if table != "images" else map(_encoded, rows),
            )

    def set_errors(self, errors: Mapping[int, str]) -> None:
        """Say of images why they could not be read."""
        with self._told():
            self._open.executemany(
                "UPDATE images SET error = ? WHERE image = ?", [(printable(w), i) for i, w in errors.items()]
            )

    # --- what is asked

    def images(self) -> list[Row]:
        return self._rows("SELECT * FROM images ORDER BY image")

    def image(self, number: int) -> Row | None:
        return next(iter(self._rows("SELECT * FROM images WHERE image = ?", [number])), None)

    def parts(self, table: str, rows: int) -> Iterator[list[Row]]:
        """All rows of a table, so many at a time; names that are no UTF-8 as they can be printed."""
        if table not in COLUMNS:
            raise ValueError(table)
        with self._told():
            cursor = self._open.execute(f"SELECT * FROM {table}")
            while found := cursor.fetchmany(rows):
                decoded = (_decoded(dict(row)) for row in found)
                yield [{k: printable(v) if isinstance(v, str) else v for k, v in row.items()} for row in decoded]

    def count(self, table: str) -> int:
        """How many rows a table has."""
        if table not in COLUMNS:
            raise ValueError(table)
        return int(self._rows(f"SELECT COUNT(*) AS n FROM {table}")[0]["n"])

    def classes(self) -> list[str]:
        return [row["name"] for row in self._rows("SELECT name FROM classes ORDER BY class")]

    def layers(self) -> list[Row]:
        return self._rows("SELECT * FROM layers ORDER BY layer")

    def unit(self, layer: int, unit: int) -> Row | None:
        return next(iter(self._rows("SELECT * FROM units WHERE layer = ? AND unit = ?", [layer, unit])), None)

    def patches(self, layer: int, unit: int) -> list[Row]:
        """Of all kinds, each by rank, with the names of the images."""
        return self._rows(
            "SELECT patches.*, images.name, images.class FROM patches JOIN images USING (image) "
            "WHERE layer = ? AND unit = ? ORDER BY kind, rank",
            [layer, unit],
        )

    def renders(self, layer: int, unit: int) -> dict[tuple[int, str], Row]:
        """Pictures of a unit, by the number of the image and what they show."""
        rows = self._rows("SELECT * FROM renders WHERE layer = ? AND unit = ?", [layer, unit])
        return {(row["image"], row["what"]): row for row in rows}

    def rendered(self, layer: int, what: str) -> set[tuple[int, int]]:
        """Of which units of a layer, on which images, there are pictures of this kind."""
        rows = self._rows("SELECT unit, image FROM renders WHERE layer = ? AND what = ?", [layer, what])
        return {(row["unit"], row["image"]) for row in rows}

    def boxes(self, layer: int, what: str) -> dict[tuple[int, int], tuple[int, int, int, int]]:
        """Where the pictures of a kind lie on the canvas, by unit and image."""
        rows = self._rows(
            'SELECT unit, image, top, "left", bottom, "right" FROM renders WHERE layer = ? AND what = ?', [layer, what]
        )
        return {(row["unit"], row["image"]): (row["top"], row["left"], row["bottom"], row["right"]) for row in rows}

    def patches_of(self, layer: int, kind: str) -> list[Row]:
        """All patches of a kind of a layer's units."""
        return self._rows(
            "SELECT unit, rank, image, value, row, col FROM patches WHERE layer = ? AND kind = ? ORDER BY unit, rank",
            [layer, kind],
        )

    def neighbours(self, layer: int, unit: int) -> list[Row]:
        return self._rows("SELECT * FROM neighbours WHERE layer = ? AND unit = ? ORDER BY rank", [layer, unit])

    def units(self, order: str, layer: int | None, class_: int | None, dead: bool | None) -> list[Row]:
        """Units of a layer or of all, ordered: the highest first, except by number."""
        if order not in ORDERS:
            raise UsageError(f"units cannot be ordered by {order!r}: {', '.join(ORDERS)}")
        asked = {"units.layer": layer, "units.class": class_, "dead": None if dead is None else int(dead)}
        given = {name: value for name, value in asked.items() if value is not None}
        where = " AND ".join(f"{name} = ?" for name in given) or "1"
        by = "units.layer, unit" if order == "unit" else f"{order} IS NULL, {order} DESC, units.layer, unit"
        return self._rows(
            f"SELECT units.*, layers.address FROM units JOIN layers USING (layer) WHERE {where} ORDER BY {by}",
            list(given.values()),
        )


def _encoded(row: Sequence[Any]) -> list[Any]:
    """File names may hold bytes that are no UTF-8, which SQLite keeps as such."""
    return [_bytes_of(value) if isinstance(value, str) else value for value in row]


def _bytes_of(text: str) -> str | bytes:
    try:
        text.encode()
        return text
    except UnicodeEncodeError:
        return text.encode("utf-8", "surrogateescape")


def _decoded(row: dict[str, Any]) -> Row:
    for name in ("name", "shard"):
        if isinstance(row.get(name), bytes):
            row[name] = row[name].decode("utf-8", "surrogateescape")
    return row


def _quoted(name: str) -> str:
    return f'"{name}"' if name in ("left", "right") else name
