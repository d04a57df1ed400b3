"""Findings: each kind of fault planted in a data set, with its exact count; none where there is none."""

from __future__ import annotations

import csv
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from convscope.data.catalog import Catalog, catalog
from convscope.data.findings import Finding, by_split, findings, sizes
from convscope.data.listing import Refused
from convscope.data.names import Names
from convscope.data.scan import SEEN
from convscope.data.store import Arrays
from tests.data.pictures import HEIC, encoded, folder, half, piece, sixteen, turned


def by_kind(found: Catalog) -> dict[str, list[Finding]]:
    kinds: dict[str, list[Finding]] = {}
    for one in findings(found):
        assert one.count > 0
        assert one.text
        assert "\n" not in one.text
        kinds.setdefault(one.kind, []).append(one)
    return kinds


def only(found: Catalog, kind: str) -> Finding:
    """The one finding that there is, of this kind."""
    (one,) = findings(found)
    assert one.kind == kind
    return one


def plain(number: int) -> bytes:
    return encoded(piece(number, 60, 80))


def clean() -> dict[str, bytes]:
    return {f"{'ab'[i % 2]}/{i}.jpg": plain(i) for i in range(8)}


def test_a_data_set_without_fault_has_no_findings(tmp_path: Path) -> None:
    assert findings(catalog(folder(tmp_path, clean()))) == []
    assert findings(catalog("digits")) == []  # grey and small all through


PLANTED: dict[str, tuple[dict[str, bytes], str, set[str], int]] = {
    # files, the finding's kind, its photos, its count
    "exif": ({"a/r1.jpg": turned(50, 6), "b/r2.jpg": turned(51, 3), "b/u.jpg": turned(52, 1)}, "rotated",
             {"a/r1.jpg", "b/r2.jpg"}, 2),
    "transparent": ({"a/t.png": encoded(piece(53).convert("RGBA"), "PNG")}, "alpha", {"a/t.png"}, 1),
    "grey": ({"b/g1.jpg": encoded(piece(54).convert("L")), "b/g2.png": encoded(piece(55).convert("L"), "PNG")}, "grey",
             {"b/g1.jpg", "b/g2.png"}, 2),
    "small": ({"a/s.png": encoded(piece(56, 60, 29), "PNG"), "a/e.png": encoded(piece(57, 30, 99), "PNG")}, "small",
              {"a/s.png"}, 1),
    "copies": ({"a/c.jpg": plain(0), "a/d.jpg": plain(0), "b/e.jpg": plain(1)}, "duplicate",
               {"a/0.jpg", "a/c.jpg", "a/d.jpg", "b/1.jpg", "b/e.jpg"}, 3),
}  # fmt: skip


@pytest.mark.parametrize("what", PLANTED)
def test_one_planted_fault_is_the_one_finding(tmp_path: Path, what: str) -> None:
    files, kind, names, count = PLANTED[what]
    found = only(catalog(folder(tmp_path, clean() | files)), kind)
    assert (set(found.photos), found.count) == (names, count)
    assert len(found.photos) == len(names)


def test_sixteen_bits_are_grey_too(tmp_path: Path) -> None:
    found = catalog(folder(tmp_path, clean() | {"a/x.png": encoded(sixteen(60), "PNG")}))
    assert {one.kind: one.photos for one in findings(found)} == {"grey": ("a/x.png",), "deep": ("a/x.png",)}


def test_what_is_left_out_is_counted_by_its_reason(tmp_path: Path) -> None:
    files = clean() | {"a/e1.jpg": b"", "b/e2.jpg": b"", "b/e3.png": b"", "a/phone.jpg": HEIC}
    files |= {"a/h.bmp": half(encoded(piece(61), "BMP")), "top.jpg": plain(99)}
    found = catalog(folder(tmp_path, files))
    told = by_kind(found)
    assert set(told) == {"left out"}
    most, *_ = told["left out"]
    assert (most.count, set(most.photos)) == (3, {"a/e1.jpg", "b/e2.jpg", "b/e3.png"})
    assert most.text == "left out: empty (0 bytes); copy or download it again"
    assert {one.photos for one in told["left out"][1:]} == {("a/phone.jpg",), ("a/h.bmp",), ("top.jpg",)}
    assert sum(one.count for one in told["left out"]) == len(found.refused) == len(files) - len(found)


def test_copies_in_different_classes_are_told_apart_from_those_in_one(tmp_path: Path) -> None:
    files = clean() | {"a/same.jpg": plain(0), "b/other.jpg": plain(2), "a/third.jpg": plain(2)}
    told = by_kind(catalog(folder(tmp_path, files)))
    assert set(told) == {"duplicate", "two classes"}
    assert told["duplicate"][0].count == 3
    assert set(told["two classes"][0].photos) == {"a/2.jpg", "b/other.jpg", "a/third.jpg"}
    assert told["two classes"][0].count == 3


def test_copies_in_different_splits_are_found(tmp_path: Path) -> None:
    files = {f"train/{name}": content for name, content in clean().items()}
    files |= {f"test/{'ab'[i % 2]}/{i}.jpg": plain(i) for i in range(20, 26)}
    files |= {"test/a/leak.jpg": plain(4), "train/b/twin.jpg": plain(3)}
    told = by_kind(catalog(folder(tmp_path, files)))
    assert set(told) == {"duplicate", "two splits"}
    assert told["duplicate"][0].count == 2
    assert set(told["two splits"][0].photos) == {"train/a/4.jpg", "test/a/leak.jpg"}


def test_copies_without_a_label_are_in_no_two_classes(tmp_path: Path) -> None:
    folder(tmp_path, {f"{i}.jpg": plain(i % 3) for i in range(6)})
    with (tmp_path / "list.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("path", "label"), *((f"{i}.jpg", "ab"[i % 2]) for i in range(6))])
    assert set(by_kind(catalog(tmp_path))) == {"duplicate"}
    assert only(catalog(tmp_path), "duplicate").count == 3
    told = by_kind(catalog(tmp_path / "list.csv"))
    assert set(told) == {"duplicate", "two classes"}
    assert told["two classes"][0].count == 6


def test_uneven_and_tiny_classes_are_named(tmp_path: Path) -> None:
    files = {f"many/{i}.jpg": plain(i) for i in range(10)}
    three = {f"three/{i}.jpg": plain(20 + i) for i in range(3)}
    told = by_kind(catalog(folder(tmp_path / "x", files | three)))
    assert set(told) == {"imbalance"}
    assert told["imbalance"][0].text.startswith("uneven: many has 10 photos, three 3;")
    del files["many/9.jpg"]
    assert findings(catalog(folder(tmp_path / "y", files | three))) == []  # three to one is not yet uneven
    few = three | {"two/1.jpg": plain(30), "two/2.jpg": plain(31), "none/1.jpg": b""}
    told = by_kind(catalog(folder(tmp_path / "z", few)))
    assert set(told) == {"left out", "few"}
    assert told["few"][0].count == 2
    assert "classes with fewer than 3 photos: none, two;" in told["few"][0].text


def test_nothing_is_found_wrong_with_nothing(tmp_path: Path) -> None:
    found = catalog(folder(tmp_path, {"a/1.jpg": b"", "b/2.jpg": b""}))
    told = by_kind(found)
    assert {kind: [one.count for one in all_] for kind, all_ in told.items()} == {"left out": [2]}
    assert sizes(found) == "no photos"
    assert by_split(found) == {"photos": [0, 0]}


def planted(kinds: list[tuple[int, int, int, int]]) -> Catalog:
    """A catalog of photos of these (content, class or -1, split or -1, shorter side)."""
    count = len(kinds)
    content, labels, given, side = (np.array(column) for column in zip(*kinds, strict=True))
    names = Names.of(f"{i}.png" for i in range(count))
    hashes = np.stack([content, content + 7], 1).astype(np.uint64)
    return Catalog(
        "made", "list", Arrays(np.zeros((count, 2, 2), np.uint8), names), ("a", "b", "c"), labels.astype(np.int32),
        given.astype(np.int8), None, side.astype(np.int32), np.full(count, 99, np.int32),
        np.full(count, SEEN, np.uint16), hashes,
    )  # fmt: skip


PHOTO = st.tuples(st.integers(0, 6), st.integers(-1, 2), st.integers(-1, 2), st.sampled_from((8, 31, 32, 50, 64, 90)))


@settings(max_examples=150, deadline=None)
@given(st.lists(PHOTO, min_size=1, max_size=24))
def test_counts_are_those_of_a_slow_count(kinds: list[tuple[int, int, int, int]]) -> None:
    found = {one.kind: one for one in findings(planted(kinds))}
    copies = [[i for i, kind in enumerate(kinds) if kind[0] == number] for number in range(7)]
    copies = [rows for rows in copies if len(rows) > 1]
    expected: dict[str, tuple[int, set[int]]] = {}
    if copies:
        expected["duplicate"] = (sum(len(rows) - 1 for rows in copies), {i for rows in copies for i in rows})
    for name, column in (("two classes", 1), ("two splits", 2)):
        apart = set()
        for rows in copies:
            valued = [i for i in rows if kinds[i][column] >= 0]
            if len({kinds[i][column] for i in valued}) > 1:
                apart |= set(valued)
        if apart:
            expected[name] = (len(apart), apart)
    sides = sorted(kind[3] for kind in kinds)
    middle = (sides[(len(sides) - 1) // 2] + sides[len(sides) // 2]) / 2
    small = {i for i, kind in enumerate(kinds) if kind[3] < min(32, middle / 2)}
    if small:
        expected["small"] = (len(small), small)
    for name, (count, rows) in expected.items():
        assert (found[name].count, {int(text[:-4]) for text in found[name].photos}) == (count, rows)
    counts = Counter(label for _, label, *_ in kinds if label >= 0)
    if counts:
        if few := sum(counts[i] < 3 for i in range(3)):
            expected["few"] = (few, set())
        if len(counts) == 3 and max(counts.values()) > 3 * min(counts.values()):
            expected["imbalance"] = (3, set())
    assert found.keys() == expected.keys()
    assert all(found[name].count == count for name, (count, _) in expected.items())


@settings(max_examples=40, deadline=None)
@given(st.lists(st.sampled_from(("no such file", "empty", "line 3 has no label")), max_size=12))
def test_refusals_are_told_by_the_reason_most_frequent_first(reasons: list[str]) -> None:
    found = replace(planted([(i, i % 3, -1, 64) for i in range(9)]), refused=tuple(
        Refused(f"r{i}", reason) for i, reason in enumerate(reasons)
    ))  # fmt: skip
    told = [one for one in findings(found) if one.kind == "left out"]
    assert {one.text: one.count for one in told} == {f"left out: {r}": n for r, n in Counter(reasons).items()}
    assert [one.count for one in told] == sorted((one.count for one in told), reverse=True)
    assert sorted(name for one in told for name in one.photos) == sorted(f"r{i}" for i in range(len(reasons)))


def test_sizes_in_a_few_words(tmp_path: Path) -> None:
    assert sizes(catalog(folder(tmp_path / "one", {f"a/{i}.jpg": encoded(piece(i, 40, 56)) for i in range(3)}))) == (
        "all 56x40"
    )
    shapes = [(20, 90), (30, 70), (40, 50)]
    files = {f"a/{i}.jpg": encoded(piece(i, *shape)) for i, shape in enumerate(shapes)}
    assert sizes(catalog(folder(tmp_path / "many", files))) == "width x height from 50x20 to 90x40, median 70x30"


def test_counts_by_the_sources_own_splits(tmp_path: Path) -> None:
    files = {"train/a/1.jpg": plain(1), "train/b/2.jpg": plain(2), "train/b/3.jpg": plain(3), "test/b/4.jpg": plain(4)}
    assert by_split(catalog(folder(tmp_path / "s", files))) == {"train": [1, 2], "test": [0, 1]}
    assert by_split(catalog(folder(tmp_path / "p", clean()))) == {"photos": [4, 4]}
