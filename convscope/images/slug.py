"""File names from any text."""

from __future__ import annotations

import re
import unicodedata


def slug(text: str) -> str:
    """A name that every file system takes, as near to the text as that allows."""
    text = unicodedata.normalize("NFC", text).casefold()
    return re.sub(r"[^\w.,@]+", "-", text).strip("-.")[:60] or "unnamed"
