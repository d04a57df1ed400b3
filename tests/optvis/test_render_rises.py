"""Every objective rises, with every recipe, on a network that has learned something; in any precision."""

import copy

import pytest
import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import nn

from convscope.models.classes import numbered
from convscope.models.classifier import Classifier
from convscope.optvis.objectives import (
    LOGITS,
    Seen,
    channel,
    cosine,
    direction,
    diversity,
    energy,
    l2,
    logit,
    neuron,
    total_variation,
)
from convscope.optvis.recipes import RECIPES
from convscope.optvis.render import render
from tests.nets import Skip, seeded

every_recipe = pytest.mark.parametrize("recipe", RECIPES)


def how_of(recipe, steps=12):
    return RECIPES[recipe].with_steps(steps).how


@pytest.fixture(scope="module")
def learned():
    """A classifier of digits, of 16x16, and the digits that it has not seen."""
    data = load_digits()
    images = torch.tensor(data.images / 16, dtype=torch.float32)[:, None]
    images, labels = F.interpolate(images, scale_factor=2.0, mode="bilinear"), torch.tensor(data.target)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = nn.Sequential(
            *(nn.Conv2d(1, 12, 3, padding=1), nn.BatchNorm2d(12), nn.ReLU(), nn.MaxPool2d(2)),
            *(nn.Conv2d(12, 24, 3, padding=1), nn.BatchNorm2d(24), nn.ReLU(), nn.MaxPool2d(2)),
            *(nn.Conv2d(24, 32, 3), nn.ReLU(), nn.Flatten(), nn.Linear(128, 10)),
        )
        classifier = Classifier(net, numbered(10), mean=0.3, std=0.4)
        optimizer = torch.optim.Adam(net.parameters(), lr=3e-3)
        for _ in range(4):
            for rows in torch.randperm(1500).split(50):
                optimizer.zero_grad()
                F.cross_entropy(classifier(images[rows]), labels[rows]).backward()
                optimizer.step()
    net.eval()
    net.zero_grad()
    assert float((classifier(images[1500:]).argmax(1) == labels[1500:]).float().mean()) > 0.9
    return classifier, images[1500:]


def some_vectors():
    return torch.randn(2, 24, generator=torch.Generator().manual_seed(1))


# The objective, and by how much it rises at least with each recipe (fourier, maco, classic): in standard deviations of
# the scores of real digits; about half of what was seen.
RISES = {
    "channel": (channel("6", range(8)), (2, 1.5, 1.2)),
    "channel of numbers": (channel("11", range(10)), (1.3, 0.8, 0.8)),
    "neuron": (neuron("6", range(8)), (3, 2, 2)),
    "logit": (logit(range(10)), (1.3, 0.8, 0.8)),
    "direction": (direction("6", some_vectors()), (1.3, 2, 1)),
    "cosine": (cosine("6", some_vectors()), (1.2, 0.9, 0.8)),
    "cosine to a power": (cosine("6", some_vectors(), 2.0), (2, 0.7, 0.7)),
    "energy": (energy("6"), (2.4, 6, 1)),
    "diversity": (diversity("6", 3), (4, 2, 3)),
    "minus": (-channel("4", range(6)), (0.9, 2, 0.6)),
    "difference": (channel("6", range(4)) - 0.5 * channel("8", 9), (3, 2, 1.5)),
}


def spread(classifier, objective, digits, rows):
    """The standard deviation of real pictures' scores, for each of an objective's pictures."""
    outputs, x = {}, classifier.normalise(digits)
    with torch.no_grad():
        for name, layer in classifier.network.named_children():
            outputs[name] = x = layer(x)
        found = [objective.score(Seen(outputs | {LOGITS: x}, digits, [row] * len(digits))).std() for row in rows]
    return torch.stack(found)


@pytest.mark.parametrize(("objective", "least"), RISES.values(), ids=RISES.keys())
def test_every_objective_rises(learned, objective, least):
    classifier, digits = learned
    rows = list(range(max(objective.count, objective.group)))
    scale = spread(classifier, objective, digits, rows)
    for recipe, factor in zip(RECIPES, least, strict=True):
        found = render(classifier, objective, how_of(recipe, 40), (1, 16, 16), rows)
        rises = (found.after - found.before) / scale
        assert bool(found.moved.all())
        assert float(rises.min()) >= factor, recipe


# To a score of 0, which is the best there is: the part of it that is left at most.
NEARS = {"smoothness": (total_variation(), (0.8, 0.6, 0.3)), "paleness": (l2(), (0.3, 0.4, 0.6))}


@pytest.mark.parametrize(("objective", "most"), NEARS.values(), ids=NEARS.keys())
def test_pictures_become_smooth_and_pale(learned, objective, most):
    for recipe, part in zip(RECIPES, most, strict=True):
        found = render(learned[0], objective, how_of(recipe, 40), (1, 16, 16), [1, 2])
        assert bool((found.after / found.before < part).all()), recipe


def test_a_class_pattern_is_taken_for_its_class(learned):
    for recipe in RECIPES:
        found = render(learned[0], logit(range(10)), how_of(recipe, 100), (1, 16, 16), range(10))
        assert learned[0](found.images).argmax(1).tolist() == list(range(10)), recipe


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@every_recipe
def test_networks_of_any_precision_and_canvases_that_are_not_square(learned, recipe, dtype):
    def of(precision):
        classifier = Classifier(copy.deepcopy(learned[0].network).to(precision), mean=0.3, std=0.4)
        return render(classifier, channel("6", range(4)), how_of(recipe, 40), (1, 20, 13), range(4))

    found, exact = of(dtype), of(torch.float64)
    assert found.images.shape == (4, 1, 20, 13)
    assert found.images.dtype == torch.promote_types(dtype, torch.float32)
    rises = found.after.double() - found.before.double()
    assert bool((rises > 0).all())
    assert float(rises.mean()) > 0.4
    assert bool(((found.after - exact.after).abs() < 0.25).all())


@every_recipe
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_grey_and_colour(recipe, channels, dtype):
    classifier = Classifier(seeded(Skip(channels=channels), dtype=dtype), mean=0.4, std=0.3)
    found = render(classifier, channel("conv3", range(8)), how_of(recipe, 30), (channels, 19, 26), range(8))
    assert found.images.shape == (8, channels, 19, 26)
    assert bool((found.after > found.before + 0.1).all())
