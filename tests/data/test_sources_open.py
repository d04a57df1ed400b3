"""The one door to all sources: what is there decides, and where nothing fits one line says why."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from convscope.data.sources import SourceOptions, open_source
from convscope.errors import ConvscopeError, UsageError
from tests.data.told import labels, tree


def test_each_kind_is_known_by_what_is_there(tmp_path: Path) -> None:
    tree(tmp_path, "photos/cat/1.jpg", "photos/dog/1.jpg")
    (tmp_path / "list.txt").write_text("photos/cat/1.jpg cat\n")
    (tmp_path / "list.csv").write_text("path\nphotos/cat/1.jpg\n")
    (tmp_path / "list.jsonl").write_text('{"path": "photos/cat/1.jpg"}\n')
    kinds = {name: open_source(str(tmp_path / name)).kind for name in ("photos", "list.txt", "list.csv", "list.jsonl")}
    assert kinds == {"photos": "folder", "list.txt": "list", "list.csv": "table", "list.jsonl": "table"}
    assert open_source("digits").kind == "set"


def test_the_source_is_kept_as_it_was_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tree(tmp_path, "photos/cat/1.jpg")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    for source in ("photos", "photos/", "./photos", "~/photos"):
        found = open_source(source)
        assert (found.source, labels(found)) == (source, {"cat/1.jpg": "cat"})
        assert found.store.photo(0).size == (20, 12)


def test_what_is_there_wins_over_a_set_of_the_same_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tree(tmp_path, "digits/cat/1.jpg")
    monkeypatch.chdir(tmp_path)
    found = open_source("digits")
    assert found.kind == "folder"
    assert found.remarks == ("digits is read from here, not the set of that name",)


def test_a_missing_source_names_the_nearest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tree(tmp_path, "photos/cat/1.jpg", "list.csv")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError) as caught:
        open_source("photo")
    assert str(caught.value) == f"photo: no such file or folder in {tmp_path}; nearest: photos"
    with pytest.raises(UsageError, match=f"^{tmp_path}/lst.csv: no such file or folder; nearest: {tmp_path}/list.csv$"):
        open_source(f"{tmp_path}/lst.csv")
    with pytest.raises(UsageError, match=r"digit: no such file or folder in .*; nearest: digits$"):
        open_source("digit")
    with pytest.raises(
        UsageError, match=r"nowhere/at/all: no such file or folder in .*; a source is a folder of photos"
    ):
        open_source("nowhere/at/all")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("cat.jpg", r"cat\.jpg is a single photo; a source of photos is a folder of photos, a list"),
        ("photos.zip", r"photos\.zip is an archive: unpack it and name the folder"),
        ("list.csv.gz", r"list\.csv\.gz is an archive: unpack it"),
        ("model.pt", r"model\.pt: a file ending in \.pt is no source of photos"),
        ("notes", "notes is not a text file"),
    ],
)
def test_a_file_that_is_no_source(tmp_path: Path, name: str, message: str) -> None:
    tree(tmp_path, name)
    with pytest.raises(UsageError, match=message):
        open_source(str(tmp_path / name))


def test_other_things_that_are_no_source(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(UsageError, match="pipe is neither a file nor a folder"):
        open_source(str(tmp_path / "pipe"))
    for empty in ("", "  "):
        with pytest.raises(UsageError, match="no source is named; it is a folder of photos"):
            open_source(empty)
    with pytest.raises(UsageError, match="a pattern may name tar shards only; name the folder of the photos"):
        open_source(str(tmp_path / "*.jpg"))
    with pytest.raises(UsageError, match="no such file or folder"):
        open_source("x\0y")


@pytest.mark.parametrize("name", ["list.txt", "list.csv", "list.jsonl", "train-images-idx3-ubyte", "a.tar"])
def test_a_file_that_cannot_be_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    tree(tmp_path, name)

    def deny(*args: Any, **how: Any) -> None:  # tests may run as root, whom no mode keeps out
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("builtins.open", deny)
    monkeypatch.setattr("io.open", deny)
    with pytest.raises(UsageError, match="cannot be opened: no permission; make it readable"):
        open_source(str(tmp_path / name))


@pytest.mark.parametrize(
    ("name", "options", "option"),
    [
        ("photos", {"root": Path("x")}, "root"),
        ("photos", {"download": True}, "download"),
        ("photos", {"columns": {"path": "x"}}, "columns"),
        ("list.txt", {"columns": {"path": "x"}}, "columns"),
        ("list.csv", {"download": True}, "download"),
        ("digits", {"columns": {"path": "x"}}, "columns"),
    ],
)
def test_options_of_no_use_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, options: dict[str, Any], option: str
) -> None:
    tree(tmp_path, "photos/cat/1.jpg")
    for file in ("list.txt", "list.csv"):
        (tmp_path / file).write_text("path,label\n")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match=f"{name}: --{option} is of no use for this kind of source; leave it out"):
        open_source(name, SourceOptions(**options))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"group": "("}, r"the group '\(' is no regular expression: missing \)"),
        ({"classes": ()}, "classes are names, none of them empty"),
        ({"classes": ("cat", " ")}, "classes are names, none of them empty"),
        ({"classes": ("cat", "dog", "cat")}, "the class 'cat' is named twice"),
        ({"columns": {"paths": "x"}}, "unknown column 'paths'; nearest: path"),
    ],
)
def test_options_that_cannot_be_meant(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        SourceOptions(**options)


def test_every_error_is_one_line(tmp_path: Path) -> None:
    tree(tmp_path, "odd\nname/x.txt", "b\nc.jpg")
    for source in ("odd\nname", "b\nc.jpg", "b\nd.jpg"):
        with pytest.raises(ConvscopeError) as caught:
            open_source(str(tmp_path / source))
        assert "\n" not in str(caught.value)
