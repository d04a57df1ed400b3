"""File names from any text."""

from __future__ import annotations

import re
import unicodedata


def slug(text: str) -> str:
    """A name that every file system takes, as near to the text as that allows."""
    text = unicodedata.normalize("NFC", text).casefold()
    name = re.sub(r"[^\w.,@]+", "-", text).strip("-.")[:60].strip("-.") or "unnamed"
    return no_device(name)


def no_device(name: str) -> str:
    """The name, with a sign before it where it would be one of Windows' devices."""
    return f"_{name}" if re.fullmatch(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", name, re.IGNORECASE) else name
