"""CSV tables and JSON lines: columns by what the user says or by their usual names, and every row kept or refused."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from convscope.data.listing import Listing
from convscope.data.sources import SourceOptions, open_source
from convscope.errors import UsageError
from tests.data.told import groups, labels, reasons, splits, tree

NAMES = ("a.jpg", "b.jpg", "c, d.jpg", "deep/e.png")


@pytest.fixture
def here(tmp_path: Path) -> Path:
    return tree(tmp_path, *NAMES)


def read(here: Path, text: str | bytes, name: str = "list.csv", **options: Any) -> Listing:
    (here / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    return open_source(str(here / name), SourceOptions(**options))


def lines(*records: object) -> str:
    return "".join(json.dumps(record) + "\n" for record in records)


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
@pytest.mark.parametrize("name", ["list.csv", "LIST.TSV"])
def test_the_delimiter_is_found_by_the_header(here: Path, delimiter: str, name: str) -> None:
    text = io.StringIO()
    rows = [["Breed", "note, and more; yes", "File"], ["cat", "", "a.jpg"], ["dog", "x", "c, d.jpg"]]
    csv.writer(text, delimiter=delimiter).writerows(rows)
    found = read(here, text.getvalue(), name)
    assert labels(found) == {"a.jpg": "cat", "c, d.jpg": "dog"}
    assert (found.kind, found.remarks, found.refused) == ("table", (), ())
    assert found.store.photo(1).size == (20, 12)


@pytest.mark.parametrize("path", ["path", "file", "filename", "file_name", "image", "photo", " Photo "])
@pytest.mark.parametrize("label", ["label", "class", "category", "breed"])
def test_usual_names_of_columns(here: Path, path: str, label: str) -> None:
    expected = {"a.jpg": "cat", "deep/e.png": "dog"}
    assert labels(read(here, f"{path},{label}\r\na.jpg,cat\r\n\r\ndeep/e.png,dog\r\n")) == expected
    records = [{path: name, label: word} for name, word in expected.items()]
    assert labels(read(here, lines(*records), "list.jsonl")) == expected


def test_columns_that_the_user_names(here: Path) -> None:
    columns = {"path": "where", "label": "sort"}
    text = "label,path,where,sort\nno,no.jpg,a.jpg,cat\n"
    assert labels(read(here, text, columns=columns)) == {"a.jpg": "cat"}
    assert labels(read(here, text.replace("where", "Where"), columns=columns)) == {"a.jpg": "cat"}
    with pytest.raises(UsageError, match=r"unknown column of .*list\.csv 'sorts'; nearest: sort"):
        read(here, text, columns={"label": "sorts"})
    with pytest.raises(UsageError, match="unknown column 'lable'; nearest: label"):
        read(here, text, columns={"lable": "sort"})


def test_a_table_without_a_column_of_paths_lists_its_columns(here: Path) -> None:
    with pytest.raises(UsageError, match=r"no column of paths, such as 'path'; its columns are a\.jpg, cat; name one"):
        read(here, "a.jpg,cat\nb.jpg,dog\n")  # no header
    with pytest.raises(UsageError, match="its columns are name, sort; name one with --columns path=NAME"):
        read(here, lines({"name": "a.jpg"}, {"sort": "cat"}), "list.ndjson")


def test_of_two_columns_that_would_do_the_first_is_taken_and_told(here: Path) -> None:
    found = read(here, "breed,filename,class\nx,a.jpg,cat\n")
    assert labels(found) == {"a.jpg": "cat"}
    assert found.remarks == ("the label is read from the column 'class', not from breed",)
    with pytest.raises(UsageError, match=r"list.csv has two columns 'label'; rename one"):
        read(here, "path,label,label\na.jpg,cat,dog\n")


def test_without_a_label_column_photos_have_no_label(here: Path) -> None:
    for found in (
        read(here, "path\na.jpg\nb.jpg\n"),
        read(here, lines({"path": "a.jpg"}, {"path": "b.jpg"}), "l.jsonl"),
    ):
        assert labels(found) == {"a.jpg": None, "b.jpg": None}
        assert found.classes == ()


def test_rows_of_another_length_are_refused_with_their_line(here: Path) -> None:
    found = read(here, 'path,label\n\na.jpg,cat\nb.jpg\n"c, d.jpg",dog,\nc, d.jpg,dog\n,cat\nb.jpg, \n')
    assert labels(found) == {"a.jpg": "cat", "c, d.jpg": "dog"}
    assert [(refused.name, refused.reason) for refused in found.refused] == [
        ("b.jpg", "line 4 has 1 cells, and the header 2"),
        ("c", "line 6 has 3 cells, and the header 2"),
        ("list.csv:7", "line 7 has no path"),
        ("b.jpg", "line 8 has no label"),
    ]


def test_lines_are_counted_through_cells_with_line_breaks(here: Path) -> None:
    found = read(here, 'path,label,note\na.jpg,cat,"one\ntwo\nthree"\nb.jpg\n')
    assert reasons(found) == {"b.jpg": "line 5 has 1 cells, and the header 3"}
    with pytest.raises(UsageError, match=r"line 3 is no row \(unexpected end of data\); is a quote left open\?"):
        read(here, 'path,label\na.jpg,cat\nb.jpg,"dog\nc.jpg,dog\n')


def test_lines_that_are_no_object_are_refused(here: Path) -> None:
    text = lines({"path": "a.jpg", "label": "cat"}) + "\n{'path': 'b.jpg'}\n[1]\n\n" + "[" * 100_000 + "\n"
    found = read(here, text, "list.jsonl")
    assert labels(found) == {"a.jpg": "cat"}
    assert reasons(found) == {f"list.jsonl:{number}": f"line {number} is no JSON object" for number in (3, 4, 6)}
    with pytest.raises(UsageError, match="no line is a JSON object with a path"):
        read(here, "[1]\n{}\n", "list.jsonl")


def test_values_that_are_neither_text_nor_number_are_refused(here: Path) -> None:
    text = lines(
        {"path": "a.jpg", "label": 3},
        {"path": "b.jpg", "label": True},
        {"path": ["b.jpg"], "label": "cat"},
        {"path": "b.jpg", "label": 3.0},
        {"path": "b.jpg", "label": None},
        {"path": "b.jpg"},
        {"label": "cat"},
        {"path": "\ud83d.jpg", "label": "cat"},
        {"path": "a\0.jpg", "label": "cat"},
    )
    found = read(here, text, "list.jsonl")
    assert labels(found) == {"a.jpg": "3"}
    assert [refused.reason for refused in found.refused] == [
        "line 2 has a label that is neither text nor a whole number",
        "line 3 has a path that is neither text nor a whole number",
        "line 4 has a label that is neither text nor a whole number",
        "line 5 has no label",
        "line 6 has no label",
        "line 7 has no path",
        "line 8 has no path",
        "line 9 has no path",
    ]


def test_split_and_group_columns(here: Path) -> None:
    text = "path,label,Subset,group\na.jpg,cat,Train,tom\nb.jpg,cat,valid,\ndeep/e.png,cat,,tom\n"
    found = read(here, text)
    assert splits(found) == {"a.jpg": "train", "b.jpg": "val", "deep/e.png": None}
    assert groups(found) == [["a.jpg", "deep/e.png"], ["b.jpg"]]
    with pytest.raises(UsageError, match="'tset' is no split: train, val or test"):
        read(here, text.replace("valid", "tset"))
    records = [{"image": "a.jpg", "split": "test", "group": 1}, {"image": "b.jpg", "group": "1"}]
    found = read(here, lines(*records), "list.jsonl")
    assert splits(found) == {"a.jpg": "test", "b.jpg": None}
    assert groups(found) == [["a.jpg", "b.jpg"]]


def test_folds_are_no_splits_unless_the_user_says_so(here: Path) -> None:
    text = "path,label,fold\na.jpg,cat,0\nb.jpg,cat,1\n"
    found = read(here, text)
    assert set(splits(found).values()) == {None}
    assert found.remarks == ("the column 'fold' names no splits and is not read: 0, 1",)
    with pytest.raises(UsageError, match="'0' is no split"):
        read(here, text, columns={"split": "fold"})


def test_a_pattern_wins_over_a_group_column_but_not_over_the_users(here: Path) -> None:
    text = "path,label,group,cat\na.jpg,cat,1,x\nb.jpg,cat,1,x\n"
    found = read(here, text, group=r"^(.)\.jpg")
    assert groups(found) == [["a.jpg"], ["b.jpg"]]
    assert found.remarks == ("the column 'group' is not read: the group is said by a regular expression",)
    with pytest.raises(UsageError, match="by a column or by a regular expression, not by both"):
        read(here, text, group="(.)", columns={"group": "cat"})


@pytest.mark.parametrize(
    ("other", "reason"),
    [
        ("cat,train,tom", "listed twice"),
        ("dog,train,tom", "listed with 2 labels: cat, dog"),
        ("cat,test,tom", "listed with 2 splits: test, train"),
        ("cat,,tom", "listed with 2 splits: none, train"),
        ("cat,train,kit", "listed with 2 groups: kit, tom"),
    ],
)
def test_rows_that_disagree_about_a_photo_are_all_refused(here: Path, other: str, reason: str) -> None:
    text = f"path,label,split,group\nb.jpg,cat,val,x\na.jpg,cat,train,tom\n./a.jpg,{other}\n"
    found = read(here, text)
    twice = reason == "listed twice"
    assert reasons(found) == ({} if twice else {"a.jpg": reason}) | {"./a.jpg": reason}
    assert list(labels(found)) == ["b.jpg", "a.jpg"][: 1 + twice]


def test_integer_labels_of_a_table_index_into_the_users_classes(here: Path) -> None:
    found = read(here, "path,label\na.jpg,1\nb.jpg,0\n", classes=("cat", "dog"))
    assert labels(found) == {"a.jpg": "dog", "b.jpg": "cat"}


def test_the_root_of_a_table(here: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    other = tmp_path_factory.mktemp("tables")
    assert labels(read(other, "path,label\ndeep\\e.png,dog\n", root=here)) == {"deep/e.png": "dog"}
    with pytest.raises(UsageError, match="none of its 1 photos is there"):
        read(other, "path,label\na.jpg,dog\n")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty; the first row of a table names its columns"),
        (b"path,label\n", "it is empty; a table has a row for each photo"),
        (b"path,label\na.jpg\n", "no line names a photo: line 2 has 1 cells"),
        (b"path,label\na.jpg,gr\xf6\xdfe\n", "line 2 is not UTF-8 text"),
        ("path,label\na.jpg,x\n".encode("utf-16"), "is UTF-16 text; save it as UTF-8"),
        (b"PK\x03\x04\0\0\0", "is not a text file"),
    ],
)
def test_what_is_no_table_is_an_error(here: Path, content: bytes, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        read(here, content)


cell = st.text(st.sampled_from("ab,;\t\"' ü1"), max_size=6)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.sampled_from([*NAMES, "gone.jpg"]), cell, cell), min_size=1), st.sampled_from(",;\t"))
def test_tables_and_json_lines_say_the_same(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[str, str, str]], delimiter: str
) -> None:
    here = tmp_path_factory.getbasetemp() / "same"
    if not here.exists():
        tree(here, *NAMES)
    text = io.StringIO()
    table = csv.writer(text, delimiter=delimiter, quoting=csv.QUOTE_ALL)
    table.writerows([("note", "path", "label"), *((note, path, word) for path, word, note in rows)])
    said: dict[str, set[str]] = {}
    for path, word, _ in rows:
        if word.strip() and path != "gone.jpg":
            said.setdefault(path, set()).add(word.strip())
    expected = {path: next(iter(words)) for path, words in said.items() if len(words) == 1}
    records = lines(*({"path": path, "label": word, "note": note} for path, word, note in rows))
    for name, content in (("list.csv", text.getvalue()), ("list.jsonl", records)):
        if not expected:
            with pytest.raises(UsageError):
                read(here, content, name)
            continue
        found = read(here, content, name)
        assert labels(found) == expected
        assert len(found.store) + len(found.refused) == len(rows)
