"""Small networks that learn handwritten digits in seconds, sound or with a fault planted in them; each is made once."""

from copy import deepcopy
from functools import cache

import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import nn

from convscope.images.frame import Framing
from convscope.models.classes import as_classes
from convscope.models.classifier import Classifier
from convscope.studies.diagnosis import CHECKS
from convscope.studies.diagnosis.patient import Patient

SIDE, EPOCHS, MARKED = 16, 6, 3


@cache
def digits():
    """Pixels "n 1 16 16" in [0, 1], and the digits."""
    found = load_digits()
    images = torch.tensor(found.images, dtype=torch.float32)[:, None] / 16
    return F.interpolate(images, (SIDE, SIDE), mode="bilinear").clamp(0, 1), torch.tensor(found.target)


def marked(images, labels, digit=MARKED):
    """With a white patch in the lower right corner of every photo of a digit."""
    found = images.clone()
    found[labels == digit, :, -3:, -3:] = 1.0
    return found


def network(first=None):
    first = first or nn.Conv2d(1, 16, 3, padding=1)
    with torch.no_grad():
        side = first(torch.zeros(1, 1, SIDE, SIDE)).shape[-1]
    return nn.Sequential(
        *(first, nn.ReLU(), nn.MaxPool2d(2, ceil_mode=True)),
        *(nn.Conv2d(16, 32, 3, padding=1), nn.ReLU()),
        *(nn.Flatten(), nn.Linear(32 * (-(-side // 2)) ** 2, 32), nn.ReLU(), nn.Linear(32, 10)),
    )


def trained(images, labels, seed=0, epochs=EPOCHS, first=None):
    """A classifier that has learned the first 1,200 photos."""
    with torch.random.fork_rng([]):
        torch.manual_seed(seed)
        net = network(None if first is None else first())
        optimizer = torch.optim.Adam(net.parameters(), 3e-3)
        for _ in range(epochs):
            for rows in torch.randperm(1200).split(32):
                loss = F.cross_entropy(net(images[rows]), labels[rows])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
    return classifier(net)


def classifier(net):
    return Classifier(net.eval(), as_classes([str(i) for i in range(10)]), framing=Framing((SIDE, SIDE)), channels=1)


@cache
def sound():
    return trained(*digits())


@cache
def watermarked():
    images, labels = digits()
    return trained(marked(images, labels), labels)


def patient(own, images=None, labels=None, count=200, **more):
    """With photos that the network has not learned."""
    if images is None:
        images, labels = digits()
    chosen = slice(1200, 1200 + count)
    names = [f"photo {i}" for i in range(len(images[chosen]))]
    known = None if labels is None else labels[chosen].tolist()
    return Patient(own, images[chosen], names, known, **more)


def checkup(name, own, *more, **options):
    return CHECKS[name].run(patient(own, *more, **options))


@cache
def strided():
    """With the first layer of an AlexNet: 11x11 filters at every fourth pixel."""
    return trained(*digits(), first=lambda: nn.Conv2d(1, 16, 11, stride=4, padding=5), epochs=12)


@cache
def silent():
    """The second convolution's biases are so low that nothing fires any more."""
    own = copied(sound())
    own.network[3].bias.data.fill_(-100)
    return own


@cache
def dominated():
    """One first-layer filter is 20 times as large, what follows as much smaller: the answers are the same."""
    own = copied(sound())
    with torch.no_grad():
        unit = int(own.network[0].weight.flatten(1).norm(dim=1).argmax())
        own.network[0].weight[unit] *= 20
        own.network[0].bias[unit] *= 20
        own.network[3].weight[:, unit] /= 20
    return own


def copied(own):
    return classifier(deepcopy(own.network))
