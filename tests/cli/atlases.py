"""What the tests of ``atlas``, ``unit`` and ``atlas-diff`` share: their networks, and what they ask of an atlas."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.atlas.test_build import everything
from tests.cli.conftest import MODEL, Call, Result
from tests.cli.digits import contents, digits_in

LAYERS = ("--layers", "features.1,features.4")
WHOLE = (*MODEL, "photos", *LAYERS)
MINE = ("--model", "net.py:Net")

# It notes each batch that it looks at, and takes its time over it; the atlas asks it about single images too.
GREY = """
import os, time
from torch import nn


class Net(nn.Module):
    def __init__(self, num_classes=10):
        super().__init__()
        self.conv, self.relu, self.head = nn.Conv2d(1, 6, 3), nn.ReLU(), nn.Linear(6, num_classes)

    def forward(self, x):
        if len(x) > 1:
            with open("batches", "a") as file:
                file.write(f"{len(x)}\\n")
            time.sleep(float(os.environ.get("SLOW", 0)))
        return self.head(self.relu(self.conv(x)).amax((2, 3)))
"""
DIGITS = ("grey.py:Net", "digits", "--weights", "grey.safetensors", "--size", "8", "--mean", ".4", "--std", ".5")


def made(call: Call, *args: object) -> Result:
    """An atlas that is there."""
    done = call("atlas", *args)
    assert done.code == 0, done.err
    return done


def table(folder: Path | str, query: str) -> list[Any]:
    """Rows of the database, by way of SQLite alone."""
    with sqlite3.connect(f"file:{folder}/atlas.sqlite?mode=ro", uri=True) as opened:
        return opened.execute(query).fetchall()


def held(folder: Path | str) -> tuple[Any, ...]:
    """All that an atlas is; the bytes of its database are SQLite's own matter."""
    files = {name: held for name, held in contents(Path(folder)).items() if not name.startswith("atlas.sqlite")}
    return everything(Path(folder)), table(folder, "SELECT * FROM meta ORDER BY key"), files


def cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.split("  ") if cell.strip()]


def grey_network(folder: Path) -> dict[str, torch.Tensor]:
    """grey.py and its weights, for the digits by name."""
    (folder / "grey.py").write_text(GREY, "utf-8")
    generator = torch.Generator().manual_seed(5)
    shapes = {"conv.weight": (6, 1, 3, 3), "conv.bias": (6,), "head.weight": (10, 6), "head.bias": (10,)}
    weights = {name: torch.randn(shape, generator=generator) * 0.5 for name, shape in shapes.items()}
    save_file(weights, folder / "grey.safetensors")
    return weights


def begun(here: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """photos/, three classes of twelve. Of the network unit 2 of features.0 is far below zero, so that it is dead after
    its ReLU, and so is unit 1 of features.4.
    """
    monkeypatch.setenv("CONVSCOPE_CACHE", str(here / "cache"))
    weights = load_file("weights.safetensors")
    weights["features.0.bias"][2] = -100
    save_file(weights, "weights.safetensors")
    return digits_in(here / "photos", 12)


def tuned(by: float) -> None:
    """tuned.safetensors: other weights, as after fine-tuning; those of the first layer's unit 0 turned round."""
    weights, generator = load_file("weights.safetensors"), torch.Generator().manual_seed(2)
    for name, value in weights.items():
        weights[name] = value + by * torch.randn(value.shape, generator=generator)
    weights["features.0.weight"][0] *= -1
    save_file(weights, "tuned.safetensors")
