"""Small data sets in folders, and networks whose layers are known, for studies that are of a data set."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

from convscope.models.classifier import Classifier
from convscope.studies.retraining import runs
from convscope.studies.subject import DataSet
from convscope.training import charts

NET = """
import torch
from torch import nn
def Net(num_classes=3, width=4):
    return nn.Sequential(nn.Conv2d(1, width, 3, padding=1), nn.ReLU(), nn.Conv2d(width, width, 3, padding=1), nn.ReLU(),
                         nn.MaxPool2d(2), nn.Flatten(), nn.Linear(width * 16, num_classes))
class Trunk(nn.Module):
    # The same, its head apart: what is frozen is frozen as a whole.
    def __init__(self, num_classes=3):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(1, 6, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten())
        self.head = nn.Linear(96, num_classes)
    def forward(self, x):
        return self.head(self.body(x))
def Fixed(num_classes=3):
    torch.manual_seed(0)
    return Net(num_classes)
"""


def digits_in(folder: Path, each: int = 20, classes: tuple[int, ...] = (0, 1, 2)) -> Path:
    """``folder/number 0/00.png`` and so on: 8x8 pictures of digits."""
    found = load_digits()
    for digit in classes:
        (folder / f"number {digit}").mkdir(parents=True)
        for i, pixels in enumerate(found.images[found.target == digit][:each]):
            picture = Image.fromarray(np.rint(pixels * (255 / 16)).astype(np.uint8))
            picture.save(folder / f"number {digit}" / f"{i:02d}.png")
    return folder


def pictures_in(folder: Path, pictures: Mapping[str, list[np.ndarray]]) -> Path:
    """``folder/NAME/0.png`` and so on, of uint8 arrays."""
    for name, several in pictures.items():
        (folder / name).mkdir(parents=True)
        for i, pixels in enumerate(several):
            Image.fromarray(pixels).save(folder / name / f"{i}.png")
    return folder


def data_of(source: Path | str, folder: Path, classifier: Classifier | None = None, **model: Any) -> DataSet:
    return DataSet(str(source), folder, model, classifier, {}, {"workers": 0, "device": None})


@contextmanager
def without_charts() -> Iterator[None]:
    """Most of the time of a training of seconds goes into its charts, which other tests look at."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("curves", "confusion"):
            patch.setattr(charts, name, lambda *_, **__: [])
        yield


@contextmanager
def counted() -> Iterator[list[dict[str, Any]]]:
    """The calls of ``train`` that studies make, with what they are given."""
    calls: list[dict[str, Any]] = []
    plain = runs.train

    def train(source: Any, **given: Any) -> Any:
        calls.append(given)
        return plain(source, **given)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runs, "train", train)
        yield calls
