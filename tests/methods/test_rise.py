"""RISE against its definition: masks enlarged pixel by pixel, one forward pass each, a weighted sum."""

import math

import numpy as np
import pytest
import torch

from convscope.errors import UsageError
from convscope.instrument.target import Target
from convscope.methods.rise import Rise
from tests.nets import Skip, classifier_of, photos
from tests.oracles import enlarge, near


def masks(count, grid, keep, seed, height, width):
    """Grids of kept cells, one cell more than cover the image, enlarged to whole cells, cut at a random offset."""
    cell = math.ceil(min(height, width) / grid)
    rows, cols = math.ceil(height / cell) + 1, math.ceil(width / cell) + 1
    generator = torch.Generator().manual_seed(seed)
    grids = (torch.rand(count, 1, rows, cols, generator=generator) < keep).double().numpy()[:, 0]
    offsets = torch.randint(0, cell, (count, 2), generator=generator).tolist()
    large = [enlarge(grid, rows * cell, cols * cell) for grid in grids]
    return [m[top : top + height, left : left + width] for m, (top, left) in zip(large, offsets, strict=True)]


def by_definition(read, classifier, image, settings):
    total = np.zeros(image.shape[1:])
    drawn = masks(settings.masks, settings.grid, settings.keep, settings.seed, *image.shape[1:])
    for mask in drawn:
        total += read(classifier((image * torch.from_numpy(mask))[None])[0].detach()) * mask
    return total / (settings.masks * settings.keep)


@pytest.mark.parametrize("settings", [Rise(masks=9, grid=4), Rise(masks=70, grid=3, keep=0.3, seed=5)])
def test_the_definition(settings):
    classifier, images = classifier_of(Skip()), photos(2)
    found = settings.run(classifier, images, Target(index=(1, 3)))
    for raw, image, index in zip(found.raw, images, (1, 3), strict=True):
        wanted = by_definition(lambda logits, i=index: float(logits.softmax(0)[i]), classifier, image, settings)
        near(raw, wanted, 1e-6)  # the masks are float32


def test_one_class_against_another_is_read_from_the_logits():
    classifier, images, settings = classifier_of(Skip()), photos(), Rise(masks=9, grid=4)
    found = settings.run(classifier, images, Target(index=(1,), against=(3,)))
    wanted = by_definition(lambda logits: float(logits[1] - logits[3]), classifier, images[0], settings)
    near(found.raw[0], wanted, 1e-6)


def test_the_share_that_masks_keep():
    drawn = masks(400, 7, 0.3, 0, 28, 35)
    assert abs(np.mean(drawn) - 0.3) < 0.01


@pytest.mark.parametrize("settings", [{"masks": 0}, {"grid": 0}, {"keep": 0.0}, {"keep": 1.0}])
def test_settings_that_cannot_be(settings):
    with pytest.raises(UsageError, match="rise"):
        Rise(**settings).run(classifier_of(Skip()), photos(), Target())
