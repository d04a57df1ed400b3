"""A folder of photos: its folders are the classes, and nothing in it is passed over in silence."""

from __future__ import annotations

import os
import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from convscope.data.sources import SourceOptions, open_source
from convscope.data.sources.folder import OUTSIDE, read_folder
from convscope.errors import ImageError, UsageError
from tests.data.told import groups, labels, reasons, splits, tree


def test_a_class_is_a_folder_at_any_depth_and_names_come_in_natural_order(tmp_path: Path) -> None:
    tree(tmp_path, "dog/10.jpg", "dog/2.jpg", "cat/b 2/1.png", "cat/b/3.webp", "cat/a10.JPEG", "cat/a9.jpg")
    found = read_folder(str(tmp_path))
    assert labels(found) == {
        "cat/a9.jpg": "cat",
        "cat/a10.JPEG": "cat",
        "cat/b/3.webp": "cat",
        "cat/b 2/1.png": "cat",
        "dog/2.jpg": "dog",
        "dog/10.jpg": "dog",
    }
    assert list(labels(found)) == [
        "cat/a9.jpg", "cat/a10.JPEG", "cat/b/3.webp", "cat/b 2/1.png", "dog/2.jpg", "dog/10.jpg",
    ]  # fmt: skip
    assert (found.kind, found.classes, found.refused, found.remarks) == ("folder", ("cat", "dog"), (), ())
    assert found.groups is None
    assert set(splits(found).values()) == {None}
    assert found.store.photo(0).size == (20, 12)
    assert found.store.path(5) == tmp_path / "dog/10.jpg"


def test_classes_are_in_the_order_of_the_alphabet_or_of_numbers(tmp_path: Path) -> None:
    tree(tmp_path / "words", "b10/1.jpg", "b9/1.jpg", "A/1.jpg")
    assert read_folder(str(tmp_path / "words")).classes == ("A", "b10", "b9")
    tree(tmp_path / "numbers", "10/1.jpg", "9/1.jpg", "1/1.jpg")
    found = read_folder(str(tmp_path / "numbers"))
    assert found.classes == ("1", "9", "10")
    assert list(labels(found).items()) == [("1/1.jpg", "1"), ("9/1.jpg", "9"), ("10/1.jpg", "10")]


def test_the_names_are_those_that_a_slow_walk_finds(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    names = {f"c{a}/{'x' * b}{c}/i{d}.{e}" for a, b, c, d, e in rng.integers(0, [5, 3, 12, 120, 1], (200, 5))}
    tree(tmp_path, *(f"{name}.jpg" for name in names))
    found = read_folder(str(tmp_path))
    everything = [path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*.jpg")]
    slow = sorted(everything, key=_padded)
    assert list(found.store.names) == slow
    assert labels(found) == {name: name.split("/")[0] for name in slow}


def _padded(name: str) -> list[str]:
    """The parts of a path with all numbers as long as the longest."""
    return [re.sub("[0-9]+", lambda number: number[0].zfill(9), part) for part in name.split("/")]


def test_train_val_and_test_folders_are_a_split(tmp_path: Path) -> None:
    tree(tmp_path, "Train/cat/1.jpg", "Train/dog/1.jpg", "valid/cat/2.jpg", "test/dog/sub/3.jpg")
    found = read_folder(str(tmp_path))
    assert found.classes == ("cat", "dog")
    assert splits(found) == {
        "test/dog/sub/3.jpg": "test",
        "Train/cat/1.jpg": "train",
        "Train/dog/1.jpg": "train",
        "valid/cat/2.jpg": "val",
    }
    assert labels(found)["test/dog/sub/3.jpg"] == "dog"
    assert found.remarks == ()


def test_a_folder_called_train_alone_is_a_split(tmp_path: Path) -> None:
    tree(tmp_path, "train/cat/1.jpg", "train/dog/1.jpg")
    assert splits(read_folder(str(tmp_path))) == {"train/cat/1.jpg": "train", "train/dog/1.jpg": "train"}


def test_split_words_beside_other_folders_are_classes(tmp_path: Path) -> None:
    tree(tmp_path, "train/ice/1.jpg", "bus/2.jpg")
    found = read_folder(str(tmp_path))
    assert labels(found) == {"bus/2.jpg": "bus", "train/ice/1.jpg": "train"}
    assert set(splits(found).values()) == {None}
    assert found.remarks == ("train: read as a class, not as a split, for photos lie in bus too",)


def test_a_folder_without_photos_beside_splits_does_not_end_them(tmp_path: Path) -> None:
    tree(tmp_path, "train/cat/1.jpg", "docs/", "val/")
    (tmp_path / "docs/read.me").write_text("x")
    (tmp_path / "docs/up").symlink_to(tmp_path)
    found = read_folder(str(tmp_path))
    assert splits(found) == {"train/cat/1.jpg": "train"}
    assert "no photos in val, docs: no class" in found.remarks
    assert "1 file is no photo: .me" in found.remarks


def test_photos_outside_of_class_folders_are_refused(tmp_path: Path) -> None:
    tree(tmp_path / "plain", "cat/1.jpg", "top.jpg")
    assert reasons(read_folder(str(tmp_path / "plain"))) == {"top.jpg": OUTSIDE}
    tree(tmp_path / "split", "train/cat/1.jpg", "train/loose.jpg", "test/1.jpg", "top.png")
    found = read_folder(str(tmp_path / "split"))
    assert labels(found) == {"train/cat/1.jpg": "cat"}
    assert reasons(found) == {"top.png": OUTSIDE, "train/loose.jpg": OUTSIDE, "test/1.jpg": OUTSIDE}


def test_photos_without_any_class_folder_have_no_label(tmp_path: Path) -> None:
    tree(tmp_path / "plain", "2.jpg", "10.jpg", "1.jpg")
    found = read_folder(str(tmp_path / "plain"))
    assert list(labels(found).items()) == [("1.jpg", None), ("2.jpg", None), ("10.jpg", None)]
    assert found.classes == ()
    tree(tmp_path / "split", "train/cat.1.jpg", "train/dog.1.jpg", "test/1.jpg")  # as Kaggle has cats and dogs
    found = read_folder(str(tmp_path / "split"))
    assert set(labels(found).values()) == {None}
    assert splits(found) == {"test/1.jpg": "test", "train/cat.1.jpg": "train", "train/dog.1.jpg": "train"}


def test_hidden_files_and_folders_are_neither_classes_nor_photos(tmp_path: Path) -> None:
    tree(
        tmp_path, "cat/1.jpg", "cat/._1.jpg", "cat/.cache/2.jpg", ".git/x.jpg", "__MACOSX/cat/1.jpg", "Thumbs.db",
        "cat/thumbs.db", ".ipynb_checkpoints/3.jpg", ".hidden.jpg", "cat/@eaDir/thumb.jpg",
    )  # fmt: skip
    found = read_folder(str(tmp_path))
    assert labels(found) == {"cat/1.jpg": "cat"}
    assert (found.refused, found.remarks) == ((), ())


def test_files_that_are_no_photos_are_counted(tmp_path: Path) -> None:
    tree(tmp_path, "cat/1.jpg", "cat/a.txt", "cat/b.TXT", "cat/jpg", "list.csv", "dog/1.png")
    assert read_folder(str(tmp_path)).remarks == ("4 files are no photos: .txt, no suffix, .csv",)


def test_an_empty_class_folder_is_named(tmp_path: Path) -> None:
    tree(tmp_path, "cat/1.jpg", "dog/deep/", "cow/1.jpg")
    found = read_folder(str(tmp_path))
    assert found.classes == ("cat", "cow")
    assert found.remarks == ("no photos in dog: no class",)


def test_classes_that_look_the_same_are_named(tmp_path: Path) -> None:
    tree(tmp_path, "train/Cat/1.jpg", "val/cat/1.jpg", "val/dog/1.jpg", "train/dog /2.jpg", "test/cow/1.jpg")
    assert read_folder(str(tmp_path)).remarks == (
        "class folders that differ only in case or spaces: 'Cat', 'cat'",
        "class folders that differ only in case or spaces: 'dog', 'dog '",
    )


def test_one_folder_too_many_is_suspected(tmp_path: Path) -> None:
    tree(tmp_path, "photos/cat/1.jpg", "photos/dog/1.jpg")
    assert "one class alone, photos; if the folders in it are the classes" in read_folder(str(tmp_path)).remarks[0]
    tree(tmp_path, "other/cat/1.jpg")
    assert read_folder(str(tmp_path)).remarks == ()


def test_links_are_followed_but_never_in_a_circle(tmp_path: Path) -> None:
    tree(tmp_path / "all", "one/1.jpg", "two/2.jpg")
    tree(tmp_path / "photos", "cat/0.jpg", "dog/5.jpg")
    os.symlink(tmp_path / "all/one", tmp_path / "photos/cow")  # a class that lies elsewhere
    os.symlink(tmp_path / "all/two/2.jpg", tmp_path / "photos/cat/3.jpg")
    os.symlink("..", tmp_path / "photos/cat/loop")
    os.symlink("../dog", tmp_path / "photos/cat/also")  # another class's photos: the class itself is not lost
    found = read_folder(str(tmp_path / "photos"))
    assert labels(found) == {
        "cat/0.jpg": "cat",
        "cat/3.jpg": "cat",
        "cat/also/5.jpg": "cat",
        "cow/1.jpg": "cow",
        "dog/5.jpg": "dog",
    }
    assert found.remarks == ("a link leads back to what was read already, left out: cat/loop/",)


def test_links_to_nothing_and_pipes_are_refused(tmp_path: Path) -> None:
    tree(tmp_path, "cat/1.jpg")
    os.symlink("gone.jpg", tmp_path / "cat/2.jpg")
    os.symlink("3.jpg", tmp_path / "cat/3.jpg")  # to itself
    os.mkfifo(tmp_path / "cat/4.jpg")
    found = read_folder(str(tmp_path))
    assert labels(found) == {"cat/1.jpg": "cat"}
    assert reasons(found) == {
        "cat/2.jpg": "no such file: a link to nothing",
        "cat/3.jpg": "no such file: a link to nothing",
        "cat/4.jpg": "is not a regular file",
    }


def test_a_folder_called_like_a_photo_is_a_folder(tmp_path: Path) -> None:
    tree(tmp_path, "cat.jpg/1.jpg", "dog/2.jpg/3.jpg")
    assert labels(read_folder(str(tmp_path))) == {"cat.jpg/1.jpg": "cat.jpg", "dog/2.jpg/3.jpg": "dog"}


def test_file_names_that_are_no_utf8_survive_and_such_classes_are_an_error(tmp_path: Path) -> None:
    tree(tmp_path, "cat/1.jpg")
    os.rename(tmp_path / "cat/1.jpg", os.fsencode(tmp_path / "cat") + b"/caf\xe9.jpg")
    found = read_folder(str(tmp_path))
    assert found.store.photo(0).size == (20, 12)
    os.rename(tmp_path / "cat", os.fsencode(tmp_path) + b"/chat\xe9")
    with pytest.raises(UsageError, match=r"the class 'chat\\udce9' is not UTF-8 text; rename it"):
        read_folder(str(tmp_path))


def test_a_folder_that_cannot_be_listed_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tree(tmp_path, "cat/1.jpg", "dog/1.jpg")
    scan = os.scandir

    def deny(path: str) -> object:  # tests may run as root, whom no mode keeps out
        if str(path).endswith("dog/"):
            raise PermissionError(13, "Permission denied")
        return scan(path)

    monkeypatch.setattr("os.scandir", deny)
    with pytest.raises(ImageError, match="dog/ cannot be listed: Permission denied; make the folder readable"):
        read_folder(str(tmp_path))


def test_no_file_is_asked_for_more_than_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tree(tmp_path, *(f"cat/{i}.jpg" for i in range(50)), *(f"dog/{i}.jpg" for i in range(50)))
    asked: list[str] = []
    ask = os.stat
    monkeypatch.setattr("os.stat", lambda path, **how: asked.append(path) or ask(path, **how))
    assert len(read_folder(str(tmp_path)).store) == 100
    assert len(asked) < 10


def test_the_users_classes_give_the_order_and_must_hold_every_folder(tmp_path: Path) -> None:
    tree(tmp_path, "cat/1.jpg", "dog/1.jpg")
    found = read_folder(str(tmp_path), SourceOptions(classes=("dog", "cow", "cat")))
    assert (found.classes, found.labels.tolist()) == (("dog", "cow", "cat"), [2, 0])
    with pytest.raises(UsageError, match="'dog' is not among the 1 classes"):
        read_folder(str(tmp_path), SourceOptions(classes=("cat",)))


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ([], "is empty; a source is a folder with one folder of photos for each class"),
        (["cat/", "dog/"], "no photos in or below it; a source"),
        (["cat/a.txt", "b.db"], r"no photos in or below it \(2 files are no photos: .db, .txt\); a source"),
        ([".git/a.jpg"], "is empty; "),
    ],
)
def test_a_folder_without_photos_says_so(tmp_path: Path, files: list[str], message: str) -> None:
    tree(tmp_path, *files)
    with pytest.raises(UsageError, match=message):
        open_source(str(tmp_path))


@settings(max_examples=30, deadline=None)
@given(st.sets(st.tuples(st.sampled_from("ab"), st.integers(0, 3), st.integers(0, 3)), min_size=2))
def test_groups_are_what_the_pattern_finds_in_the_path(
    tmp_path_factory: pytest.TempPathFactory, parts: set[tuple[str, int, int]]
) -> None:
    root = tmp_path_factory.mktemp("g")
    names = {f"{kind}/{'p' * (one > 0)}{one}_{two}.jpg" for kind, one, two in parts} | {"a/p1_9.jpg"}
    tree(root, *names)
    found = read_folder(str(root), SourceOptions(group=r"(p\d)_|^(zz)"))
    slow: dict[str, set[str]] = {}
    for name in names:
        own = name.split("/")[1]
        slow.setdefault(own.split("_")[0] if own.startswith("p") else name, set()).add(name)
    assert sorted(map(sorted, groups(found))) == sorted(map(sorted, slow.values()))
    alone = [name for name in names if "/p" not in name]
    assert bool(found.remarks) == bool(alone)
    assert not alone or found.remarks[0].startswith(f"{len(alone)} names do not match the group and stand alone: ")


def test_a_pattern_that_matches_nothing_is_an_error(tmp_path: Path) -> None:
    tree(tmp_path, "cat/1.jpg")
    with pytest.raises(UsageError, match=r"the group 'x' matches none of 1 names, such as cat/1\.jpg"):
        read_folder(str(tmp_path), SourceOptions(group="x"))
