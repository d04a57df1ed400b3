"""What a small network makes of photos, for tests of objectives: by its layers, one after the other."""

import numpy as np
import torch

from convscope.models.classes import Classes
from convscope.optvis.objectives import (
    LOGITS,
    Seen,
)
from tests import oracles
from tests.nets import MEAN, STD, photos, seeded, vgg_like

SIZE = (22, 27)
MAPS, SMALL, POOLED, VECTOR = "5", "12", "13", "15"  # 4 maps of 22x27, 6 of 11x13, 6 of 5x6, 8 numbers
CLASSES = Classes(("tench, Tinca tinca", "goldfish", "great white shark", "tiger cat"))


def made(images):
    """Each layer's output, by the layers one after the other."""
    shape = (1, 3, 1, 1)
    x = (images - images.new_tensor(MEAN).view(shape)) / images.new_tensor(STD).view(shape)
    outputs = {}
    with torch.no_grad():
        for name, layer in seeded(vgg_like(), seed=3).named_children():
            outputs[name] = x = layer(x)
    return outputs | {LOGITS: x}


def seen(images, rows=None, views=1, canvas=None):
    """What the network makes of ``images``, as views of ``canvas``."""
    canvas = images if canvas is None else canvas
    return Seen(made(images), canvas, range(len(canvas)) if rows is None else rows, CLASSES, views)


def three():
    return photos(3, height=SIZE[0], width=SIZE[1])


def scores(objective, images=None, **more):
    return objective.score(seen(three() if images is None else images, **more))


def drawn(*shape, seed=5):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def near(found, wanted, tolerance=1e-10):
    """With numbers of Python as float64."""
    oracles.near(found, wanted if isinstance(wanted, torch.Tensor) else np.asarray(wanted), tolerance)


def output(layer, images=None):
    return made(three() if images is None else images)[layer].numpy()
