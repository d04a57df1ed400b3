"""Lists of photos: text with a path and label a line, CSV and TSV tables, and JSON lines."""

from __future__ import annotations

import codecs
import csv
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import IO, Any, NamedTuple

from convscope.data.listing import WORDS, Listing
from convscope.data.sources.entries import cannot_read, some
from convscope.data.sources.options import PLAIN, SourceOptions, decoded
from convscope.data.sources.rows import Left, Row, left, rows_listing
from convscope.errors import UsageError, unknown
from convscope.images.read import printable

USUAL = {  # the columns that hold each, the first that is there
    "path": ("path", "file", "filename", "file_name", "image", "photo"),
    "label": ("label", "class", "category", "breed"),
    "group": ("group",),
    "split": ("split", "fold", "subset"),
}
WIDE = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


@contextmanager
def _text(source: str, newline: str) -> Iterator[IO[str]]:
    """A file of UTF-8 text, with or without a byte order mark. Bytes that are no UTF-8 survive, as file names need."""
    try:
        with open(source, "rb") as file:
            head = file.read(4096)
        if head.startswith(WIDE):
            raise UsageError(f"{printable(source)} is UTF-16 text; save it as UTF-8")
        if b"\0" in head:
            raise UsageError(f"{printable(source)} is not a text file; a list has a path and a label on each line")
        with open(source, encoding="utf-8-sig", errors="surrogateescape", newline=newline) as text:
            yield text
    except (OSError, ValueError) as error:
        raise cannot_read(source, error) from None


def read_list(source: str, options: SourceOptions = PLAIN) -> Listing:
    """A text list: a path and a label on each line, with a tab between them, or else the last blanks of the line.

    A path may be in quotes. Paths begin at ``options.root``, or where the list is.
    """
    rows: list[Row] = []
    out: list[Left] = []
    with _text(source, "\n") as text:
        for number, line in enumerate(text, 1):
            line = line.removesuffix("\n").removesuffix("\r")
            if not line.strip(" \t"):
                continue
            path, label = _parted(line)
            if not path or not label:
                what = "has no label" if not label else "has no path"
                out.append(left(source, number, what, path, label))
                continue
            _check_label(source, number, label)
            rows.append(Row(number, path, label))
    _some_rows(source, rows, out, "a list has a path and a label on each line")
    return rows_listing(source, "list", rows, out, options)


def _parted(line: str) -> tuple[str, str]:
    """A line's path and label, "" for what it has not."""
    if "\t" in line:
        path, _, label = line.rpartition("\t")
    else:
        path, *rest = line.strip(" ").rsplit(" ", 1)
        label = rest[0] if rest else ""
        if path[0] in "\"'" and path[0] not in path[1:] and label.endswith(path[0]):  # a path with blanks, alone
            path, label = f"{path} {label}", ""
    path = path.strip(" \t")
    if len(path) > 1 and path[0] == path[-1] and path[0] in "\"'":
        path = path[1:-1]
    return path, label.strip(" \t")


def _check_label(source: str, line: int, label: str | None) -> None:
    """Refuse what cannot be a class's name: the list is in another encoding, and guessing would garble the rest."""
    if label is not None and not decoded(label):
        raise UsageError(f"{printable(source)}: line {line} is not UTF-8 text ({label!a}); save the list as UTF-8")


def _some_rows(source: str, rows: Sequence[Row], out: Sequence[Left], form: str) -> None:
    if not rows:
        found = f"no line names a photo: {out[0].refused.reason}" if out else "it is empty"
        raise UsageError(f"{printable(source)}: {found}; {form}")


class Columns(NamedTuple):
    """The name of the column that holds each, None where there is none."""

    path: str
    label: str | None
    group: str | None
    split: str | None


def _columns(source: str, there: Sequence[str], options: SourceOptions) -> tuple[Columns, list[str]]:
    """Which columns of a table hold what, as the user says or by their usual names; remarks where two would do."""
    found: dict[str, str | None] = {}
    remarks = []
    folded: dict[str, str] = {}
    for name in there:
        folded.setdefault(name.strip().casefold(), name)
    for role, usual in USUAL.items():
        if role in options.columns:
            wanted = options.columns[role]
            found[role] = wanted if wanted in there else folded.get(wanted.strip().casefold())
            if found[role] is None:
                raise unknown(f"column of {printable(source)}", wanted, there)
            continue
        likely = [folded[name] for name in usual if name in folded and folded[name] not in options.columns.values()]
        found[role] = likely[0] if likely else None
        if len(likely) > 1:
            remarks.append(f"the {role} is read from the column {likely[0]!r}, not from {some(likely[1:])}")
    if found["path"] is None:
        raise UsageError(
            f"{printable(source)} has no column of paths, such as {USUAL['path'][0]!r}; its columns are "
            f"{some(list(there), 12)}; name one with --columns path=NAME"
        )
    if options.group is not None and found["group"] is not None:
        remarks.append(f"the column {found['group']!r} is not read: the group is said by a regular expression")
        found["group"] = None
    return Columns(found["path"], found["label"], found["group"], found["split"]), remarks


def read_csv(source: str, options: SourceOptions = PLAIN) -> Listing:
    """A table whose first row names its columns, separated by commas, semicolons or tabs."""
    rows: list[Row] = []
    out: list[Left] = []
    with _text(source, "") as text:
        delimiter = _delimiter(next((line for line in text if line.strip()), ""))
        text.seek(0)
        cells = _cells(source, csv.reader(text, delimiter=delimiter, skipinitialspace=True, strict=True))
        header = [name.strip() for name in next(cells, (0, []))[1]]
        if not header:
            raise UsageError(f"{printable(source)} is empty; the first row of a table names its columns")
        columns, remarks = _columns(source, header, options)
        if twice := [name for name in columns if name is not None and header.count(name) > 1]:
            raise UsageError(f"{printable(source)} has two columns {twice[0]!r}; rename one")
        for number, row in cells:
            extra = any(cell.strip() for cell in row[len(header) :])  # a delimiter at the end of a row does no harm
            if len(row) < len(header) or extra:
                out.append(left(source, number, f"has {len(row)} cells, and the header {len(header)}", row[0].strip()))
            else:
                _add(source, number, dict(zip(header, row, strict=False)), columns, rows, out)
    return _finished(source, rows, out, columns, remarks, options)


def _delimiter(header: str) -> str:
    """What separates a header's names: by what most of the usual ones are found, then by what makes most of them."""
    usual = {name for names in USUAL.values() for name in names}

    def found(delimiter: str) -> tuple[int, int]:
        names = next(csv.reader([header], delimiter=delimiter, skipinitialspace=True), [])
        return sum(name.strip().casefold() in usual for name in names), len(names)

    return max((",", ";", "\t"), key=found)


def _cells(source: str, reader: Any) -> Iterator[tuple[int, list[str]]]:
    """Each row that is not blank, with the number of the line it begins on."""
    line = 1
    try:
        for cells in reader:
            if len(cells) > 1 or (cells and cells[0].strip()):
                yield line, cells
            line = reader.line_num + 1
    except csv.Error as error:
        raise UsageError(f"{printable(source)}: line {line} is no row ({error}); is a quote left open?") from None


def read_json_lines(source: str, options: SourceOptions = PLAIN) -> Listing:
    """A JSON object on each line, whose keys are a table's columns."""
    keys: dict[str, None] = {}
    rows: list[Row] = []
    out: list[Left] = []
    for _, record in _objects(source):
        keys |= dict.fromkeys(record or ())
    if not keys:
        raise UsageError(f"{printable(source)}: no line is a JSON object with a path")
    columns, remarks = _columns(source, list(keys), options)
    for number, record in _objects(source):
        if record is None:
            out.append(left(source, number, "is no JSON object"))
        else:
            _add(source, number, record, columns, rows, out)
    return _finished(source, rows, out, columns, remarks, options)


def _objects(source: str) -> Iterator[tuple[int, dict[str, Any] | None]]:
    """Each line that is not blank as its object; None if it is none."""
    with _text(source, "\n") as text:
        for number, line in enumerate(text, 1):
            if line.strip():
                try:
                    found = json.loads(line)
                except (ValueError, RecursionError):
                    found = None
                yield number, found if isinstance(found, dict) else None


def _add(source: str, line: int, record: Mapping[str, Any], columns: Columns, rows: list[Row], out: list[Left]) -> None:
    """What a table's row says, as a row or as what is left out."""
    said: dict[str, str | None] = {}
    for role, column in columns._asdict().items():
        value = record.get(column) if column is not None else None
        if value is not None and (isinstance(value, bool) or not isinstance(value, str | int)):
            out.append(left(source, line, f"has a {role} that is neither text nor a whole number"))
            return
        said[role] = (None if value is None else str(value).strip()) or None
    path, label = said["path"], said["label"]
    if path is None or not _possible(path):
        out.append(left(source, line, "has no path", label=label or ""))
    elif columns.label is not None and label is None:
        out.append(left(source, line, "has no label", path))
    else:
        _check_label(source, line, label)
        rows.append(Row(line, path, label, said["split"], said["group"]))


def _possible(path: str) -> bool:
    """Whether a path can be a file's: JSON may hold halves of letters."""
    try:
        return "\0" not in path and path.encode("utf-8", "surrogateescape") != b""
    except UnicodeEncodeError:
        return False


def _finished(
    source: str, rows: list[Row], out: list[Left], columns: Columns, remarks: list[str], options: SourceOptions
) -> Listing:
    _some_rows(source, rows, out, "a table has a row for each photo")
    divided = columns.split is not None
    said = {row.split for row in rows} - {None}
    if divided and "split" not in options.columns and not {str(word).casefold() for word in said} & WORDS.keys():
        divided = False  # the folds of a cross-validation, for one
        rows = [row._replace(split=None) for row in rows]
        if said:
            words = some(sorted(map(str, said)))
            remarks.append(f"the column {columns.split!r} names no splits and is not read: {words}")
    return rows_listing(
        source, "table", rows, out, options, remarks, divided=divided, grouped=columns.group is not None
    )
