"""A scan that was interrupted, and what is kept of it: only what is new or changed is opened again."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from convscope.data import scan as scanning
from convscope.data.scan import Facts, scan
from convscope.data.sources import SourceOptions, open_source
from convscope.data.store import Files
from convscope.errors import Cancelled
from convscope.progress import reporting
from tests.data.pictures import encoded, folder, half, piece, turned

TICK = 0.02  # seconds: file systems note the time of a change to some milliseconds


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of the test's own."""
    monkeypatch.setenv("CONVSCOPE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the files that were opened since it was cleared."""
    names: list[str] = []
    content = Files.content

    def noted(store: Files, index: int) -> bytes:
        names.append(store.names[index])
        return content(store, index)

    monkeypatch.setattr(Files, "content", noted)
    return names


def photos(root: Path, count: int) -> Path:
    """A folder of photos of two classes, of which every fifth is broken."""
    files = {}
    for i in range(count):
        content = turned(i, 6) if i % 7 == 0 else encoded(piece(i, 30, 40 + i))
        files[f"{'ab'[i % 2]}/{i:03d}.jpg"] = half(content) if i % 5 == 0 else content
    return folder(root, files)


def looked(root: Path) -> dict[str, tuple[object, ...]]:
    """All that a scan says of each photo, by its name."""
    listed = open_source(str(root))
    facts = scan(listed)
    arrays = (facts.height, facts.width, facts.flags, facts.hashes)
    rows = zip(*(a.tolist() for a in arrays), facts.reasons, strict=True)
    return {name: (*row[:3], tuple(row[3]), row[4]) for name, row in zip(listed.store.names, rows, strict=True)}


def afresh(root: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, tuple[object, ...]]:
    """The same without anything kept."""
    with monkeypatch.context() as patch:
        patch.setattr(scanning, "_recall", lambda *args: None)
        patch.setattr(scanning.Keeper, "now", lambda self: None)
        return looked(root)


@pytest.mark.parametrize("calls", [1, 2, 6, 14])
def test_a_cancelled_scan_goes_on_where_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, opened: list[str], calls: int
) -> None:
    root = photos(tmp_path / "p", 41)
    whole = afresh(root, monkeypatch)
    opened.clear()
    monkeypatch.setattr(scanning, "CHUNK", 3)
    asked = iter(range(1, 99))
    with reporting(cancel=lambda: next(asked) == calls), pytest.raises(Cancelled):  # asked before each task
        looked(root)
    kept = 3 * (calls - 1)
    assert kept <= len(opened)
    opened.clear()
    assert looked(root) == whole
    assert sorted(opened) == sorted(whole)[:0] + sorted(list(open_source(str(root)).store.names)[kept:])
    opened.clear()
    assert looked(root) == whole
    assert opened == []


def test_an_error_of_any_kind_keeps_what_was_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, opened: list[str]
) -> None:
    root = photos(tmp_path / "p", 20)
    monkeypatch.setattr(scanning, "CHUNK", 2)
    put = Facts.put

    def stops(self: Facts, index: int, found: scanning.Found) -> None:
        if index == 12:
            raise KeyboardInterrupt
        put(self, index, found)

    with monkeypatch.context() as patch:
        patch.setattr(Facts, "put", stops)
        with pytest.raises(KeyboardInterrupt):
            looked(root)
    opened.clear()
    looked(root)
    assert len(opened) == 8


KILLED = """
import os, signal, sys, time
from convscope.data import scan
from convscope.data.catalog import catalog
from convscope.data.store import Files
scan.CHUNK, scan.KEEP_EVERY = 1, 0.0
content, opened = Files.content, []
def counted(store, index):
    opened.append(index)
    if len(opened) == 60:
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(0.004)
    return content(store, index)
Files.content = counted
catalog(sys.argv[1])
"""


def test_a_killed_scan_goes_on_from_what_was_kept_last(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, opened: list[str]
) -> None:
    root = photos(tmp_path / "p", 90)
    dead = subprocess.run([sys.executable, "-c", KILLED, str(root)], capture_output=True, text=True)
    assert dead.returncode == -signal.SIGKILL, dead.stderr
    whole = afresh(root, monkeypatch)
    opened.clear()
    assert looked(root) == whole
    assert 90 - 60 < len(opened) < 85  # some of the sixty were kept
    opened.clear()
    assert looked(root) == whole
    assert opened == []


def rewritten(root: Path) -> None:
    """Another photo of the same size in bytes and the same time."""
    path = root / "a/002.jpg"
    before = path.stat()
    content = bytearray(encoded(piece(77, 30, 42)))
    path.write_bytes((bytes(content) + bytes(before.st_size))[: before.st_size])
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def swapped(root: Path) -> None:
    """Two photos of the same size in bytes and the same time change names."""
    first, second = root / "a/002.jpg", root / "b/003.jpg"
    first.rename(root / "t")
    second.rename(first)
    (root / "t").rename(second)


CHANGES: dict[str, tuple[Callable[[Path], object], set[str]]] = {
    "nothing": (lambda root: None, set()),
    "time": (lambda root: os.utime(root / "b/001.jpg", (1e9, 1e9)), {"b/001.jpg"}),
    "grown": (lambda root: (root / "a/002.jpg").write_bytes(encoded(piece(50, 60, 70))), {"a/002.jpg"}),
    "same size and time": (rewritten, {"a/002.jpg"}),
    "mended": (lambda root: (root / "a/000.jpg").write_bytes(encoded(piece(0))), {"a/000.jpg"}),
    "broken": (lambda root: (root / "a/004.jpg").write_bytes(b""), {"a/004.jpg"}),
    "new": (lambda root: (root / "a/new.jpg").write_bytes(encoded(piece(51))), {"a/new.jpg"}),
    "gone": (lambda root: (root / "b/003.jpg").unlink(), set()),
    "another name": (lambda root: (root / "a/002.jpg").rename(root / "b/first.jpg"), {"b/first.jpg"}),
    "the other's name": (swapped, {"a/002.jpg", "b/003.jpg"}),
}


@pytest.mark.parametrize("change", CHANGES)
def test_what_changed_is_looked_at_again_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, opened: list[str], change: str
) -> None:
    root = photos(tmp_path / "p", 12)
    size = max((root / name).stat().st_size for name in ("a/002.jpg", "b/003.jpg"))
    for name in ("a/002.jpg", "b/003.jpg"):  # alike but in content, as pictures without compression are
        path = root / name
        path.write_bytes(path.read_bytes().ljust(size, b"\0"))
        os.utime(path, ns=(10**18, 10**18))
    looked(root)
    time.sleep(TICK)
    changed, again = CHANGES[change]
    changed(root)
    opened.clear()
    found = looked(root)
    assert set(opened) == again
    assert len(opened) == len(again)
    assert found == afresh(root, monkeypatch)
    opened.clear()
    assert looked(root) == found
    assert opened == []


def test_a_list_that_begins_elsewhere_is_another_set_of_photos(tmp_path: Path) -> None:
    """The same list, names, sizes and times below another folder."""
    for root, number in (("one", 1), ("two", 2)):
        folder(tmp_path / root, {"x.bmp": encoded(piece(number), "BMP"), "y.bmp": encoded(piece(number + 5), "BMP")})
        for path in (tmp_path / root).iterdir():
            os.utime(path, ns=(10**18, 10**18))
        time.sleep(TICK)
    (tmp_path / "list.txt").write_text("x.bmp cat\ny.bmp dog\n")
    one, two = (
        scan(open_source(str(tmp_path / "list.txt"), SourceOptions(root=tmp_path / root))).hashes
        for root in ("one", "two")
    )
    assert not (one == two).any()


def cached(cache: Path) -> Path:
    (file,) = (cache / "scans").iterdir()
    return file


def test_a_damaged_cache_is_as_good_as_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cache: Path) -> None:
    """Whatever happens to the file: no fact is taken from it that is not true."""
    root = photos(tmp_path / "p", 7)
    whole = looked(root)
    file = cached(cache)
    good = file.read_bytes()
    rng = np.random.default_rng(0)
    damaged = [b"", b"\0" * len(good), good[:8], good[:-1], good + b"x", b"{}", b"\xff" * 20]
    damaged += [good[: int(rng.integers(len(good)))] for _ in range(10)]
    for place in rng.integers(0, len(good), 150).tolist():
        damaged.append(good[:place] + bytes([good[place] ^ int(rng.integers(1, 256))]) + good[place + 1 :])
    start = good.index(b"}}") + 2  # zeros where the disk had not written yet
    damaged += [good[:at] + bytes(len(good) - at) for at in range(start, len(good), 40)]
    for content in damaged:
        file.write_bytes(content)
        assert looked(root) == whole
        assert file.read_bytes() == good or content == good


def test_a_cache_of_another_sort_of_file_is_written_anew(tmp_path: Path, cache: Path, opened: list[str]) -> None:
    from safetensors.numpy import save_file

    root = photos(tmp_path / "p", 7)
    whole = looked(root)
    save_file({"weights": np.zeros(3, np.float32)}, cached(cache))
    assert looked(root) == whole
    opened.clear()
    assert looked(root) == whole
    assert opened == []


@pytest.mark.parametrize("way", ["no folder can be made", "a folder in its place", "full disk", "read only"])
def test_a_cache_that_cannot_be_written_does_no_harm(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cache: Path, opened: list[str], way: str
) -> None:
    root = photos(tmp_path / "p", 9)
    whole = afresh(root, monkeypatch)
    monkeypatch.setattr(scanning, "KEEP_EVERY", 0.0)
    monkeypatch.setattr(scanning, "CHUNK", 1)

    def fails(number: int) -> Callable[..., None]:
        def refuse(*args: object, **how: object) -> None:
            raise OSError(number, os.strerror(number))

        return refuse

    if way == "no folder can be made":
        cache.write_text("a file")
    elif way == "a folder in its place":
        looked(root)
        place = cached(cache)
        place.unlink()
        (place / "in it").mkdir(parents=True)
    elif way == "full disk":
        monkeypatch.setattr(scanning, "save_file", fails(errno.ENOSPC))
    else:
        monkeypatch.setattr("os.open", fails(errno.EROFS))  # the tests may run as root, whom no mode keeps out
    for _ in range(2):
        opened.clear()
        assert looked(root) == whole
        assert len(opened) == 9
    if cache.is_dir():
        assert not list(cache.rglob("*.part"))
