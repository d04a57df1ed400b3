"""Folders that convscope writes: the pictures in them are results, which nobody means as photos of a data set.

Commands write where they are called, which is often a folder of photos that the next command is given.
"""

from __future__ import annotations

import os
from pathlib import Path

MARK = ".convscope"  # an empty file


def make_own(folder: Path) -> None:
    """Make a folder for results, marked as one; a folder that is there stays what it is, since it may hold photos."""
    there = folder.is_dir()
    folder.mkdir(parents=True, exist_ok=True)
    if not there:
        (folder / MARK).touch()


def is_own(folder: str | Path) -> bool:
    return os.path.exists(os.path.join(folder, MARK))
