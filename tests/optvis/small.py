"""A small network for tests of patterns, with names of layers and classes to be addressed."""

import torch.nn.functional as F
from torch import nn

import convscope as cs
from tests.nets import seeded

QUICK = {"steps": 6}
CLASSES = ("cat", "dog, hound", "cow", "ant")


class Small(nn.Module):
    """Two convolutions; a head over the mean, or one that takes 24x24 alone."""

    def __init__(self, fixed=False):
        super().__init__()
        self.one, self.two = nn.Conv2d(3, 6, 3, padding=1), nn.Conv2d(6, 8, 3, stride=2, padding=1)
        self.act = nn.ReLU()
        self.head = nn.Linear(8 * 12 * 12 if fixed else 8, 4)
        self.fixed = fixed

    def forward(self, x):
        x = self.act(self.two(F.relu(self.one(x))))
        return self.head(x.flatten(1) if self.fixed else x.mean((2, 3)))


def small(fixed=False, classes=CLASSES, **options):
    """The network, and a Scope over it; in float64, in which a batch gives what its pictures give one by one."""
    net = seeded(Small(fixed), 4)
    return net, cs.Scope(net, classes=classes, **{"size": 24, "progress": False, **options})
