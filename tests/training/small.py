"""A small data set in memory and networks for it, for tests of training."""

from __future__ import annotations

import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import nn

from convscope.data.catalog import Catalog
from convscope.data.listing import NONE
from convscope.data.names import Names
from convscope.data.scan import content_hash
from convscope.data.store import Arrays
from convscope.images.frame import Framing
from convscope.models.classes import numbered
from convscope.models.classifier import Classifier


def digits(count: int, colour: bool = False) -> Catalog:
    """The first digits, 8x8, as a catalog."""
    found = load_digits()
    pixels = np.rint(found.images[:count] * (255 / 16)).astype(np.uint8)
    pixels = np.repeat(pixels[..., None], 3, axis=3) if colour else pixels
    hashes = np.array([content_hash(one.tobytes()) for one in pixels], np.uint64)
    side, given = np.full(count, 8, np.int32), np.full(count, NONE, np.int8)
    names = Names.of(f"digit-{i:04d}" for i in range(count))
    labels = found.target[:count].astype(np.int32)
    classes = tuple(map(str, range(10)))
    return Catalog("digits", "set", Arrays(pixels, names), classes, labels, given, None, side, side, given, hashes)


def plain_net(seed: int = 0, *, batch_norm: bool = False, dropout: float = 0.0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(1, 6, 3),
        nn.BatchNorm2d(6) if batch_norm else nn.Identity(),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Dropout(dropout),
        nn.Linear(54, 10),
    )


def classifier_of(network: nn.Module, channels: int = 1) -> Classifier:
    framing = Framing((8, 8), 8)
    return Classifier(network, numbered(10), mean=0.3, std=0.4, framing=framing, channels=channels)
