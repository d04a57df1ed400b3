"""Photos of digits in folders, and a run of the small network trained on them, for tests of the commands."""

from __future__ import annotations

import csv
import os
import resource
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image
from sklearn.datasets import load_digits

EACH = 20
CLASSES = ("one", "three", "two")
NET = ("--model", "net.py:Net", "--size", "16")
SMALL = (*NET, "--epochs", "1")


def digits_in(folder: Path, each: int = EACH) -> Path:
    """``folder/one/one 0.png`` and so on: 16x16 pictures of three digits."""
    found = load_digits()
    for digit, name in ((1, "one"), (2, "two"), (3, "three")):
        (folder / name).mkdir(parents=True)
        for i, pixels in enumerate(found.images[found.target == digit][:each]):
            picture = Image.fromarray(np.rint(pixels * (255 / 16)).astype(np.uint8)).resize((16, 16))
            picture.convert("RGB").save(folder / name / f"{name} {i}.png")
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    """Every file below a folder, hidden ones too."""
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def split_of(run: Path) -> dict[str, list[str]]:
    """The names of the photos of each split of a run."""
    found: dict[str, list[str]] = {}
    with (run / "split.csv").open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            found.setdefault(row["split"], []).append(row["photo"])
    return found


@contextmanager
def files_of_at_most(size: int) -> Iterator[None]:
    """The system refuses to write more into a file, as a full disk does."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@contextmanager
def folder_for_anyone() -> Iterator[Path]:
    """A folder that any user may walk through, which pytest's own is not."""
    with tempfile.TemporaryDirectory(prefix="convscope-tests-") as name:
        place = Path(name).resolve()
        place.chmod(0o755)
        yield place


@contextmanager
def without_rights() -> Iterator[None]:
    """Root may write wherever it likes, so it is nobody for a while."""
    root = os.geteuid() == 0
    if root:
        os.seteuid(65534)
    try:
        yield
    finally:
        if root:
            os.seteuid(0)
