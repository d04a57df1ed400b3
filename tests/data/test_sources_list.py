"""Text lists: what a slow parser of the same rules finds, and every line is kept or refused."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from convscope.data.listing import Listing
from convscope.data.sources import SourceOptions, open_source
from convscope.errors import UsageError
from tests.data.told import labels, reasons, tree

NAMES = ("a.jpg", "my cat.jpg", "deep/b.png", "deep/über maß.webp", "no suffix", "tab\u00a0x.jpg")


@pytest.fixture
def here(tmp_path: Path) -> Path:
    return tree(tmp_path, *NAMES)


def read(here: Path, text: str | bytes, options: SourceOptions | None = None, name: str = "list.txt") -> Listing:
    (here / name).write_bytes(text if isinstance(text, bytes) else text.encode("utf-8", "surrogateescape"))
    return open_source(str(here / name), options or SourceOptions())


@pytest.mark.parametrize("name", ["list.txt", "list.lst", "LIST.list", "train_list"])
def test_a_path_and_a_label_on_each_line(here: Path, name: str) -> None:
    found = read(here, "deep/b.png dog\n\n   \na.jpg cat\n", name=name)
    assert labels(found) == {"deep/b.png": "dog", "a.jpg": "cat"}
    assert (found.kind, found.classes, found.refused, found.remarks) == ("list", ("cat", "dog"), (), ())
    assert found.store.photo(1).size == (20, 12)


@pytest.mark.parametrize(
    ("line", "path", "label"),
    [
        ("my cat.jpg  cat", "my cat.jpg", "cat"),
        ("my cat.jpg\ttabby cat", "my cat.jpg", "tabby cat"),
        ("  a.jpg cat  ", "a.jpg", "cat"),
        ("'my cat.jpg' cat", "my cat.jpg", "cat"),
        ('"my cat.jpg"\tcat', "my cat.jpg", "cat"),
        ("tab\u00a0x.jpg cat", "tab\u00a0x.jpg", "cat"),  # no blank, but part of a name
        ("deep\\b.png cat", "deep/b.png", "cat"),  # Windows
        ("deep/über maß.webp größe", "deep/über maß.webp", "größe"),
        ("./deep//b.png 007", "./deep//b.png", "007"),
    ],
)
def test_what_a_line_says(here: Path, line: str, path: str, label: str) -> None:
    assert labels(read(here, line)) == {path: label}


def test_a_real_backslash_in_a_name_wins(here: Path) -> None:
    tree(here, "deep\\b.png")
    assert labels(read(here, "deep\\b.png cat")) == {"deep\\b.png": "cat"}


@pytest.mark.parametrize("form", ["utf-8", "utf-8-sig"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_line_ends_and_byte_order_marks(here: Path, form: str, end: str) -> None:
    text = end.join(["a.jpg cat", "", "deep/über maß.webp\tdog", ""])
    assert labels(read(here, text.encode(form))) == {"a.jpg": "cat", "deep/über maß.webp": "dog"}


def test_lines_without_label_or_path_are_refused_with_their_number(here: Path) -> None:
    found = read(here, 'a.jpg cat\n\ndeep/b.png\nno_blanks\n"my cat.jpg"\nno suffix\t\n\tcat\n')
    assert labels(found) == {"a.jpg": "cat"}
    assert reasons(found) == {
        "deep/b.png": "line 3 has no label",
        "no_blanks": "line 4 has no label",
        "my cat.jpg": "line 5 has no label",
        "no suffix": "line 6 has no label",
        "list.txt:7": "line 7 has no path",
    }
    assert found.refused[-1].label == "cat"


def test_integer_labels_keep_their_number(here: Path) -> None:
    found = read(here, "a.jpg 10\ndeep/b.png 3\n")
    assert (found.classes, found.labels.tolist(), found.remarks) == (("3", "10"), [1, 0], ())


def test_integer_labels_index_into_the_users_classes(here: Path) -> None:
    found = read(here, "a.jpg 2\ndeep/b.png 0\n", SourceOptions(classes=("cat", "cow", "dog")))
    assert labels(found) == {"a.jpg": "dog", "deep/b.png": "cat"}
    assert found.classes == ("cat", "cow", "dog")
    assert found.remarks == ("integer labels are indices: 0 is cat",)
    with pytest.raises(UsageError, match="label 3 is out of range: 3 classes are named, for labels 0 to 2"):
        read(here, "a.jpg 1\ndeep/b.png 3\n", SourceOptions(classes=("cat", "cow", "dog")))
    with pytest.raises(UsageError, match="label -1 is out of range"):
        read(here, "a.jpg -1\n", SourceOptions(classes=("cat", "cow", "dog")))


def test_classes_that_are_numbers_are_names(here: Path) -> None:
    found = read(here, "a.jpg 7\ndeep/b.png 3\n", SourceOptions(classes=("7", "3")))
    assert (found.labels.tolist(), found.remarks) == ([0, 1], ())


def test_named_labels_must_be_among_the_users_classes(here: Path) -> None:
    options = SourceOptions(classes=("dog", "cat"))
    assert read(here, "a.jpg cat\n", options).labels.tolist() == [1]
    for other in ("cow", "1"):  # beside a name a number is no index
        with pytest.raises(UsageError, match=rf"'{other}' is not among the 2 classes \(dog, cat\)"):
            read(here, f"a.jpg cat\ndeep/b.png {other}\n", options)


def test_missing_files_are_refused_and_folders_too(here: Path) -> None:
    found = read(here, "gone.jpg cat\na.jpg cat\ndeep dog\na.jpg/x dog\n" + "x" * 300 + " dog\n")
    assert labels(found) == {"a.jpg": "cat"}
    assert found.classes == ("cat",)
    assert reasons(found) == {
        "gone.jpg": "no such file",
        "deep": "is a folder",
        "a.jpg/x": "no such file",
        "x" * 300: "no such file",
    }
    assert found.refused[0].label == "cat"


def test_paths_begin_at_the_list_or_at_the_root(here: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    other = tmp_path_factory.mktemp("lists")
    with pytest.raises(UsageError) as caught:
        read(other, "deep/b.png dog\na.jpg cat\n")
    assert str(caught.value) == (
        f"{other}/list.txt: none of its 2 photos is there; deep/b.png was looked for as {other}/deep/b.png; "
        "say where the paths begin with --root"
    )
    assert labels(read(other, "deep/b.png dog\n", SourceOptions(root=here))) == {"deep/b.png": "dog"}
    absolute = str(here / "a.jpg")
    assert labels(read(other, f"{absolute} cat\n")) == {absolute: "cat"}
    with pytest.raises(UsageError, match=r"--root .*nowhere is not a folder"):
        read(other, "a.jpg cat\n", SourceOptions(root=here / "nowhere"))


def test_a_list_in_the_working_folder(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read(here, "a.jpg cat\n")
    monkeypatch.chdir(here)
    assert labels(open_source("list.txt")) == {"a.jpg": "cat"}


def test_a_photo_listed_twice_is_kept_once(here: Path) -> None:
    os.symlink("a.jpg", here / "link.jpg")
    os.symlink("deep", here / "also")
    found = read(here, "a.jpg cat\n./a.jpg cat\nlink.jpg cat\nalso/b.png dog\ndeep/../deep/b.png dog\n")
    assert labels(found) == {"a.jpg": "cat", "also/b.png": "dog"}
    assert reasons(found) == dict.fromkeys(["./a.jpg", "link.jpg", "deep/../deep/b.png"], "listed twice")


def test_a_photo_with_two_labels_is_refused_with_both(here: Path) -> None:
    found = read(here, "a.jpg dog\ndeep/b.png dog\n./a.jpg cat\n.//a.jpg dog\n")
    assert labels(found) == {"deep/b.png": "dog"}
    assert reasons(found) == dict.fromkeys(["a.jpg", "./a.jpg", ".//a.jpg"], "listed with 2 labels: cat, dog")
    assert [refused.label for refused in found.refused] == ["dog", "cat", "dog"]
    with pytest.raises(UsageError, match=r"no photo is left of 2; the first, a.jpg: listed with 2 labels: 1, 2"):
        read(here, "a.jpg 1\na.jpg 2\n")


def test_file_names_that_are_no_utf8_survive(here: Path) -> None:
    os.rename(here / "a.jpg", os.fsencode(here) + b"/caf\xe9.jpg")
    found = read(here, b"caf\xe9.jpg cat\ndeep/b.png cat\nna\xefve.jpg dog\n")
    assert found.store.photo(0).size == (20, 12)
    assert reasons(found) == {"na\udcefve.jpg": "no such file; line 3 is not UTF-8 text"}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"a.jpg cat\ndeep/b.png gr\xf6\xdfe\n", r"line 2 is not UTF-8 text \('gr\\udcf6\\udcdfe'\); save the list as"),
        ("a.jpg cat\n".encode("utf-16"), "is UTF-16 text; save it as UTF-8"),
        (b"\x89PNG\r\n\0\0\0", "is not a text file"),
        (b"", "it is empty; a list has a path and a label on each line"),
        (b"\n \r\n\t\n", "it is empty"),
        (b"a.jpg\nb.jpg\n", "no line names a photo: line 1 has no label; a list has a path and a label"),
    ],
)
def test_what_is_no_list_is_an_error_that_names_the_line(here: Path, content: bytes, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        read(here, content)


# Any lines at all

blanks = st.sampled_from([" ", "  ", "\t", " \t "])
listed = st.sampled_from([*NAMES, "gone.jpg", "deep\\b.png", "./a.jpg", "deep/../a.jpg", "deep", '"my cat.jpg"'])
words = st.sampled_from(["cat", "dog", "3", "12", "größe"])
line = st.one_of(
    st.builds("".join, st.tuples(listed, blanks, words)),
    st.builds("".join, st.tuples(blanks, listed, blanks, words, blanks)),
    listed,
    st.sampled_from(["", " ", "\t", "\r", "cat"]),
    st.text(st.characters(exclude_characters="\n\0", codec="utf-8"), max_size=8),
)


def slowly(here: Path, text: str) -> tuple[list[tuple[str, str]], int]:
    """The photos and labels of a list, by its rules, and how many of its lines are not blank."""
    said: list[tuple[Path, str]] = []
    count = 0
    for line in text.split("\n"):
        if line[-1:] == "\r":
            line = line[:-1]
        if not line.replace(" ", "").replace("\t", ""):
            continue
        count += 1
        cut = line.rfind("\t") if "\t" in line else line.rstrip(" ").rfind(" ")
        path, label = line[: max(cut, 0)], line[cut + 1 :]
        path, label = path.strip(" \t"), label.strip(" \t")
        if len(path) >= 2 and path[0] in "'\"" and path[-1] == path[0]:
            path = path[1:-1]
        file = here / path
        if os.path.isabs(path) or not path or not label:
            continue
        with_slashes = here / path.replace("\\", "/")
        if not os.path.exists(file) and os.path.exists(with_slashes):
            file = with_slashes
        if os.path.isfile(file):
            said.append((file.resolve(), label))
    by_photo: dict[Path, set[str]] = {}
    for real, label in said:
        by_photo.setdefault(real, set()).add(label)
    return [(str(real), *labels) for real, labels in by_photo.items() if len(labels) == 1], count


@settings(max_examples=200, deadline=None)
@given(st.lists(line, max_size=12), st.sampled_from(["\n", "\r\n"]), st.booleans())
def test_any_list_is_read_as_a_slow_parser_reads_it(
    tmp_path_factory: pytest.TempPathFactory, lines: list[str], end: str, marked: bool
) -> None:
    here = tmp_path_factory.getbasetemp() / "any"
    if not here.exists():
        tree(here, *NAMES)
    text = end.join(lines)
    expected, count = slowly(here, text)
    content = text.encode("utf-8-sig" if marked else "utf-8")
    if not expected:
        with pytest.raises(UsageError, match=r"list\.txt"):
            read(here, content)
        return
    found = read(here, content)
    told = {str((here / name).resolve()): label for name, label in labels(found).items()}
    assert told == dict(expected)
    assert len(found.store) + len(found.refused) == count
    assert all(refused.name and refused.reason for refused in found.refused)
