"""What the names in a folder or archive mean: what is hidden, what is a photo, and what comes first."""

from __future__ import annotations

import os
import re
from collections import Counter
from functools import lru_cache

from convscope import errors
from convscope.errors import UsageError
from convscope.images.read import SUFFIX, printable

NUMBERS = re.compile(r"([0-9]+)").split
CLUTTER = {"__macosx", "thumbs.db", "desktop.ini", "$recycle.bin", "@eadir"}  # of macOS, Windows and a NAS


def hidden(name: str) -> bool:
    """Whether a file or folder is none of the user's own: it begins with a dot, or a system left it there."""
    return name.startswith(".") or name.casefold() in CLUTTER


def suffix(name: str) -> str:
    """A name's suffix in lower case, with its dot; "" without one."""
    return os.path.splitext(name)[1].lower()


def is_photo(name: str) -> bool:
    """Whether a name ends as a photo's does."""
    return _of_photo(name[name.rfind(".") :]) if "." in name else False


@lru_cache(256)  # a folder of other things may have any number of endings
def _of_photo(end: str) -> bool:
    return SUFFIX.fullmatch(end) is not None


def natural(name: str) -> tuple[list[str | int], str]:
    """Sort key of a path with slashes: numbers in it by their value, case aside, folder by folder."""
    parts: list[str | int] = [*NUMBERS(name.casefold().replace("/", "\0"))]  # so that a/b comes before "a b"
    parts[1::2] = map(int, parts[1::2])
    return parts, name


def no_photos(suffixes: Counter[str]) -> str:
    """One remark on files that are passed over: how many, and how they end, the most frequent first."""
    total = sum(suffixes.values())
    ends = [end or "no suffix" for end, _ in sorted(suffixes.items(), key=lambda item: (-item[1], item[0]))]
    what = "1 file is no photo" if total == 1 else f"{total:,} files are no photos"
    return f"{what}: {some(ends)}"


def some(names: list[str], limit: int = 6) -> str:
    """The first of many names of files, in one line."""
    return errors.some([*map(printable, names[:limit]), *names[limit:]], limit)


def cannot_read(source: str, error: OSError | ValueError) -> UsageError:
    """Why a source that is there cannot be opened."""
    if isinstance(error, PermissionError):
        return UsageError(f"{printable(source)} cannot be opened: no permission; make it readable (chmod +r)")
    return UsageError(f"{printable(source)} cannot be opened: {getattr(error, 'strerror', None) or error}")
