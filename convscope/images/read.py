"""Photos as they come: any file, array or PIL image becomes an upright RGB image, or one line that says why not."""

from __future__ import annotations

import glob
import io
import os
import re
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import takewhile
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np
from PIL import Image, ImageFile, ImageOps

from convscope.errors import ImageError, UsageError
from convscope.images.convert import flatten, from_array, paper_colour
from convscope.images.own import is_own

# The formats people keep photos in. Not all that Pillow knows: its EPS runs Ghostscript, its ICO hides a second header.
# A JPEG with several pictures (MPO) comes by JPEG; HEIF is there once pillow_heif is installed and registered.
FORMATS = ("JPEG", "PNG", "WEBP", "TIFF", "GIF", "BMP", "PPM", "AVIF", "JPEG2000", "HEIF")
MAX_PIXELS = 200_000_000  # the largest phone sensors; as RGB it is 0.6 GB
ORIENTATION = 0x0112  # the tag of EXIF
AGAIN = "copy or download it again"


@dataclass(frozen=True)
class Photo:
    """A photo as everything here takes it: 8-bit RGB in sRGB, upright, without metadata or transparency."""

    image: Image.Image
    name: str  # for labels: the file's name, or "photo 1"
    path: Path | None = None


Source = str | Path | Image.Image | np.ndarray | Photo


def read_photo(source: Source, *, background: str = "white", name: str | None = None) -> Photo:
    """A file, PIL image or array "h w", "h w 3" or "h w 4" as a Photo.

    What is transparent lies over ``background``, a colour name. EXIF rotation is applied and an embedded colour profile
    is converted to sRGB (a broken profile is passed over). An animation gives its first frame. 16-bit grey is scaled by
    its range of 65535; wider integers and floats by the first of 0..1 (floats), 0..255 and 0..65535 (integers) that
    holds them, otherwise from their minimum to their maximum.

    Raises UsageError for what is not there or not a photo by its type, ImageError for a file that cannot be read.
    """
    paper = paper_colour(background)
    if isinstance(source, Photo):
        return source if name is None else replace(source, name=name)
    if isinstance(source, str | Path):
        path = _path(source)
        return Photo(_read_file(path, paper), path.name if name is None else name, path)
    name = "photo 1" if name is None else name
    if isinstance(source, np.ndarray):
        source = from_array(source, printable(name))
    if isinstance(source, Image.Image):
        return Photo(_finish(source, paper, printable(name)), name)
    hint = "; pass tensor.permute(1, 2, 0).numpy()" if hasattr(source, "permute") else ""
    raise UsageError(f"a photo is a file name, a PIL image or a numpy array, not a {type(source).__name__}{hint}")


def read_content(content: bytes, name: str, *, background: str = "white") -> Image.Image:
    """What a photo's file holds, as ``read_photo`` reads it from the file of that name."""
    label = printable(name)
    return _finish(_open(io.BytesIO(content), label), paper_colour(background), label)


class Look(NamedTuple):
    """What a photo's file is like. Height and width are those of the upright photo."""

    height: int
    width: int
    rotated: bool
    transparent: bool
    grey: bool
    deep: bool  # more than 8 bits a channel


def look_at(content: bytes, name: str) -> Look:
    """Decode a photo's file to its last pixel and say what it is like. ImageError where it cannot be read."""
    label = printable(name)
    image = _open(io.BytesIO(content), label)
    mode, transparent = image.mode, image.has_transparency_data
    whole = _finish(image, (255, 255, 255), label)  # before EXIF: asked for it, a PNG loads itself, and fails unheard
    try:
        orientation = image.getexif().get(ORIENTATION, 1)
    except Exception:  # as below
        orientation = 1
    deep = mode.startswith("I") or mode == "F"
    grey = deep or mode in ("1", "L", "LA", "La")
    return Look(whole.height, whole.width, orientation in range(2, 9), transparent, grey, deep)


def printable(name: object) -> str:
    """A name as it can stand in one line of text: escaped if it holds line breaks or undecodable bytes."""
    text = str(name)
    return text if text.isprintable() else ascii(text)


def _path(source: str | Path) -> Path:
    return Path(os.path.expanduser(source))  # Path.expanduser raises where this leaves an unknown ~user be


def _read_file(path: Path, paper: tuple[int, ...]) -> Image.Image:
    label = printable(path)
    with _file(path, label) as file:
        return _finish(_open(file, label), paper, label)


def _file(path: Path, label: str) -> BinaryIO:
    try:
        if path.is_dir():
            raise UsageError(f"{label} is a folder, not a photo; name a file in it")
        if path.exists() and not path.is_file():  # opening a pipe would wait for ever
            raise UsageError(f"{label} is not a regular file; save the photo to a file first")
        return path.open("rb")
    except (FileNotFoundError, NotADirectoryError):
        where = "" if path.is_absolute() else f" in {printable(Path.cwd())}"
        raise UsageError(f"{label}: no such file{where}; check the name") from None
    except PermissionError:
        raise ImageError(f"{label} cannot be opened: no permission; make it readable (chmod +r)") from None
    except (OSError, ValueError) as error:  # a name that is too long or holds a null byte
        reason = getattr(error, "strerror", None) or error
        raise UsageError(f"{label} cannot be opened: {reason}; check the name") from None


def _open(file: BinaryIO, label: str) -> Image.Image:
    """What ``Image.open`` does, less its check of the size: that warns, and by a limit that others may have moved."""
    Image.init()
    head = file.read(32)
    if not head:
        raise ImageError(f"{label} is empty (0 bytes); {AGAIN}")
    for kind in FORMATS:
        factory, accept = Image.OPEN.get(kind, (None, None))
        verdict = accept(head[:16]) if accept else False
        if factory is None or not verdict or isinstance(verdict, str):  # a str: why this build cannot read the format
            continue
        file.seek(0)
        try:
            image = factory(file, "")
        except Image.DecompressionBombError as error:
            raise ImageError(f"{label} is too large: {error}; reduce it first") from None
        except Exception as error:  # Pillow's parsers raise nearly anything on broken data
            raise ImageError(f"{label} begins as {kind} but is truncated or damaged; {AGAIN}") from error
        if image.width * image.height > MAX_PIXELS:
            size = f"{image.width}x{image.height} = {image.width * image.height:,} pixels"
            raise ImageError(f"{label} is too large: {size}, the limit is {MAX_PIXELS:,}; reduce it first")
        return image
    raise ImageError(f"{label} is not a photo that can be read{_resembles(head)}; give a JPEG, PNG, WebP, TIFF or GIF")


def _resembles(head: bytes) -> str:
    """What people take for a photo most often, by its first bytes."""
    if head[4:8] == b"ftyp" and head[8:12] in (b"heic", b"heix", b"heim", b"heis", b"mif1", b"msf1"):
        return ": it is HEIC, which an iPhone exports as JPEG when asked"
    if head.lstrip().startswith(b"<"):
        return ": it looks like a web page or SVG"
    return ": it is a PDF" if head.startswith(b"%PDF") else ""


_overlap = threading.Lock()
_readers = 0
_lenient = False


@contextmanager
def _strictly() -> Iterator[None]:
    """Have Pillow refuse truncated files even where a notebook set LOAD_TRUNCATED_IMAGES; threads may overlap."""
    global _readers, _lenient
    with _overlap:
        if not _readers:
            _lenient, ImageFile.LOAD_TRUNCATED_IMAGES = ImageFile.LOAD_TRUNCATED_IMAGES, False
        _readers += 1
    try:
        yield
    finally:
        with _overlap:
            _readers -= 1
            if not _readers:
                ImageFile.LOAD_TRUNCATED_IMAGES = _lenient


def _finish(image: Image.Image, paper: tuple[int, ...], label: str) -> Image.Image:
    """Decode, turn upright, flatten. The result is new, and carries nothing that could turn or recolour it again."""
    if not image.width or not image.height:
        raise UsageError(f"{label} has no pixels: {image.width}x{image.height}")
    try:
        with _strictly():
            image.load()
    except MemoryError:
        raise ImageError(f"{label} does not fit in memory: {image.width}x{image.height} pixels; reduce it") from None
    except Exception as error:  # as above
        raise ImageError(f"{label} is truncated or damaged: part of the picture is missing; {AGAIN}") from error
    try:
        flat = flatten(_upright(image), paper, label)
    except ValueError:
        raise ImageError(f"{label} has colours of a kind ({image.mode}) that cannot be shown; save it as RGB") from None
    flat.info = {}
    return flat


def _upright(image: Image.Image) -> Image.Image:
    """Turned and mirrored as EXIF says. Broken EXIF says nothing."""
    try:
        if image.getexif().get(ORIENTATION, 1) == 1:  # most are: not even a copy is needed
            return image
        return ImageOps.exif_transpose(image)
    except Exception:  # as above
        return image


SUFFIX = re.compile(r"\.(jpe?g|jpe|jfif|png|webp|tiff?|gif|bmp|p[pgb]m|avif|jp2|hei[cf])", re.IGNORECASE)


def find_photos(sources: Sequence[str | Path]) -> list[Path]:
    """The photos that ``sources`` name: files as given, all image files in folders, and what globs match (``**`` too).

    Folders are searched to the bottom and globs expanded in natural order (2 before 10), without hidden files and the
    folders that convscope made in them; a photo named twice comes once. A name that exists wins over a glob, also as
    the leading part of one, so that ``cats [2019]/*.jpg`` works. HEIC files are found, so that reading them says what
    to do instead of nothing.
    """
    if isinstance(sources, str | Path):
        sources = [sources]
    return list(dict.fromkeys(photo for source in sources for photo in _found(_path(source))))


def _found(source: Path) -> list[Path]:
    base, pattern = _literal_part(source)
    if not pattern:
        if not base.is_dir():
            return [base]
        photos, where = list(_walk(base)), "in the folder"
    elif glob.has_magic(pattern):
        matches = (base / match for match in glob.glob(pattern, root_dir=base, recursive=True))
        photos, where = [m for m in matches if _is_photo(m) and not _written(m, base, Path(pattern).parts)], "match"
    else:
        raise UsageError(f"{printable(source)}: no such file or folder; check the name")
    if not photos:
        raise UsageError(
            f"no photos {where} {printable(source)}; looked for files ending in .jpg, .png, .webp and the like, "
            "but not in what convscope wrote, unless its folder is named"
        )
    return sorted(photos, key=_natural)


def _literal_part(source: Path) -> tuple[Path, str]:
    """The leading part of a name that exists, and the rest."""
    base = Path(source.anchor)
    parts = source.relative_to(base).parts
    for i, part in enumerate(parts):
        if not os.path.lexists(base / part):
            return base, os.path.join(*parts[i:])
        base /= part
    return base, ""


def _walk(folder: Path) -> Iterator[Path]:
    """Image files in and below a folder, following links but never in a circle."""
    seen = set()
    for root, folders, files in os.walk(folder, followlinks=True, onerror=_cannot_list):
        real = os.path.realpath(root)
        if real in seen or (root != str(folder) and is_own(root)):
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        yield from (path for name in files if not name.startswith(".") and _is_photo(path := Path(root, name)))


def _written(photo: Path, base: Path, pattern: tuple[str, ...]) -> bool:
    """Whether it lies in a folder of results that nobody named: ``report*/x.png`` names one, ``*/x.png`` does not."""
    spelled = list(takewhile(lambda part: part != "**", pattern))
    for number, folder in enumerate(reversed(photo.relative_to(base).parents[:-1])):
        named = number < len(spelled) and spelled[number] != "*"
        if not named and is_own(base / folder):
            return True
    return False


def _cannot_list(error: OSError) -> None:
    raise ImageError(f"{printable(error.filename)} cannot be listed: {error.strerror}; make the folder readable")


def _is_photo(path: Path) -> bool:
    return SUFFIX.fullmatch(path.suffix) is not None and path.is_file()


def _natural(path: Path) -> tuple[list[list[str | int]], str]:
    """Sort key: numbers in names by their value, case aside, folder by folder."""
    parts = [[int(p) if p.isdecimal() else p for p in re.split(r"(\d+)", part.casefold())] for part in path.parts]
    return parts, str(path)
