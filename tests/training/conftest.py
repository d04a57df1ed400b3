"""What these tests keep is kept away from the user's own cache."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

from tests.training.jobs import NET


@pytest.fixture(scope="session", autouse=True)
def cache_of_the_tests(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CONVSCOPE_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with two classes of digits, a network, and ``~`` there."""
    found = load_digits()
    for label in (0, 1):
        folder = tmp_path / "photos" / f"number {label}"
        folder.mkdir(parents=True)
        for i, pixels in enumerate(found.images[found.target == label][:24]):
            Image.fromarray(np.rint(pixels * 15.9).astype(np.uint8)).save(folder / f"{i}.png")
    (tmp_path / "net.py").write_text(NET)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path
