"""The catalog: every photo of a source is in it or refused, once, with its own label."""

from __future__ import annotations

import os
import pickle
from pathlib import Path

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from convscope.data.catalog import Catalog, catalog
from convscope.data.scan import BROKEN, GREY
from convscope.data.sources import SourceOptions
from convscope.errors import Cancelled
from convscope.progress import reporting
from tests.data.pictures import encoded, folder, half, piece

GOOD = [encoded(piece(i)) for i in range(12)]
BROKEN_FILES = [half(GOOD[0]), b"", b"no photo at all\n"]


def told(found: Catalog) -> dict[str, str]:
    """Each photo's class by its name, "" without one."""
    assert len(set(found.store.names)) == len(found)
    names = [found.classes[label] if label >= 0 else "" for label in found.labels.tolist()]
    return dict(zip(found.store.names, names, strict=True))


def refused(found: Catalog) -> dict[str, str]:
    assert len({one.name for one in found.refused}) == len(found.refused)
    assert all(one.reason and "\n" not in one.reason for one in found.refused)
    return {one.name: one.label for one in found.refused}


PLAN = st.lists(st.tuples(st.sampled_from(("cat", "a dog", "c,d")), st.integers(0, 14)), min_size=1, max_size=25)


@settings(max_examples=60, deadline=None)
@given(PLAN)
def test_every_file_is_in_the_catalog_or_refused_with_its_class(
    tmp_path_factory: pytest.TempPathFactory, plan: list[tuple[str, int]]
) -> None:
    root = tmp_path_factory.mktemp("p")
    contents = [*GOOD, *BROKEN_FILES]
    files = {f"{kind}/{i} {number}.jpg": contents[number] for i, (kind, number) in enumerate(plan)}
    found = catalog(folder(root, files))
    whole = {name: name.split("/")[0] for name, content in files.items() if content in GOOD}
    broken = {name: name.split("/")[0] for name in files if name not in whole}
    assert told(found) == whole
    assert refused(found) == broken
    assert len(found) + len(found.refused) == len(files)
    assert found.classes == tuple(sorted({kind for kind, _ in plan}))
    slow = [sum(kind == name for kind in whole.values()) for name in found.classes]
    assert found.counts().tolist() == slow
    assert not (found.flags & BROKEN).any()
    for i, name in enumerate(list(found.store.names)):
        assert found.store.content(i) == files[name]
        assert (found.height[i], found.width[i]) == (40, 56)
    alike = {tuple(pair) for pair in found.hashes.tolist()}
    assert len(alike) == len({files[name] for name in whole})
    left = f"{len(found.classes)} classes, {len(plan) - len(found)} left out>"
    assert repr(found) == f"<{found.source}: {len(found)} photos in {left}"


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_a_list_is_accounted_for_line_by_line(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    """Missing files, photos listed twice, with the same label or another, blank lines and Windows line ends."""
    root = tmp_path_factory.mktemp("p")
    contents = [*GOOD[:6], *BROKEN_FILES]
    files = {f"my photos/{i}.jpg": content for i, content in enumerate(contents)}
    folder(root, files)
    line = st.tuples(st.integers(0, len(contents) + 1), st.sampled_from(("cat", "dog")))
    lines = [(0, "cat"), *data.draw(st.lists(line, max_size=20))]
    end, blank = data.draw(st.sampled_from(("\n", "\r\n"))), data.draw(st.sampled_from(("", " ", "\t")))
    texts = [f"my photos/{number}.jpg\t{label}" for number, label in lines]
    (root / "list.txt").write_bytes(f"{end}{blank}{end}".join([*texts, ""]).encode())
    said: dict[int, list[str]] = {}
    for number, label in lines:
        said.setdefault(number, []).append(label)
    one = {number for number, labels in said.items() if len(set(labels)) == 1}
    whole = {f"my photos/{n}.jpg": said[n][0] for n in one if n < 6}
    left = sorted(
        (f"my photos/{number}.jpg", label)
        for number, labels in said.items()
        for label in (labels[1:] if f"my photos/{number}.jpg" in whole else labels)
    )
    assume(any(number < len(contents) for number in one))  # lists without any photo are another test's
    found = catalog(root / "list.txt")
    assert told(found) == whole
    assert sorted((name, label) for name, _, label in found.refused) == left
    assert len(found) + len(found.refused) == len(lines)


def test_a_class_of_broken_photos_alone_stays_a_class(tmp_path: Path) -> None:
    folder(tmp_path, {"a/1.jpg": GOOD[1], "b/2.jpg": b"", "c/3.jpg": GOOD[2]})
    found = catalog(tmp_path)
    assert found.classes == ("a", "b", "c")
    assert found.counts().tolist() == [1, 0, 1]
    assert found.labels.tolist() == [0, 2]


def test_splits_groups_and_remarks_go_with_their_photos(tmp_path: Path) -> None:
    names = ["train/cat/1_a.jpg", "train/cat/1_b.jpg", "train/dog/2_a.jpg", "test/cat/3_a.jpg", "test/dog/2_b.jpg"]
    files: dict[str, bytes] = dict(zip(names, GOOD, strict=False))
    files |= {"train/cat/0_x.jpg": b"", "test/dog/9_x.jpg": half(GOOD[3]), "train/note.txt": b"x"}
    found = catalog(folder(tmp_path, files), SourceOptions(group=r"(\d)_"))
    assert told(found) == {name: name.split("/")[1] for name in names}
    assert {name: int(split) for name, split in zip(list(found.store.names), found.given, strict=True)} == {
        name: 0 if name.startswith("train") else 2 for name in names
    }
    assert found.groups is not None
    groups: dict[str, int] = {}
    for name, group in zip(list(found.store.names), found.groups.tolist(), strict=True):
        assert groups.setdefault(name.split("/")[2][0], group) == group
    assert len(set(groups.values())) == len(groups) == 3
    assert refused(found) == {"train/cat/0_x.jpg": "cat", "test/dog/9_x.jpg": "dog"}
    assert "1 file is no photo: .txt" in found.remarks


def test_photos_without_a_class_have_no_label(tmp_path: Path) -> None:
    found = catalog(folder(tmp_path, {"1.jpg": GOOD[0], "2.jpg": b""}))
    assert (found.classes, found.labels.tolist(), found.counts().tolist()) == ((), [-1], [])
    assert refused(found) == {"2.jpg": ""}


def test_only_broken_photos_make_an_empty_catalog(tmp_path: Path) -> None:
    found = catalog(folder(tmp_path, {"a/1.jpg": b"", "b/2.jpg": half(GOOD[0])}))
    assert (len(found), list(found.store.names), found.counts().tolist()) == (0, [], [0, 0])
    assert refused(found) == {"a/1.jpg": "a", "b/2.jpg": "b"}


@settings(max_examples=50, deadline=None)
@given(rows=st.lists(st.integers(0, 11), max_size=30))
def test_some_photos_of_a_catalog_are_a_catalog(twelve: Catalog, rows: list[int]) -> None:
    """In any order, once or several times."""
    part = twelve.take(np.array(rows, np.int64))
    assert list(part.store.names) == [twelve.store.names[i] for i in rows]
    for name in ("labels", "given", "height", "width", "flags", "hashes", "groups"):
        assert np.array_equal(getattr(part, name), getattr(twelve, name)[rows])
    assert (part.classes, part.refused, part.remarks) == (twelve.classes, twelve.refused, twelve.remarks)
    assert [part.store.content(i) for i in range(len(rows))] == [twelve.store.content(i) for i in rows]


@pytest.fixture(scope="module")
def twelve(tmp_path_factory: pytest.TempPathFactory) -> Catalog:
    root = tmp_path_factory.mktemp("twelve")
    files = {f"{'ab'[i % 2]}/{i}.jpg": GOOD[i] for i in range(11)}
    files |= {"a/grey.png": encoded(piece(5).convert("L"), "PNG"), "b/none.jpg": b""}
    return catalog(folder(root, files), SourceOptions(group=r"(\d)"))


def test_it_can_be_sent_to_another_process(twelve: Catalog) -> None:
    again = pickle.loads(pickle.dumps(twelve))
    assert list(again.store.names) == list(twelve.store.names)
    assert np.array_equal(again.hashes, twelve.hashes)
    assert [again.store.content(i) for i in range(12)] == [twelve.store.content(i) for i in range(12)]


def test_the_same_photos_by_folder_list_and_shards(tmp_path: Path) -> None:
    """What is known of a photo does not depend on how its source is written."""
    import io
    import tarfile

    files = {f"{('cat', 'dog')[i % 2]}/{i}.jpg": content for i, content in enumerate((*GOOD[:6], half(GOOD[7])))}
    files["dog/grey.png"] = encoded(piece(3).convert("L"), "PNG")
    root = folder(tmp_path / "p", files)
    lines = [f"{name} {name.split('/')[0]}\n" for name in files]
    (tmp_path / "p.txt").write_text("".join(lines))
    with tarfile.open(tmp_path / "p.tar", "w") as tar:
        for name, content in files.items():
            stem = name.replace("/", "-").rsplit(".", 1)
            for file, held in ((f"{stem[0]}.{stem[1]}", content), (f"{stem[0]}.cls", name.split("/")[0].encode())):
                member = tarfile.TarInfo(file)
                member.size = len(held)
                tar.addfile(member, io.BytesIO(held))
    ways = [
        catalog(root),
        catalog(tmp_path / "p.txt", SourceOptions(root=root)),
        catalog(tmp_path / "p.tar"),
    ]
    known = [
        {
            tuple(found.hashes[i].tolist()): (found.classes[found.labels[i]], found.height[i], found.flags[i])
            for i in range(len(found))
        }
        for found in ways
    ]
    assert known[0] == known[1] == known[2]
    assert len(known[0]) == 7
    assert sum(flags & GREY != 0 for *_, flags in known[0].values()) == 1
    assert [[(one.label, one.reason) for one in found.refused] for found in ways] == [
        [("cat", ways[0].refused[0].reason)]
    ] * 3


def test_names_that_are_no_text_are_kept_as_they_are(tmp_path: Path) -> None:
    folder(tmp_path, {"a/1.jpg": GOOD[0], "a/2.jpg": b"", "b/3.jpg": GOOD[1]})
    for name, odd in (("1.jpg", b"caf\xe9.jpg"), ("2.jpg", b"\xff\n.jpg")):
        os.rename(tmp_path / "a" / name, os.fsencode(tmp_path / "a") + b"/" + odd)
    found = catalog(tmp_path)
    assert told(found) == {"a/caf\udce9.jpg": "a", "b/3.jpg": "b"}
    assert refused(found) == {"a/\udcff\n.jpg": "a"}
    assert found.refused[0].reason.startswith("empty (0 bytes)")
    assert catalog(tmp_path).refused == found.refused  # from the cache


def test_a_long_scan_can_be_cancelled(tmp_path: Path) -> None:
    folder(tmp_path, {"a/1.jpg": GOOD[0], "b/2.jpg": GOOD[1]})
    with reporting(cancel=lambda: True), pytest.raises(Cancelled, match="photos checked was cancelled"):
        catalog(tmp_path)
