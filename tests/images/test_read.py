"""Photos as they come: every format and state a file can be in, and nothing of the caller's changed."""

from __future__ import annotations

import io
import os
import struct
import threading
import warnings
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFile

from convscope.errors import ConvscopeError, ImageError, UsageError
from convscope.images import read
from convscope.images.read import MAX_PIXELS, Photo, read_photo


def scene(height: int = 40, width: int = 56) -> np.ndarray:
    """A smooth picture "h w 3" without any symmetry."""
    row, col = np.mgrid[:height, :width] / np.array([height, width]).reshape(2, 1, 1)
    return np.stack([255 * row, 255 * col**2, 255 * (1 - row) * col], -1).round().astype(np.uint8)


def pixels_of(source: object, **options: str) -> np.ndarray:
    photo = read_photo(source, **options)  # type: ignore[arg-type]
    assert photo.image.mode == "RGB"
    return np.asarray(photo.image)


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def failure(source: object, kind: type[ConvscopeError]) -> str:
    with pytest.raises(kind) as caught:
        read_photo(source)  # type: ignore[arg-type]
    assert type(caught.value) is kind
    message = str(caught.value)
    assert "\n" not in message
    return message


# As the EXIF standard has it: on which side of the upright picture row 0 and column 0 of the stored one lie.
STORED: dict[int, Callable[[np.ndarray], np.ndarray]] = {
    1: lambda up: up,  # top, left
    2: lambda up: up[:, ::-1],  # top, right
    3: lambda up: up[::-1, ::-1],  # bottom, right
    4: lambda up: up[::-1],  # bottom, left
    5: lambda up: up.swapaxes(0, 1),  # left, top
    6: lambda up: up[:, ::-1].swapaxes(0, 1),  # right, top
    7: lambda up: up[::-1, ::-1].swapaxes(0, 1),  # right, bottom
    8: lambda up: up[::-1].swapaxes(0, 1),  # left, bottom
}


@pytest.mark.parametrize("kind", ["jpg", "png", "webp", "tiff"])
@pytest.mark.parametrize("orientation", STORED)
def test_exif_orientation(tmp_path: Path, kind: str, orientation: int) -> None:
    upright = scene()
    stored = Image.fromarray(np.ascontiguousarray(STORED[orientation](upright)))
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"quality": 95} if kind == "jpg" else {"lossless": True} if kind == "webp" else {}
    stored.save(tmp_path / f"turned.{kind}", exif=exif, **options)
    photo = read_photo(tmp_path / f"turned.{kind}")
    got = np.asarray(photo.image).astype(int)
    assert got.shape == upright.shape
    assert np.abs(got - upright).max() <= (12 if kind == "jpg" else 0)
    assert photo.image.getexif().get(0x0112) is None, "it would be turned a second time"


def test_broken_exif_says_nothing(tmp_path: Path) -> None:
    (tmp_path / "x.jpg").write_bytes(encoded(Image.fromarray(scene()), "JPEG", exif=b"Exif\0\0MM\0*\0\0\0\xff broken"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow's, about the EXIF
        assert pixels_of(tmp_path / "x.jpg").shape == (40, 56, 3)


LOSSLESS = [("png", {}), ("tiff", {}), ("tiff", {"compression": "tiff_lzw"}), ("bmp", {}), ("ppm", {}), ("jp2", {})]


@pytest.mark.parametrize(("kind", "options"), [*LOSSLESS, ("webp", {"lossless": True})])
def test_lossless_formats_are_exact(tmp_path: Path, kind: str, options: dict[str, str]) -> None:
    path = tmp_path / f"photo.{kind}"
    Image.fromarray(scene()).save(path, **options)
    photo = read_photo(path)
    np.testing.assert_array_equal(np.asarray(photo.image), scene())
    assert (photo.name, photo.path) == (path.name, path)


def test_suffix_does_not_matter(tmp_path: Path) -> None:
    (tmp_path / "really_a_png.jpg").write_bytes(encoded(Image.fromarray(scene()), "PNG"))
    np.testing.assert_array_equal(pixels_of(str(tmp_path / "really_a_png.jpg")), scene())


def test_gif_gives_its_first_frame(tmp_path: Path) -> None:
    frames = [Image.new("RGB", (9, 7), colour) for colour in ("red", "blue", "lime")]
    frames[0].save(tmp_path / "film.gif", save_all=True, append_images=frames[1:], duration=50)
    assert (pixels_of(tmp_path / "film.gif") == [255, 0, 0]).all()


def test_one_pixel() -> None:
    assert pixels_of(np.uint8([[7]])).tolist() == [[[7, 7, 7]]]


@pytest.mark.parametrize("name", ["猫 é.png", "cat[1].png", "a b'\"c.png", "-x.png", "new\nline.png"])
def test_odd_names(tmp_path: Path, name: str) -> None:
    Image.fromarray(scene()).save(tmp_path / name)
    assert read_photo(tmp_path / name).name == name
    assert "no such file" in failure(tmp_path / f"missing {name}", UsageError)


def test_undecodable_name_has_a_printable_error(tmp_path: Path) -> None:
    failure(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.jpg"), UsageError).encode("utf-8")


def test_home_is_expanded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    Image.fromarray(scene()).save(tmp_path / "cat.png")
    assert read_photo("~/cat.png").path == tmp_path / "cat.png"


# What cannot be read.


def samples() -> dict[str, bytes]:
    image = Image.fromarray(scene())
    return {
        "jpg": encoded(image, "JPEG", quality=95),
        "progressive.jpg": encoded(image, "JPEG", progressive=True),
        "cmyk.jpg": encoded(image.convert("CMYK"), "JPEG"),
        "png": encoded(image, "PNG"),
        "palette.png": encoded(image.quantize(64), "PNG"),
        "webp": encoded(image, "WEBP", lossless=True),
        "tiff": encoded(image, "TIFF"),
        "lzw.tiff": encoded(image, "TIFF", compression="tiff_lzw"),
        "gif": encoded(image.quantize(64), "GIF"),
        "bmp": encoded(image, "BMP"),
    }


@pytest.mark.parametrize("kind", samples())
@pytest.mark.parametrize("lenient", [False, True])
def test_truncated_is_never_half_a_picture(
    tmp_path: Path, kind: str, lenient: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", lenient)
    data, path = samples()[kind], tmp_path / f"cut.{kind}"
    path.write_bytes(data)
    whole = pixels_of(path)
    refusals: dict[int, str] = {}
    for length in np.linspace(1, len(data) - 1, 60).astype(int):
        path.write_bytes(data[:length])
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # Pillow's, about cut TIFF tags
                got = pixels_of(path)
        except ImageError as error:
            refusals[length] = str(error)
        else:  # only what ends the file is missing, all pixels are there
            np.testing.assert_array_equal(got, whole)
    assert len(refusals) >= 57
    assert [text for length, text in refusals.items() if length >= 32 and "truncated" not in text] == []
    assert ImageFile.LOAD_TRUNCATED_IMAGES is lenient


def test_threads_leave_pillows_setting_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    first_in, first_may_go = threading.Event(), threading.Event()

    def first() -> None:
        with read._strictly():
            first_in.set()
            first_may_go.wait(5)

    thread = threading.Thread(target=first)
    thread.start()
    assert first_in.wait(5)
    with read._strictly():
        first_may_go.set()
        thread.join()
        assert ImageFile.LOAD_TRUNCATED_IMAGES is False, "still inside"
    assert ImageFile.LOAD_TRUNCATED_IMAGES is True


def png_claiming(width: int, height: int) -> bytes:
    """A PNG of a few bytes whose header promises so many pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 100)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def test_bomb_is_refused_by_its_header(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, before = tmp_path / "bomb.png", Image.MAX_IMAGE_PIXELS
    path.write_bytes(png_claiming(30_000, 30_000))
    monkeypatch.setattr(ImageFile.ImageFile, "load", lambda self: pytest.fail("its pixels were allocated"))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        message = failure(path, ImageError)
    assert "30000x30000 = 900,000,000 pixels" in message
    assert f"{MAX_PIXELS:,}" in message
    assert before == Image.MAX_IMAGE_PIXELS


@pytest.mark.parametrize("limit", [1, None])
def test_limit_is_our_own(tmp_path: Path, limit: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither does a moved Pillow limit refuse a photo, nor its absence let a bomb through."""
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
    (tmp_path / "bomb.png").write_bytes(png_claiming(MAX_PIXELS + 1, 1))
    Image.fromarray(scene()).save(tmp_path / "fine.png")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert "too large" in failure(tmp_path / "bomb.png", ImageError)
        np.testing.assert_array_equal(pixels_of(tmp_path / "fine.png"), scene())
    assert limit == Image.MAX_IMAGE_PIXELS


def test_bomb_that_pillow_refuses_first(tmp_path: Path) -> None:
    data = bytearray(encoded(Image.new("RGB", (4, 4)), "WEBP", lossless=True))
    at = data.index(b"VP8L") + 9
    data[at : at + 4] = struct.pack("<I", 0x0FFFFFFF)  # 14 bits each: 16384 x 16384
    (tmp_path / "bomb.webp").write_bytes(data)
    message = failure(tmp_path / "bomb.webp", ImageError)
    assert "too large" in message or "truncated" in message  # by whether this Pillow looks before it decodes


@pytest.mark.parametrize(
    ("name", "data", "says"),
    [
        ("empty.jpg", b"", "empty (0 bytes)"),
        ("text.jpg", b"these are not pixels\n" * 9, "not a photo"),
        ("page.jpg", b"\n<!DOCTYPE html><html>404", "web page"),
        ("paper.jpg", b"%PDF-1.7 ...", "PDF"),
        ("phone.heic", b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "JPEG"),
        ("short.jpg", b"\xff", "not a photo"),
        ("drawing.eps", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "not a photo"),
        ("noise.png", b"\x89PNG\r\n\x1a\n" + bytes(range(200)), "begins as PNG"),
    ],
)
def test_not_a_photo(tmp_path: Path, name: str, data: bytes, says: str) -> None:
    (tmp_path / name).write_bytes(data)
    message = failure(tmp_path / name, ImageError)
    assert says in message
    assert name in message


def test_files_that_are_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert str(tmp_path) in failure("nowhere.jpg", UsageError)
    assert "is a folder" in failure(tmp_path, UsageError)
    (tmp_path / "file").touch()
    assert "no such file" in failure(tmp_path / "file" / "x.jpg", UsageError)
    failure("x" * 5000 + ".jpg", UsageError)
    failure("null\0byte.jpg", UsageError)
    failure("~nobody-of-that-name/x.jpg", UsageError)


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.jpg")
    messages: list[str] = []
    reader = threading.Thread(target=lambda: messages.append(failure(tmp_path / "pipe.jpg", UsageError)), daemon=True)
    reader.start()
    reader.join(5)
    assert "regular file" in messages[0]


def test_no_permission(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: Path, *_: object) -> None:
        raise PermissionError(13, "Permission denied", str(self))

    (tmp_path / "mine.jpg").touch()
    monkeypatch.setattr(Path, "open", refuse)  # the tests may run as root, for whom no file is closed
    assert "no permission" in failure(tmp_path / "mine.jpg", ImageError)


@pytest.mark.parametrize("source", [None, 3, b"bytes", [1, 2], {"a": 1}])
def test_wrong_type(source: object) -> None:
    assert type(source).__name__ in failure(source, UsageError)


def test_a_tensor_is_told_how() -> None:
    import torch

    assert "permute(1, 2, 0)" in failure(torch.zeros(3, 4, 4), UsageError)


# What is given in memory.


def test_pil_images_are_not_changed() -> None:
    image = Image.fromarray(scene())
    image.info["mine"] = "kept"
    photo = read_photo(image, name="mine")
    photo.image.putpixel((0, 0), (1, 2, 3))
    np.testing.assert_array_equal(np.asarray(image), scene())
    assert image.info == {"mine": "kept"}
    assert (photo.name, photo.path) == ("mine", None)


def test_pil_image_is_turned_and_kept(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(scene()).save(tmp_path / "x.png", exif=exif)
    with Image.open(tmp_path / "x.png") as image:
        assert read_photo(image).image.size == image.size[::-1] == (40, 56)
        assert image.getexif()[0x0112] == 6


def test_pil_image_from_a_cut_file() -> None:
    data = samples()["jpg"]
    with Image.open(io.BytesIO(data[:-100])) as image:
        assert "truncated" in failure(image, ImageError)


def test_photo_passes_through() -> None:
    photo = read_photo(scene())
    assert photo.name == "photo 1"
    assert read_photo(photo) is photo
    assert read_photo(photo, name="other") == Photo(photo.image, "other")


def test_empty_pil_image() -> None:
    assert "no pixels" in failure(Image.new("RGB", (0, 5)), UsageError)
