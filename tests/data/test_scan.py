"""The scan: what it finds of every kind of file, against a slow look at one after the other."""

from __future__ import annotations

import os
import threading
from hashlib import blake2b
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

from convscope.data import scan as scanning
from convscope.data.scan import BROKEN, DEEP, GREY, ROTATED, SEEN, TRANSPARENT, Facts, scan
from convscope.data.sources import open_source
from convscope.data.store import Files
from convscope.errors import ConvscopeError
from convscope.images.read import read_photo
from convscope.progress import reporting
from tests.data.pictures import HEIC, encoded, flipped, folder, half, piece, sixteen, turned

GREY_PIECE = piece(1).convert("L")
WHOLE: dict[str, tuple[bytes, int, tuple[int, int]]] = {  # content, flags, (height, width)
    "plain.jpg": (encoded(piece(0)), 0, (40, 56)),
    "plain.png": (encoded(piece(1), "PNG"), 0, (40, 56)),
    "plain.webp": (encoded(piece(2), "WEBP"), 0, (40, 56)),
    "really a png.jpg": (encoded(piece(3), "PNG"), 0, (40, 56)),
    "progressive.jpg": (encoded(piece(4), progressive=True), 0, (40, 56)),
    "upright.jpg": (turned(5, 1), 0, (40, 56)),
    "mirrored.jpg": (turned(6, 2), ROTATED, (40, 56)),
    "lying.jpg": (turned(7, 6), ROTATED, (56, 40)),
    "nonsense.jpg": (turned(8, 9), 0, (40, 56)),
    "grey.jpg": (encoded(GREY_PIECE), GREY, (40, 56)),
    "two colours.png": (encoded(GREY_PIECE.convert("1"), "PNG"), GREY, (40, 56)),
    "alpha.png": (encoded(piece(9).convert("RGBA"), "PNG"), TRANSPARENT, (40, 56)),
    "grey alpha.png": (encoded(GREY_PIECE.convert("LA"), "PNG"), GREY | TRANSPARENT, (40, 56)),
    "palette.png": (encoded(piece(10).convert("P"), "PNG"), 0, (40, 56)),
    "palette alpha.png": (encoded(piece(11).convert("P"), "PNG", transparency=3), TRANSPARENT, (40, 56)),
    "deep.png": (encoded(sixteen(12), "PNG"), GREY | DEEP, (40, 56)),
    "deep.tif": (encoded(sixteen(13), "TIFF"), GREY | DEEP, (40, 56)),
    "float.tif": (encoded(Image.fromarray(np.asarray(GREY_PIECE, np.float32) / 255), "TIFF"), GREY | DEEP, (40, 56)),
    "cmyk.jpg": (encoded(piece(14).convert("CMYK")), 0, (40, 56)),
    "moving.gif": (encoded(piece(15), "GIF", save_all=True, append_images=[piece(16)]), 0, (40, 56)),
    "moving.webp": (encoded(piece(17), "WEBP", save_all=True, append_images=[piece(18)]), 0, (40, 56)),
    "one pixel.png": (encoded(piece(19, 1, 1), "PNG"), 0, (1, 1)),
    "one row.bmp": (encoded(piece(20, 1, 200), "BMP"), 0, (1, 200)),
}
NO_PHOTO = "not a photo that can be read"
CUT = "truncated or damaged: part of the picture is missing; copy or download it again"
BAD: dict[str, tuple[bytes, str]] = {
    "empty.jpg": (b"", "empty (0 bytes); copy or download it again"),
    "text.jpg": (b"cat dog cat\n" * 40, f"{NO_PHOTO}; give a JPEG, PNG, WebP, TIFF or GIF"),
    "page.jpg": (b"<!doctype html><html>", f"{NO_PHOTO}: it looks like a web page or SVG; give a JPEG, PNG"),
    "paper.png": (b"%PDF-1.7\n" + bytes(99), f"{NO_PHOTO}: it is a PDF; give"),
    "phone.jpg": (HEIC, f"{NO_PHOTO}: it is HEIC, which an iPhone exports as JPEG when asked; give"),
    "phone.heic": (HEIC + b"2", f"{NO_PHOTO}: it is HEIC"),
    "half.jpg": (half(encoded(piece(30, 120, 160))), CUT),
    "half.webp": (half(encoded(piece(31), "WEBP")), "begins as WEBP but is truncated or damaged; copy"),
    "half.bmp": (half(encoded(piece(32), "BMP")), CUT),
    "half.tif": (half(encoded(sixteen(33), "TIFF")), CUT),
    "half.png": (half(encoded(piece(34), "PNG")), CUT),
    "half deep.png": (half(encoded(sixteen(35), "PNG")), CUT),
    "one bit.png": (flipped(encoded(piece(36), "PNG")), CUT),
    "head.jpg": (encoded(piece(37))[:24], "begins as JPEG but is truncated or damaged"),
    "head.png": (encoded(piece(38), "PNG")[:20], "begins as PNG but is truncated or damaged"),
}


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of the test's own."""
    monkeypatch.setenv("CONVSCOPE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def named(root: Path) -> tuple[list[str], Facts]:
    found = open_source(str(root))
    return list(found.store.names), scan(found)


def content_hash(content: bytes) -> tuple[int, ...]:
    """The first 16 bytes of BLAKE2b, as two little-endian numbers."""
    whole = int.from_bytes(blake2b(content, digest_size=16).digest(), "little")
    return whole % 2**64, whole // 2**64


def test_every_kind_of_whole_file_is_what_it_is(tmp_path: Path) -> None:
    folder(tmp_path / "p", {f"a/{name}": content for name, (content, *_) in WHOLE.items()})
    names, facts = named(tmp_path / "p")
    assert sorted(names) == sorted(f"a/{name}" for name in WHOLE)
    for i, name in enumerate(names):
        content, flags, size = WHOLE[name[2:]]
        found = (int(facts.flags[i]), (int(facts.height[i]), int(facts.width[i])), facts.reasons[i])
        assert found == (SEEN | flags, size, ""), name
        assert tuple(facts.hashes[i].tolist()) == content_hash(content)


@pytest.mark.parametrize("name", BAD)
def test_every_kind_of_broken_file_is_left_out_with_the_reason(tmp_path: Path, name: str) -> None:
    content, reason = BAD[name]
    folder(tmp_path / "p", {f"a/{name}": content, "b/whole.jpg": encoded(piece(0))})
    names, facts = named(tmp_path / "p")
    broken = names.index(f"a/{name}")
    assert facts.flags.tolist() == [SEEN | BROKEN * (i == broken) for i in range(2)]
    assert facts.reasons[broken].startswith(reason)
    assert facts.reasons[1 - broken] == ""
    assert name not in facts.reasons[broken]
    assert "\n" not in facts.reasons[broken]
    assert (facts.height[broken], facts.width[broken]) == (0, 0)
    assert tuple(facts.hashes[broken].tolist()) == content_hash(content)


def test_a_file_that_vanishes_after_the_listing_is_left_out(tmp_path: Path) -> None:
    names = ["cat/a.jpg", "cat/b.jpg", "dog/c.jpg"]
    folder(tmp_path / "p", {name: encoded(piece(i)) for i, name in enumerate(names)})
    listed = open_source(str(tmp_path / "p"))
    (tmp_path / "p/cat/b.jpg").unlink()
    (tmp_path / "p/dog/c.jpg").unlink()
    (tmp_path / "p/dog/c.jpg").mkdir()
    facts = scan(listed)
    assert facts.reasons == ["", "no such file or directory", "is a directory"]
    assert facts.flags.tolist() == [SEEN, SEEN | BROKEN, SEEN | BROKEN]
    assert not facts.hashes[1:].any()


def test_what_may_not_be_opened_today_is_opened_tomorrow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither its size nor its time changes when a person, or a network drive, is given the right to read it."""
    folder(tmp_path / "p", {"a/1.jpg": encoded(piece(1)), "b/2.jpg": encoded(piece(2))})
    opened, content = [], Files.content

    def denied(store: Files, index: int) -> bytes:  # the tests may run as root, whom no mode keeps out
        if store.names[index] == "b/2.jpg":
            raise PermissionError(13, "Permission denied", "b/2.jpg")
        return content(store, index)

    monkeypatch.setattr(Files, "content", denied)
    assert named(tmp_path / "p")[1].reasons == ["", "permission denied"]
    monkeypatch.setattr(Files, "content", lambda store, i: opened.append(store.names[i]) or content(store, i))
    assert named(tmp_path / "p")[1].reasons == ["", ""]
    assert opened == ["b/2.jpg"]


def look_slowly(content: bytes, place: Path) -> tuple[int, int, int, bool]:
    """Height, width, flags and whether it is whole, by Pillow alone."""
    try:
        with Image.open(place) as image:
            image.load()
            upright = ImageOps.exif_transpose(image)
            rotated = image.getexif().get(0x0112, 1) in (2, 3, 4, 5, 6, 7, 8)
            bands = image.getbands()
            deep = image.mode in ("I;16", "I", "F")
            grey = deep or bands in (("L",), ("L", "A"), ("1",))
            alpha = "A" in bands or "transparency" in image.info
    except Exception:
        return 0, 0, SEEN | BROKEN, False
    flags = SEEN | ROTATED * rotated | TRANSPARENT * alpha | GREY * grey | DEEP * deep
    return upright.height, upright.width, flags, True


@pytest.mark.parametrize("cores", [1, 3])
def test_the_parallel_scan_finds_what_a_slow_look_at_one_file_after_the_other_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cores: int
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(cores)), raising=False)
    monkeypatch.setattr(scanning, "CHUNK", 3)
    rng = np.random.default_rng(cores)
    kinds = [content for content, *_ in (*WHOLE.values(), *BAD.values()) if content != b""]
    files = {}
    for i in range(90):
        content = kinds[int(rng.integers(len(kinds)))]
        files[f"{'ab'[i % 2]}/{i}.jpg"] = content + bytes(int(rng.integers(3)))  # bytes after the end do no harm
    files |= {f"{'ab'[i % 2]}/{i}.jpg": encoded(piece(i), "PNG") for i in range(90, 100)}
    names, facts = named(folder(tmp_path / "p", files))
    assert sorted(names) == sorted(files)
    for i, name in enumerate(names):
        height, width, flags, whole = look_slowly(files[name], tmp_path / "p" / name)
        assert (facts.height[i], facts.width[i], facts.flags[i]) == (height, width, flags), name
        assert bool(facts.reasons[i]) != whole
        assert tuple(facts.hashes[i].tolist()) == content_hash(files[name])


def test_what_the_scan_calls_whole_can_be_read_and_the_rest_cannot(tmp_path: Path) -> None:
    """Files with some bytes changed, or cut off: the two readers agree on each of them."""
    rng = np.random.default_rng(0)
    whole = [content for content, *_ in WHOLE.values()]
    files = {}
    for i in range(400):
        content = bytearray(whole[i % len(whole)])
        for _ in range(int(rng.integers(1, 6))):
            reach = len(content) if rng.random() < 0.5 else min(len(content), 500)
            content[int(rng.integers(40 if i % 2 else 0, max(reach, 41))) % len(content)] = int(rng.integers(256))
        files[f"{'ab'[i % 2]}/{i}.png"] = bytes(content[: int(rng.integers(len(content)))] if i % 7 == 0 else content)
    names, facts = named(folder(tmp_path / "p", files))
    counts = {True: 0, False: 0}
    for i, name in enumerate(names):
        try:
            image = read_photo(tmp_path / "p" / name).image
            size = (image.height, image.width)
        except ConvscopeError:
            size = None
        counts[size is None] += 1
        assert (size is None) == bool(facts.flags[i] & BROKEN), (name, facts.reasons[i])
        assert size in (None, (facts.height[i], facts.width[i]))
    assert min(counts.values()) > 100


def test_as_many_files_are_opened_at_once_as_there_are_cores(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder(tmp_path / "p", {f"{'ab'[i % 2]}/{i}.jpg": encoded(piece(i)) for i in range(3)})
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1, 2}, raising=False)
    monkeypatch.setattr(scanning, "CHUNK", 1)
    together, content = threading.Barrier(3), Files.content

    def waits(store: Files, index: int) -> bytes:
        together.wait(20)  # one after the other, it breaks
        return content(store, index)

    monkeypatch.setattr(Files, "content", waits)
    assert named(tmp_path / "p")[1].flags.tolist() == [SEEN] * 3


def test_progress_counts_the_photos_that_are_opened(tmp_path: Path) -> None:
    class Listener:
        def __init__(self) -> None:
            self.told: list[tuple[str, int]] = []

        def begin(self, label: str, total: int) -> None:
            self.told.append((label, total))

        def advance(self, done: int) -> None:
            self.told.append(("done", done))

        def end(self) -> None:
            self.told.append(("end", 0))

    folder(tmp_path / "p", {f"{'ab'[i % 2]}/{i}.jpg": encoded(piece(i)) for i in range(40)})
    heard = Listener()
    with reporting(heard):
        named(tmp_path / "p")
    assert heard.told[0] == ("photos checked", 40)
    assert [done for word, done in heard.told if word == "done"] == [16, 16, 8]
    assert heard.told[-1] == ("end", 0)


def test_pictures_in_memory_are_scanned_without_a_cache(cache: Path) -> None:
    listed = open_source("digits")
    facts = scan(listed)
    assert set(facts.flags.tolist()) == {SEEN | GREY}
    assert {*facts.height.tolist(), *facts.width.tolist()} == {8}
    pixels = listed.store.pixels  # type: ignore[attr-defined]
    assert [tuple(pair) for pair in facts.hashes[:50].tolist()] == [content_hash(p.tobytes()) for p in pixels[:50]]
    assert not cache.exists()
