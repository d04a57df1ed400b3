"""Small atlases of real files, built once for several tests."""

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import convscope as cs
from tests.nets import MEAN, STD, seeded

SIDE = 32
COUNT = 30


def net_of(seed=0, rectifier=nn.ReLU):
    """Fields of 3 to 18 pixels, then all of it; a dead unit and a duplicate in the first layer."""
    net = nn.Sequential(
        *(nn.Conv2d(3, 6, 3, padding=1), rectifier(), nn.MaxPool2d(2)),
        *(nn.Conv2d(6, 8, 3, padding=1), rectifier(), nn.MaxPool2d(2)),
        *(nn.Conv2d(8, 5, 3, padding=1), rectifier(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(5, 3)),
    )
    net = seeded(net, seed, torch.float32)
    net[0].weight.data[2], net[0].bias.data[2] = 0, -1
    net[0].weight.data[5], net[0].bias.data[5] = net[0].weight.data[1], net[0].bias.data[1]
    return net


def scope_of(net=None):
    return cs.Scope(net if net is not None else net_of(), mean=MEAN, std=STD, size=SIDE, progress=False)


@pytest.fixture(scope="session")
def photos(tmp_path_factory):
    """Thirty photos of three classes: noise, smoothed so that neighbours are alike."""
    folder = tmp_path_factory.mktemp("photos")
    rng = np.random.default_rng(1)
    for i in range(COUNT):
        coarse = Image.fromarray(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8))
        place = folder / "abc"[i % 3] / f"{i:02d}.png"
        place.parent.mkdir(exist_ok=True)
        coarse.resize((SIDE, SIDE), Image.Resampling.BICUBIC).save(place)
    return folder


@pytest.fixture(scope="session")
def made(photos, tmp_path_factory):
    """An atlas of every layer; tests read it, and may make pictures."""
    return scope_of().atlas(photos, out=tmp_path_factory.mktemp("made") / "atlas", layers=["*", "10"], top=4, workers=0)
