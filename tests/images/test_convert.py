"""Every mode, depth, profile and transparency ends as the right 8-bit RGB."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from convscope.errors import ImageError, UsageError
from convscope.images.read import read_photo


def pixels_of(source: object, **options: str) -> np.ndarray:
    return np.asarray(read_photo(source, **options).image)  # type: ignore[arg-type]


RAMP = np.linspace(0, 65535, 24).astype(np.uint16).reshape(4, 6)
RAMP_8 = np.floor(RAMP.astype(float) * 255 / 65535 + 0.5).astype(np.uint8)


@pytest.mark.parametrize("kind", ["png", "tiff", "pgm"])
def test_16_bit_grey_file(tmp_path: Path, kind: str) -> None:
    Image.fromarray(RAMP).save(tmp_path / f"ramp.{kind}")
    got = pixels_of(tmp_path / f"ramp.{kind}")
    np.testing.assert_array_equal(got, np.repeat(RAMP_8[..., None], 3, -1))


def test_dark_16_bit_stays_dark(tmp_path: Path) -> None:
    """It is scaled by the type's range, not by the photo's own."""
    Image.fromarray(np.full((3, 3), 2570, np.uint16)).save(tmp_path / "dark.png")
    assert (pixels_of(tmp_path / "dark.png") == 10).all()


def test_big_endian_16_bit() -> None:
    image = Image.frombytes("I;16B", (6, 4), RAMP.astype(">u2").tobytes())
    np.testing.assert_array_equal(pixels_of(image)[..., 0], RAMP_8)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (np.int32([[0, 100, 255]]), [0, 100, 255]),
        (np.int32([[0, 25700, 65535]]), [0, 100, 255]),
        (np.int32([[-100, 0, 155]]), [0, 100, 255]),
        (np.int32([[0, 1_000_000, 2_550_000]]), [0, 100, 255]),
        (np.int32([[70_000, 70_000, 70_000]]), [0, 0, 0]),
        (np.float32([[0, 0.2, 1]]), [0, 51, 255]),
        (np.float32([[0, 51, 255]]), [0, 51, 255]),
        (np.float32([[-2, 0, 8]]), [0, 51, 255]),
        (np.float32([[0, 0, 0]]), [0, 0, 0]),
    ],
)
def test_32_bit_grey(tmp_path: Path, values: np.ndarray, expected: list[int]) -> None:
    Image.fromarray(values).save(tmp_path / "wide.tiff")
    assert pixels_of(tmp_path / "wide.tiff")[0, :, 1].tolist() == expected


def test_nan_in_a_file(tmp_path: Path) -> None:
    Image.fromarray(np.float32([[0, np.nan]])).save(tmp_path / "nan.tiff")
    with pytest.raises(ImageError, match=r"nan\.tiff holds NaN"):
        read_photo(tmp_path / "nan.tiff")


def test_cmyk_jpeg(tmp_path: Path) -> None:
    """Pillow writes them as Adobe does, inverted; read the other way round, red would be dark blue."""
    inks = np.repeat(np.uint8([[[0, 255, 255, 0], [255, 0, 0, 0], [0, 0, 0, 0], [0, 0, 0, 255]]]), 16, axis=1)
    image = Image.fromarray(np.repeat(inks, 16, axis=0), "CMYK")
    image.save(tmp_path / "print.jpg", quality=95)
    got = pixels_of(tmp_path / "print.jpg")[8, 8::16].astype(int)
    assert np.abs(got - [[255, 0, 0], [0, 255, 255], [255, 255, 255], [0, 0, 0]]).max() <= 6


def test_grey_and_bilevel(tmp_path: Path) -> None:
    values = np.arange(0, 240, 10, dtype=np.uint8).reshape(4, 6)
    Image.fromarray(values).save(tmp_path / "grey.png")
    np.testing.assert_array_equal(pixels_of(tmp_path / "grey.png"), np.repeat(values[..., None], 3, -1))
    Image.fromarray(values > 100).save(tmp_path / "fax.tiff")
    np.testing.assert_array_equal(pixels_of(tmp_path / "fax.tiff")[..., 2], np.where(values > 100, 255, 0))


def test_palette_with_transparency(tmp_path: Path) -> None:
    image = Image.new("P", (3, 1))
    image.putpalette([255, 0, 0, 0, 255, 0, 0, 0, 255])
    image.putdata([0, 1, 2])
    image.save(tmp_path / "p.png", transparency=bytes([255, 0, 51]))
    over_white = [[255, 0, 0], [255, 255, 255], [204, 204, 255]]
    assert pixels_of(tmp_path / "p.png")[0].tolist() == over_white
    assert pixels_of(tmp_path / "p.png", background="black")[0].tolist() == [[255, 0, 0], [0, 0, 0], [0, 0, 51]]
    image.save(tmp_path / "p.gif", transparency=1)
    assert pixels_of(tmp_path / "p.gif", background="#0a141e")[0].tolist() == [[255, 0, 0], [10, 20, 30], [0, 0, 255]]


@pytest.mark.parametrize("mode", ["RGBA", "LA", "PA"])
def test_alpha_over_background(tmp_path: Path, mode: str) -> None:
    image = Image.new("RGBA", (3, 1), (100, 100, 100, 255))
    image.putpixel((1, 0), (100, 100, 100, 0))
    image.putpixel((2, 0), (100, 100, 100, 51))
    got = pixels_of(image.convert(mode), background="yellow")[0].astype(int)
    assert np.abs(got - [[100, 100, 100], [255, 255, 0], [224, 224, 20]]).max() <= 1


@pytest.mark.parametrize(("mode", "key"), [("L", 7), ("RGB", (7, 7, 7))])
def test_transparent_colour(tmp_path: Path, mode: str, key: object) -> None:
    image = Image.new(mode, (2, 1), "white")
    image.putpixel((0, 0), key)
    image.save(tmp_path / "key.png", transparency=key)
    assert pixels_of(tmp_path / "key.png", background="red")[0].tolist() == [[255, 0, 0], [255, 255, 255]]


def test_unknown_background() -> None:
    with pytest.raises(UsageError, match="unknown colour 'whit'"):
        read_photo(np.zeros((2, 2), np.uint8), background="whit")


def swapped_profile() -> bytes:
    """An ICC profile (matrix, gamma 2.2) whose red is sRGB's blue and whose blue is its red."""

    def fixed(*numbers: float) -> bytes:
        return b"XYZ \0\0\0\0" + b"".join(struct.pack(">i", round(n * 65536)) for n in numbers)

    text = b"swapped\0"
    gamma = b"curv\0\0\0\0" + struct.pack(">IH", 1, round(2.2 * 256)) + b"\0\0"
    tags = {
        b"desc": b"desc\0\0\0\0" + struct.pack(">I", len(text)) + text + b"\0" * 79,
        b"cprt": b"text\0\0\0\0none\0\0\0\0",
        b"wtpt": fixed(0.9642, 1.0, 0.8249),
        b"rXYZ": fixed(0.1431, 0.0606, 0.7141),
        b"gXYZ": fixed(0.3851, 0.7169, 0.0971),
        b"bXYZ": fixed(0.4361, 0.2225, 0.0139),
        b"rTRC": gamma,
        b"gTRC": gamma,
        b"bTRC": gamma,
    }
    table, body, start = b"", b"", 128 + 4 + 12 * len(tags)
    for name, data in tags.items():
        data += b"\0" * (-len(data) % 4)
        table += name + struct.pack(">II", start + len(body), len(data))
        body += data
    head = struct.pack(">I4sI4s4s4s", start + len(body), b"lcms", 0x02100000, b"mntr", b"RGB ", b"XYZ ")
    head += struct.pack(">6H", 2026, 1, 1, 0, 0, 0) + b"acsp" + b"\0" * 28
    head += struct.pack(">3i", 63190, 65536, 54061) + b"\0" * 48
    return head + struct.pack(">I", len(tags)) + table + body


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "P"])
def test_colour_profile_is_applied(tmp_path: Path, mode: str) -> None:
    image = Image.new("RGB", (2, 1), (255, 0, 0))
    image.putpixel((1, 0), (128, 128, 128))
    image = image.quantize(2) if mode == "P" else image.convert(mode)
    image.save(tmp_path / "wide.png", icc_profile=swapped_profile())
    photo = read_photo(tmp_path / "wide.png")
    assert np.abs(np.asarray(photo.image)[0].astype(int) - [[0, 0, 255], [128, 128, 128]]).max() <= 3
    assert "icc_profile" not in photo.image.info, "it would be applied a second time"


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_useless_profiles_are_passed_over(tmp_path: Path, mode: str) -> None:
    image = Image.new("RGB", (2, 2), (90, 90, 90)).convert(mode)
    profiles = [b"broken", b""] + [swapped_profile()] * (mode != "RGB")
    for profile in profiles:
        image.save(tmp_path / "x.tiff", icc_profile=profile)
        assert (pixels_of(tmp_path / "x.tiff") == 90).all()


# Arrays.


def test_arrays() -> None:
    colours = np.arange(60, dtype=np.uint8).reshape(4, 5, 3) * 4
    np.testing.assert_array_equal(pixels_of(colours), colours)
    np.testing.assert_array_equal(pixels_of(colours / np.float32(255)), colours)
    np.testing.assert_array_equal(pixels_of(colours.astype(np.uint16) * 257), colours)
    np.testing.assert_array_equal(pixels_of(RAMP)[..., 2], RAMP_8)
    np.testing.assert_array_equal(pixels_of(np.asfortranarray(colours)), colours)
    np.testing.assert_array_equal(pixels_of(colours[::-1, ::-1]), colours[::-1, ::-1])
    grey = colours[..., 1]
    for array in (grey, grey[..., None], grey / 255.0):
        np.testing.assert_array_equal(pixels_of(array), np.repeat(grey[..., None], 3, -1))
    opaque, clear = (np.dstack([colours, np.full((4, 5), alpha, np.uint8)]) for alpha in (255, 0))
    np.testing.assert_array_equal(pixels_of(opaque), colours)
    assert (pixels_of(clear) == 255).all()
    assert (pixels_of(clear / 255.0, background="black") == 0).all()


def test_rounding_beyond_one_is_forgiven() -> None:
    assert pixels_of(np.array([[1.0005, -0.0005]])).tolist() == [[[255] * 3, [0] * 3]]


def test_array_and_photo_share_nothing() -> None:
    array = np.full((2, 2, 3), 9, np.uint8)
    photo = read_photo(array)
    array[:] = 200
    assert (np.asarray(photo.image) == 9).all()
    photo.image.paste("black", (0, 0, 2, 2))
    assert (array == 200).all()


@pytest.mark.parametrize(
    ("array", "says"),
    [
        (np.zeros((3, 32, 40), np.uint8), r"shape 3 x 32 x 40.*transpose\(1, 2, 0\)"),
        (np.zeros((1, 4, 4, 3), np.uint8), "one image of the batch"),
        (np.zeros((4, 4, 2), np.uint8), "shape 4 x 4 x 2"),
        (np.zeros(5, np.uint8), "shape 5"),
        (np.zeros((0, 4), np.uint8), "without pixels"),
        (np.zeros((4, 4), np.int64), "int64"),
        (np.zeros((4, 4), bool), "bool"),
        (np.full((4, 4), np.nan), "NaN"),
        (np.array([[0.0, np.inf]]), "infinite"),
        (np.array([[0.0, 200.0]]), "from 0 to 200.*divide by 255"),
        (np.array([[-1.0, 1.0]]), "from -1 to 1"),
        (np.array([["a"]]), "<U1"),
    ],
)
def test_arrays_that_are_no_photos(array: np.ndarray, says: str) -> None:
    with pytest.raises(UsageError, match=says) as caught:
        read_photo(array)
    assert "\n" not in str(caught.value)
