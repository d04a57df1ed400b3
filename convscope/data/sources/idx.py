"""IDX files, as MNIST and its family come in: images and labels as arrays, gzipped or not."""

from __future__ import annotations

import os
import re
import zlib
from dataclasses import dataclass
from math import prod
from pathlib import Path

import numpy as np

from convscope.data.listing import SPLITS, TEST, WORDS, Listing
from convscope.data.names import Names
from convscope.data.sources.entries import cannot_read, some
from convscope.data.sources.options import PLAIN, SourceOptions, by_index, listed
from convscope.data.store import Arrays
from convscope.errors import ImageError, UsageError
from convscope.images.read import AGAIN, printable

IMAGES = re.compile(r"(?P<set>.*?)[-_.]?images?[-.]idx3-ubyte(\.gz)?", re.IGNORECASE)
LABELS = re.compile(r"(?P<set>.*?)[-_.]?labels?[-.]idx1-ubyte(\.gz)?", re.IGNORECASE)
HALVES = WORDS | {"t10k": TEST}
CHUNK = 1 << 12  # bytes to unpack at once: so much may be lost before a fault
FASHION = (
    "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot",
)  # fmt: skip


def is_images(name: str) -> bool:
    """Whether a file's name is that of IDX images."""
    return IMAGES.fullmatch(name) is not None


def holds_images(names: list[str]) -> bool:
    """Whether IDX images are among the files of a folder."""
    return any(map(is_images, names))


@dataclass(frozen=True)
class _Set:
    """One file of images, and the file of their labels if there is one."""

    name: str
    images: Path
    labels: Path | None

    @property
    def split(self) -> str | None:
        """The split that its name says."""
        words = [word for word in re.split(r"[-_. ]", self.name.casefold()) if word in HALVES]
        return SPLITS[HALVES[words[-1]]] if words else None


def read_idx(source: str, options: SourceOptions = PLAIN) -> Listing:
    """A folder with IDX images and labels, or one file of images with its labels beside it.

    What is called train, and t10k or test, is that split. Classes are called by their numbers, those of Fashion-MNIST
    by their names. ImageError for a file that does not hold what its header says.
    """
    sets = _sets(source)
    remarks: list[str] = []
    pixels: list[np.ndarray] = []
    names: list[str] = []
    labels: list[str | None] = []
    splits: list[str | None] = []
    for one in sets:
        pixels.append(_array(one.images, 3))
        count = len(pixels[-1])
        if one.labels is None:
            remarks.append(f"{printable(one.images.name)} has no labels beside it")
            labels += [None] * count
        else:
            numbers = _array(one.labels, 1)
            if len(numbers) != count:
                raise ImageError(
                    f"{printable(one.labels)} has {len(numbers):,} labels, and {printable(one.images.name)} "
                    f"{count:,} images; {AGAIN}"
                )
            labels += [str(number) for number in numbers.tolist()]
        width = max(5, len(str(count - 1)))
        names += [f"{one.name or 'image'}-{i:0{width}d}" for i in range(count)]
        splits += [one.split] * count
    if len({part.shape[1:] for part in pixels}) > 1:
        sizes = ", ".join(f"{one.name} {p.shape[1]}x{p.shape[2]}" for one, p in zip(sets, pixels, strict=True))
        raise ImageError(f"{printable(source)}: images of different sizes ({sizes}); name one of the files")
    words, notes = by_index(source, labels, options)
    classes = None
    if options.classes is None and _fashion(sets[0].images, labels):
        classes = FASHION
        words = [None if word is None else FASHION[int(word)] for word in labels]
        remarks.append("classes are called by the names of Fashion-MNIST")
    store = Arrays(np.concatenate(pixels) if len(pixels) > 1 else pixels[0], Names.of(names))
    return listed(source, "idx", store, words, options, splits=splits, remarks=remarks + notes, classes=classes)


def _sets(source: str) -> list[_Set]:
    """The files of a source, one set a split."""
    path = Path(os.path.expanduser(source))
    folder = path if path.is_dir() else path.parent
    try:
        names = sorted(name for name in os.listdir(folder) if not name.startswith("."))
    except OSError as error:
        raise cannot_read(source, error) from None
    labels = {match["set"]: name for name in reversed(names) if (match := LABELS.fullmatch(name))}
    images = {match["set"]: name for name in reversed(names) if (match := IMAGES.fullmatch(name))}  # not .gz if both
    if not path.is_dir():
        match = IMAGES.fullmatch(path.name)
        if match is None:
            raise UsageError(f"{printable(source)} is not called like IDX images, train-images-idx3-ubyte")
        images = {match["set"]: path.name}
    found = [
        _Set(name, folder / file, folder / labels[name] if name in labels else None)
        for name, file in sorted(images.items(), key=lambda item: (HALVES.get(item[0].casefold(), -1), item[0]))
    ]
    splits = [one.split for one in found]
    if len(set(splits)) < len(splits) or (None in splits and len(splits) > 1):
        files = some([one.images.name for one in found])
        raise UsageError(f"{printable(source)} holds several sets; name one of the files: {files}")
    return found


def _fashion(images: Path, labels: list[str | None]) -> bool:
    """Whether images are called Fashion-MNIST's, by their file or folder, and may be by their labels."""
    folder = images.resolve().parent
    names = [images.name, folder.name, *([folder.parent.name] if folder.name == "raw" else [])]  # torchvision's raw
    fits = {label for label in labels if label is not None} <= set(map(str, range(len(FASHION))))
    return fits and any("fashion" in name.casefold() for name in names)


def _array(path: Path, dimensions: int) -> np.ndarray:
    """The unsigned bytes of an IDX file, in its shape."""
    what = {1: "labels", 3: "images"}[dimensions]
    found, broken = _content(path)
    head, rest = found[: 4 + 4 * dimensions], memoryview(found)[4 + 4 * dimensions :]
    magic = bytes([0, 0, 8, dimensions])
    if head[:4] != magic and not (broken and len(head) < 4):
        begin = head[:4].hex(" ") or "nothing"
        raise ImageError(f"{printable(path)} is no IDX file of {what}: it begins with {begin}, not {magic.hex(' ')}")
    if len(head) < 4 + 4 * dimensions:
        raise ImageError(f"{printable(path)} is truncated or damaged: {len(head)} bytes are no header; {AGAIN}")
    shape = tuple(int(side) for side in np.frombuffer(head[4:], ">u4"))
    form = "x".join(map(str, shape))
    if not all(shape):
        raise ImageError(f"{printable(path)} holds no {what}: its header says {form}")
    if broken or len(rest) != prod(shape):
        raise ImageError(
            f"{printable(path)} is truncated or damaged: its header says {form} = {prod(shape):,} bytes, and "
            f"{len(rest):,} were found{broken}; {AGAIN}"
        )
    return np.frombuffer(rest, np.uint8).reshape(shape)


def _content(path: Path) -> tuple[bytes, str]:
    """What a file holds, unpacked as far as that goes, and what its packing says against it ("" if nothing)."""
    try:
        packed = path.read_bytes()
    except OSError as error:
        raise cannot_read(str(path), error) from None
    if not packed.startswith(b"\x1f\x8b"):
        return packed, ""
    found = bytearray()
    while packed:  # a gzip file may be several, one after the other
        unpacker = zlib.decompressobj(wbits=31)
        for start in range(0, len(packed), CHUNK):
            try:
                found += unpacker.decompress(packed[start : start + CHUNK])
            except zlib.error as error:
                return bytes(found), f" ({error})"
            if unpacker.eof:
                break
        if not unpacker.eof:
            return bytes(found), " before the gzip file ends"
        packed = (unpacker.unused_data + packed[start + CHUNK :]).lstrip(b"\0")  # tapes were filled up
    return bytes(found), ""
