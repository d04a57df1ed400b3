"""Tar shards of WebDataset: samples by their names, read in place, also where the tar is cut off."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import tarfile
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from skimage import data

from convscope.data.listing import Listing
from convscope.data.sources import SourceOptions, open_source
from convscope.data.sources.shards import read_shards
from convscope.errors import ImageError, UsageError
from tests.data.told import PHOTO, labels, reasons, splits, tree


def shard(path: Path, members: Iterable[tuple[str, str | bytes]], form: int = tarfile.PAX_FORMAT) -> Path:
    """A tar file of these members; text is what the member holds, PHOTO or not."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w", format=form) as tar:
        for name, content in members:
            member = tarfile.TarInfo(name)
            content = content.encode() if isinstance(content, str) else content
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return path


def samples(start: int, count: int, kind: str = "cls") -> list[tuple[str, str | bytes]]:
    """Photos called by their number, each of the class that is its number's last bit."""
    found: list[tuple[str, str | bytes]] = []
    for i in range(start, start + count):
        word = ("cat", "dog")[i % 2]
        found += [(f"{i:06d}.jpg", PHOTO), (f"{i:06d}.{kind}", word if kind == "cls" else json.dumps({"label": word}))]
    return found


def read(path: Path, classes: tuple[str, ...] | None = None) -> Listing:
    return open_source(str(path), SourceOptions(classes=classes))


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
@pytest.mark.parametrize("kind", ["cls", "json"])
def test_photos_and_labels_of_one_shard(tmp_path: Path, kind: str, form: int) -> None:
    found = read(shard(tmp_path / "a.tar", samples(0, 3, kind), form))
    assert labels(found) == {"a.tar/000000.jpg": "cat", "a.tar/000001.jpg": "dog", "a.tar/000002.jpg": "cat"}
    assert (found.kind, found.classes, found.refused, found.remarks) == ("shards", ("cat", "dog"), (), ())
    assert set(splits(found).values()) == {None}
    assert [found.store.content(i) for i in range(3)] == [PHOTO] * 3
    assert found.store.photo(1).size == (20, 12)


def test_the_bytes_are_those_of_tarfile(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    members: list[tuple[str, str | bytes]] = []
    for i, photo in enumerate((data.chelsea(), data.coffee(), data.astronaut())):
        for form in ("png", "jpeg", "webp"):
            file = io.BytesIO()
            size = tuple(int(side) for side in rng.integers(5, 60, 2))
            Image.fromarray(photo).resize(size).save(file, form)
            deep = "folder/" * int(rng.integers(0, 40))  # beyond what an old header holds
            members += [(f"{deep}{i}-{form}.{form}", file.getvalue()), (f"{deep}{i}-{form}.cls", f"{i}\n")]
    path = shard(tmp_path / "photos.tar", members)
    found = read(path)
    with tarfile.open(path) as tar:
        for i, name in enumerate(found.store.names):
            member = tar.extractfile(name.removeprefix("photos.tar/"))
            assert member is not None
            content = member.read()
            assert found.store.content(i) == content
            assert found.store.photo(i).size == Image.open(io.BytesIO(content)).size
            assert str(found.labels[i]) == name.rpartition("/")[2].split("-")[0]
    assert len(found.store) == 9


@settings(max_examples=50, deadline=None)
@given(st.data())
def test_samples_are_found_in_any_order_of_members(
    tmp_path_factory: pytest.TempPathFactory, draw: st.DataObject
) -> None:
    keys = draw.draw(st.lists(st.sampled_from(["a", "b", "d/a", "d/b c", "ü"]), unique=True, min_size=1))
    truth = {key: draw.draw(st.sampled_from(["3", "12", "cat", None])) for key in keys}
    members: list[tuple[str, str | bytes]] = [(f"{key}.jpg", PHOTO + key.encode()) for key in keys]
    for key, label in truth.items():
        if label is not None:
            how = draw.draw(st.sampled_from(["cls", "label", "class", "cls in json"]))
            integer = how != "cls" and label.isdecimal() and draw.draw(st.booleans())
            record = json.dumps({how.split()[0]: int(label) if integer else label, "width": 20})
            members.append((f"{key}.cls", f" {label}\n") if how == "cls" else (f"{key}.json", record))
    path = shard(tmp_path_factory.getbasetemp() / "any.tar", draw.draw(st.permutations(members)))
    found = read(path)
    labelled = any(truth.values())
    expected = {f"any.tar/{key}.jpg": label for key, label in truth.items() if label or not labelled}
    assert labels(found) == expected
    assert reasons(found) == {
        f"any.tar/{key}.jpg": "has no label: no .cls, nor a label in .json"
        for key, label in truth.items()
        if labelled and not label
    }
    for i, name in enumerate(found.store.names):
        assert found.store.content(i) == PHOTO + name.removeprefix("any.tar/").removesuffix(".jpg").encode()


def test_integer_labels_are_numbers_or_index_into_the_users_classes(tmp_path: Path) -> None:
    path = shard(tmp_path / "a.tar", [("1.jpg", PHOTO), ("1.cls", "10"), ("2.jpg", PHOTO), ("2.json", '{"label": 0}')])
    assert read(path).classes == ("0", "10")
    found = read(path, tuple("abcdefghijk"))
    assert (labels(found), found.remarks) == (
        {"a.tar/1.jpg": "k", "a.tar/2.jpg": "a"},
        ("integer labels are indices: 0 is a",),
    )
    with pytest.raises(UsageError, match="label 10 is out of range: 2 classes are named"):
        read(path, ("a", "b"))


def test_a_sample_is_what_shares_a_name_up_to_the_first_dot(tmp_path: Path) -> None:
    path = shard(
        tmp_path / "a.tar",
        [
            ("v1.2/x.jpg", PHOTO), ("v1.2/x.cls", "cat"),  # dots of a folder are its own
            ("y.seg.png", PHOTO), ("y.jpg", PHOTO + b"y"), ("y.cls", "dog"),
            ("z.input.jpg", PHOTO), ("z.cls", "dog"),
            ("two.jpg", PHOTO), ("two.png", PHOTO), ("two.cls", "cat"),
            ("meta.json", "{}"), ("README", "x"), ("only.cls", "cat"), ("array.npy", "x"), ("array.cls", "cat"),
        ],
    )  # fmt: skip
    found = read(path)
    assert labels(found) == {"a.tar/v1.2/x.jpg": "cat", "a.tar/y.jpg": "dog", "a.tar/z.input.jpg": "dog"}
    assert found.store.content(1) == PHOTO + b"y"
    assert found.remarks == ("of several pictures in a sample the plainest was taken, not a.tar/y.seg.png",)
    assert reasons(found) == {
        "a.tar/two": "holds several photos (.jpg, .png)",
        "a.tar/meta": "holds no photo (.json)",
        "a.tar/README": "holds no photo (no suffix)",
        "a.tar/only": "holds no photo (.cls)",
        "a.tar/array": "holds no photo (.npy, .cls)",
    }


def test_labels_that_name_no_class_are_refused(tmp_path: Path) -> None:
    broken: list[tuple[str, str | bytes]] = [
        ("b.cls", ""), ("c.cls", b"\xff\xfe"), ("d.cls", "two\nlines"), ("e.json", '{"label": true}'),
        ("f.json", "[1]"), ("g.json", "{"), ("h.json", '{"label": null}'), ("i.json", '{"label": 1.5}'),
        ("j.json", '{"label": [1]}'),
    ]  # fmt: skip
    photos: list[tuple[str, str | bytes]] = [(f"{letter}.jpg", PHOTO) for letter in "abcdefghij"]
    found = read(shard(tmp_path / "a.tar", [("a.cls", "cat"), *photos, *broken]))
    assert labels(found) == {"a.tar/a.jpg": "cat"}
    assert reasons(found) == {
        **dict.fromkeys(["a.tar/b", "a.tar/c", "a.tar/d"], ".cls is no text that names a class"),
        **dict.fromkeys([f"a.tar/{key}.jpg" for key in "efghij"], "has no label: no .cls, nor a label in .json"),
    }


def test_a_cls_wins_over_a_json(tmp_path: Path) -> None:
    members: list[tuple[str, str | bytes]] = [("a.json", '{"label": 7}'), ("a.jpg", PHOTO), ("a.cls", "3")]
    assert labels(read(shard(tmp_path / "a.tar", members))) == {"a.tar/a.jpg": "3"}


def test_links_and_sparse_files_are_refused(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        for name, kind in (
            ("ok.jpg", tarfile.REGTYPE), ("hard.jpg", tarfile.LNKTYPE), ("soft.jpg", tarfile.SYMTYPE),
            ("hole.jpg", tarfile.GNUTYPE_SPARSE), ("pipe.jpg", tarfile.FIFOTYPE), ("folder.jpg", tarfile.DIRTYPE),
        ):  # fmt: skip
            member = tarfile.TarInfo(name)
            member.type, member.linkname = kind, "ok.jpg"
            member.size = len(PHOTO) if kind == tarfile.REGTYPE else 0
            tar.addfile(member, io.BytesIO(PHOTO))
    found = read(tmp_path / "a.tar")
    assert labels(found) == {"a.tar/ok.jpg": None}
    assert reasons(found) == {
        "a.tar/hard": ".jpg is a link in the tar, which cannot be read in place",
        "a.tar/soft": ".jpg is a link in the tar, which cannot be read in place",
        "a.tar/hole": ".jpg is a sparse file in the tar, which cannot be read in place",
        "a.tar/pipe": ".jpg is no file in the tar, which cannot be read in place",
    }


def test_a_name_twice_in_a_shard_is_refused_and_hidden_members_are_none(tmp_path: Path) -> None:
    members = [*samples(0, 2), ("000001.jpg", PHOTO), ("._000000.jpg", PHOTO), ("__MACOSX/000000.jpg", PHOTO)]
    found = read(shard(tmp_path / "a.tar", members))
    assert labels(found) == {"a.tar/000000.jpg": "cat"}
    assert reasons(found) == {"a.tar/000001": ".jpg is in the shard twice"}


def test_a_shard_that_is_cut_off_keeps_its_whole_members(tmp_path: Path) -> None:
    path = shard(tmp_path / "a.tar", samples(0, 4))
    whole = path.read_bytes()
    with tarfile.open(path) as tar:
        ends = [(member.name, member.offset_data + member.size) for member in tar]
        marks = tar.offset
    for length in range(600, len(whole) + 1, 97):
        path.write_bytes(whole[:length])
        there = {name for name, end in ends if end <= length}
        kept = [i for i in range(4) if {f"{i:06d}.jpg", f"{i:06d}.cls"} <= there]
        if not kept:
            continue
        found = read(path)
        assert labels(found) == {f"a.tar/{i:06d}.jpg": ("cat", "dog")[i % 2] for i in kept}
        assert all(found.store.content(i) == PHOTO for i in range(len(found.store)))
        reason = reasons(found).get("a.tar", "")
        assert (reason != "") == (length < marks + tarfile.BLOCKSIZE), length
        assert not reason or reason.startswith(f"truncated or damaged after {len(there)} members: ")
    path.write_bytes(whole[:600])
    with pytest.raises(ImageError, match=r"a\.tar is no tar file, or is damaged from its beginning"):
        read(path)


def test_a_header_that_is_damaged_is_not_the_end(tmp_path: Path) -> None:
    path = shard(tmp_path / "a.tar", samples(0, 4))
    content = bytearray(path.read_bytes())
    with tarfile.open(path) as tar:
        content[tar.getmembers()[4].offset + 150] ^= 0x7F  # in the checksum
    path.write_bytes(content)
    found = read(path)
    assert list(labels(found)) == ["a.tar/000000.jpg", "a.tar/000001.jpg"]
    assert reasons(found) == {"a.tar": "truncated or damaged after 4 members: what follows is no file's header"}


@pytest.mark.parametrize("content", [b"", b"<html>" + b"x" * 2000, PHOTO * 3])
def test_what_is_no_tar_is_an_error(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.tar").write_bytes(content)
    with pytest.raises(ImageError, match=r"a\.tar is no tar file"):
        read(tmp_path / "a.tar")


@pytest.mark.parametrize(
    ("name", "pack", "tool"),
    [
        ("a.tar.gz", gzip.compress, "gzip -d"),
        ("a.tgz", gzip.compress, "gzip -d"),
        ("a.TAR.BZ2", bz2.compress, "bzip2 -d"),
        ("a.tar.xz", lzma.compress, "xz -d"),
        ("a.tar.zst", bytes, "zstd -d"),
        ("a.tar", gzip.compress, "gzip -d"),
        ("a.tar", bz2.compress, "bzip2 -d"),
        ("a.tar", lzma.compress, "xz -d"),
    ],
)
@pytest.mark.parametrize("by_folder", [False, True])
def test_compressed_shards_say_how_to_unpack_them(
    tmp_path: Path, name: str, pack: type[bytes], tool: str, by_folder: bool
) -> None:
    content = shard(tmp_path / "plain", samples(0, 1)).read_bytes()
    path = tmp_path / "shards" / name
    path.parent.mkdir()
    path.write_bytes(pack(content))
    with pytest.raises(UsageError, match=rf"is compressed; .* which a plain tar allows: unpack it with {tool} {name}$"):
        read(path.parent if by_folder else path)


def test_a_folder_of_shards_in_natural_order(tmp_path: Path) -> None:
    for i, number in enumerate((10, 9)):
        shard(tmp_path / f"data-{number}.tar", samples(i, 1))
    tree(tmp_path, "notes.txt", ".hidden.tar")
    assert labels(read(tmp_path)) == {"data-9.tar/000001.jpg": "dog", "data-10.tar/000000.jpg": "cat"}


def test_folders_and_names_of_shards_say_the_split(tmp_path: Path) -> None:
    for name in ("train/a.tar", "Valid/a.tar", "test_00.tar", "train-00.tar", "trainval-00.tar", "data-test.tar"):
        shard(tmp_path / name, [("1.jpg", PHOTO)])
    assert splits(read(tmp_path)) == {
        "Valid/a.tar/1.jpg": "val",
        "data-test.tar/1.jpg": None,
        "test_00.tar/1.jpg": "test",
        "train/a.tar/1.jpg": "train",
        "train-00.tar/1.jpg": "train",
        "trainval-00.tar/1.jpg": None,
    }
    assert splits(read(tmp_path / "train-00.tar")) == {"train-00.tar/1.jpg": "train"}
    assert splits(read(tmp_path / "train")) == {"a.tar/1.jpg": None}  # the folder named is no part of the name


def test_ranges_and_globs_name_shards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("train-008", "train-009", "train-010", "val-000", "x/train/0", "x/val/0"):
        shard(tmp_path / f"{name}.tar", samples(0, 1))

    def shards(pattern: str) -> list[str]:
        return [name.removesuffix("/000000.jpg") for name in read_shards(pattern).store.names]

    for base in (str(tmp_path), "."):
        monkeypatch.chdir(tmp_path)
        assert shards(f"{base}/train-{{008..010}}.tar") == ["train-008.tar", "train-009.tar", "train-010.tar"]
        assert shards(f"{base}/train-*.tar") == ["train-008.tar", "train-009.tar", "train-010.tar"]
        assert shards(f"{base}/{{train-{{009..010}},val-000}}.tar") == ["train-009.tar", "train-010.tar", "val-000.tar"]
    assert open_source("train-{008..009}.tar").given.tolist() == [0, 0]
    assert splits(open_source("x/*/0.tar")) == {"train/0.tar/000000.jpg": "train", "val/0.tar/000000.jpg": "val"}
    assert splits(open_source("x/{train,val}/0.tar")) == splits(open_source("x/*/0.tar"))
    with pytest.raises(UsageError, match=r"3 of 6 shards are missing: .*train-006\.tar, .*train-007\.tar, .*011\.tar"):
        open_source(str(tmp_path / "train-{006..011}.tar"))
    with pytest.raises(UsageError, match="no such shards; a shard is a file ending in"):
        open_source(str(tmp_path / "test-*.tar"))
    for wrong in ("{9..8}", "{0..999999999}"):
        with pytest.raises(UsageError, match="counts down, or to more than 100,000 shards"):
            open_source(f"train-{wrong}.tar")
    with pytest.raises(UsageError, match="names 1,000,000 shards; at most 100,000"):
        open_source("train-{0..999}-{0..999}.tar")


def test_photos_in_folders_win_over_the_tar_they_came_from(tmp_path: Path) -> None:
    shard(tmp_path / "photos.tar", samples(0, 1))
    tree(tmp_path, "cat/1.jpg", "preview.jpg")
    assert open_source(str(tmp_path)).kind == "folder"
    (tmp_path / "cat/1.jpg").unlink()
    assert open_source(str(tmp_path)).kind == "shards"


def test_an_empty_tar_says_so(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no photo is left"):
        read(shard(tmp_path / "a.tar", []))
