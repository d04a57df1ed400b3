"""IDX files as MNIST's, written here byte by byte."""

from __future__ import annotations

import gzip
import struct
from pathlib import Path

import numpy as np
import pytest
from sklearn.datasets import load_digits

from convscope.data.sources import SourceOptions, open_source
from convscope.data.sources.idx import FASHION
from convscope.errors import ImageError, UsageError
from tests.data.told import labels, splits

DIGITS = load_digits()
PIXELS = (DIGITS.images * 15).astype(np.uint8)
TRUTH = DIGITS.target.astype(np.uint8)


def idx(array: np.ndarray) -> bytes:
    return struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape) + array.tobytes()


def write(folder: Path, name: str, array: np.ndarray) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(gzip.compress(idx(array), mtime=0) if name.endswith(".gz") else idx(array))


def digits_as_idx(folder: Path) -> None:
    """All of them, for what need not be found by name."""
    write(folder, "train-images-idx3-ubyte", PIXELS)
    write(folder, "train-labels-idx1-ubyte", TRUTH)


def write_both(folder: Path, spelling: str, ending: str = "") -> Path:
    for name, rows in (("train", slice(0, 30)), ("t10k", slice(30, 50))):
        write(folder, f"{name}-images{spelling}idx3-ubyte{ending}", PIXELS[rows])
        write(folder, f"{name}-labels{spelling}idx1-ubyte{ending}", TRUTH[rows])
    return folder


@pytest.mark.parametrize("ending", ["", ".gz"])
@pytest.mark.parametrize("spelling", ["-", "."])
def test_a_folder_of_both_halves(tmp_path: Path, spelling: str, ending: str) -> None:
    found = open_source(str(write_both(tmp_path, spelling, ending)))
    names = [f"train-{i:05d}" for i in range(30)] + [f"t10k-{i:05d}" for i in range(20)]
    assert labels(found) == {name: str(label) for name, label in zip(names, TRUTH[:50], strict=True)}
    assert splits(found) == {name: "train" if name.startswith("train") else "test" for name in names}
    assert (found.kind, found.classes, found.remarks) == ("idx", tuple("0123456789"), ())
    for i in (0, 29, 30, 49):
        assert np.array_equal(found.store.photo(i), PIXELS[i])


def test_one_file_of_images_is_read_with_its_labels_alone(tmp_path: Path) -> None:
    write_both(tmp_path, "-")
    found = open_source(str(tmp_path / "t10k-images-idx3-ubyte"))
    assert labels(found) == {f"t10k-{i:05d}": str(label) for i, label in enumerate(TRUTH[30:50])}
    assert set(splits(found).values()) == {"test"}


def test_images_without_labels_have_none(tmp_path: Path) -> None:
    write(tmp_path, "images-idx3-ubyte", PIXELS[:2])
    found = open_source(str(tmp_path))
    assert labels(found) == {"image-00000": None, "image-00001": None}
    assert set(splits(found).values()) == {None}
    assert found.remarks == ("images-idx3-ubyte has no labels beside it",)


def test_unpacked_files_win_over_packed_ones(tmp_path: Path) -> None:
    write_both(tmp_path, "-", ".gz")
    write(tmp_path, "train-images-idx3-ubyte", 255 - PIXELS[:30])
    found = open_source(str(tmp_path))
    assert len(found.store) == 50
    assert np.array_equal(found.store.photo(0), 255 - PIXELS[0])


@pytest.mark.parametrize("folder", ["fashion-mnist", "FashionMNIST/raw"])
def test_fashion_mnist_has_its_names(tmp_path: Path, folder: str) -> None:
    found = open_source(str(write_both(tmp_path / folder, "-")))
    assert found.classes == FASHION
    assert found.labels.tolist() == TRUTH[:50].tolist()
    assert found.remarks == ("classes are called by the names of Fashion-MNIST",)
    other = open_source(str(tmp_path / folder), SourceOptions(classes=tuple("abcdefghij")))
    assert (other.classes, other.remarks) == (tuple("abcdefghij"), ("integer labels are indices: 0 is a",))


def test_labels_beyond_ten_are_not_fashion(tmp_path: Path) -> None:
    write(tmp_path / "fashion", "train-images-idx3-ubyte", PIXELS[:2])
    write(tmp_path / "fashion", "train-labels-idx1-ubyte", np.array([3, 11], np.uint8))
    assert open_source(str(tmp_path / "fashion")).classes == ("3", "11")


def test_labels_index_into_the_users_classes(tmp_path: Path) -> None:
    write_both(tmp_path, "-")
    with pytest.raises(UsageError, match="out of range: 2 classes are named, for labels 0 to 1"):
        open_source(str(tmp_path), SourceOptions(classes=("a", "b")))


def test_several_sets_in_a_folder_are_not_thrown_together(tmp_path: Path) -> None:
    write(tmp_path, "emnist-letters-train-images-idx3-ubyte", PIXELS[:2])
    write(tmp_path, "emnist-digits-train-images-idx3-ubyte", PIXELS[:3])
    with pytest.raises(UsageError, match="holds several sets; name one of the files: emnist-digits-train-images"):
        open_source(str(tmp_path))
    found = open_source(str(tmp_path / "emnist-letters-train-images-idx3-ubyte"))
    assert splits(found) == {"emnist-letters-train-00000": "train", "emnist-letters-train-00001": "train"}


def test_halves_of_different_sizes_are_an_error(tmp_path: Path) -> None:
    write(tmp_path, "train-images-idx3-ubyte", PIXELS[:2])
    write(tmp_path, "test-images-idx3-ubyte", PIXELS[:2, :6])
    with pytest.raises(ImageError, match="images of different sizes \\(train 8x8, test 6x8\\)"):
        open_source(str(tmp_path))


def test_another_number_of_labels_is_an_error(tmp_path: Path) -> None:
    write(tmp_path, "train-images-idx3-ubyte", PIXELS[:30])
    write(tmp_path, "train-labels-idx1-ubyte", TRUTH[:29])
    with pytest.raises(ImageError, match=r"train-labels-idx1-ubyte has 29 labels, and .*-images-idx3-ubyte 30 images"):
        open_source(str(tmp_path))


WHOLE = idx(PIXELS[:5])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (WHOLE[:-7], "is truncated or damaged: its header says 5x8x8 = 320 bytes, and 313 were found; copy or"),
        (WHOLE + b"x", "320 bytes, and 321 were found"),
        (gzip.compress(WHOLE, mtime=0)[:-20], r"its header says 5x8x8 = 320 bytes, and \d+ were found"),
        (idx(TRUTH[:5]), "is no IDX file of images: it begins with 00 00 08 01, not 00 00 08 03"),
        (b"\0\0\x0d\3" + WHOLE[4:], "it begins with 00 00 0d 03, not 00"),
        (b"<html>", "it begins with 3c 68 74 6d"),
        (b"", "it begins with nothing"),
        (WHOLE[:9], "is truncated or damaged: 9 bytes are no header"),
        (gzip.compress(WHOLE, mtime=0)[:8], "is truncated or damaged: 0 bytes are no header"),
        (gzip.compress(WHOLE, mtime=0)[:-3], "320 bytes, and 320 were found before the gzip file ends"),
        (
            b"".join(gzip.compress(part, mtime=0) for part in (WHOLE[:99], WHOLE[99:-1])),
            "320 bytes, and 319 were found",
        ),
        (idx(PIXELS[:0]), "holds no images: its header says 0x8x8"),
        (struct.pack(">HBB3I", 0, 8, 3, *[2**32 - 1] * 3), "and 0 were found"),
    ],
)
@pytest.mark.parametrize("name", ["train-images-idx3-ubyte", "train-images-idx3-ubyte.gz"])
def test_a_damaged_file_says_what_was_expected_and_found(
    tmp_path: Path, content: bytes, message: str, name: str
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ImageError, match=message):
        open_source(str(tmp_path))


def test_a_byte_that_turned_over_in_a_gzip_file_is_found(tmp_path: Path) -> None:
    for at in (40, -6):  # in what is packed, and in its checksum
        packed = bytearray(gzip.compress(idx(PIXELS), mtime=0))
        packed[at] ^= 0xFF
        (tmp_path / "train-images-idx3-ubyte.gz").write_bytes(packed)
        with pytest.raises(ImageError, match="truncated or damaged"):
            open_source(str(tmp_path))
