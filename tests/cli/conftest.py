"""A small network of a user's own, photos, and the command line called inside of the tests' process."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from convscope.cli.process import run

NET = '''
from torch import nn


class Net(nn.Module):
    """Two convolutions and a head."""

    def __init__(self, width=4, classes=3):
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(3, width, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(width, 2 * width, 3), nn.ReLU()
        )
        self.head = nn.Linear(2 * width, classes)

    def forward(self, x):
        return self.head(self.features(x).amax((2, 3)))


class Flat(Net):
    """Works at one size alone."""

    def __init__(self):
        super().__init__()
        self.head = nn.Linear(8 * 14 * 14, 3)

    def forward(self, x):
        return self.head(self.features(x).flatten(1))


class Buggy(Net):
    def forward(self, x):
        raise ZeroDivisionError("a bug of the user's own")
'''


@dataclass(frozen=True)
class Result:
    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """What is on stdout, all of which must be JSON by the letter."""
        return json.loads(self.out, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))


Call = Callable[..., Result]


@pytest.fixture(autouse=True)
def unchanged_allocator(monkeypatch: pytest.MonkeyPatch) -> None:
    """The tests' own process keeps the allocator that it has."""
    monkeypatch.setenv("CONVSCOPE_ALLOCATOR", "default")


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder: net.py, its weights.safetensors and classes.txt, and two photos."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "net.py").write_text(NET, "utf-8")
    (tmp_path / "classes.txt").write_text("tabby cat\nred fox\nspoon\n", "utf-8")
    generator = torch.Generator().manual_seed(1)
    shapes = {
        "features.0.weight": (4, 3, 3, 3),
        "features.0.bias": (4,),
        "features.3.weight": (8, 4, 3, 3),
        "features.3.bias": (8,),
        "head.weight": (3, 8),
        "head.bias": (3,),
    }
    save_file(
        {name: torch.randn(shape, generator=generator) * 0.5 for name, shape in shapes.items()}, "weights.safetensors"
    )
    photo("a.png", 48, 40)
    photo("b.png", 40, 60)
    return tmp_path


def photo(name: str, height: int, width: int) -> None:
    rows, cols = np.mgrid[:height, :width]
    pixels = np.stack([rows * 255 / height, cols * 255 / width, (rows * cols) % 256], axis=-1)
    Image.fromarray(pixels.astype(np.uint8)).save(name)


@pytest.fixture
def call(here: Path, capsys: pytest.CaptureFixture[str]) -> Call:
    def called(*args: object) -> Result:
        capsys.readouterr()
        code = run([str(arg) for arg in args])
        out, err = capsys.readouterr()
        return Result(code, out, err)

    return called


MODEL = ("net.py:Net", "--weights", "weights.safetensors", "--classes", "classes.txt", "--size", "32")
MODEL += ("--mean", ".5", "--std", ".5")
