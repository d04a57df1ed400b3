"""Sensitivity-n: 1 for the attributions of a linear network, and a slow second derivation of any other."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from convscope.errors import UsageError
from convscope.instrument.target import Target
from convscope.methods import configure
from convscope.models.classifier import Classifier
from convscope.studies.scores.blind import generator_of
from convscope.studies.scores.cells import cells
from convscope.studies.scores.sensitivity_n import correlation, sensitivity, sizes_of
from tests.nets import Smooth, classifier_of, photos
from tests.studies.scores.test_curves import linear

HOW = {"budget": 500.0, "label": "subsets"}


def asked(classifier, image, maps, side=1, sizes=(1, 3, 7), subsets=40, absent=None, index=0):
    absent = torch.zeros_like(image) if absent is None else absent
    of = cells(*image.shape[-2:], side)
    return sensitivity(
        *(classifier, image, Target(index=(index,)), maps, of, sizes, subsets, absent),
        generator=generator_of(7, "0"),
        **HOW,
    )


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("side", [1, 2])
def test_input_times_gradient_of_a_linear_network_is_exactly_1(channels, side):
    classifier = linear(torch.randn(channels, 4, 5, generator=generator_of(1, "1")), -0.7)
    image = photos(1, channels, 4, 5)
    raw = configure("input-x-gradient").run(classifier, image, Target(index=(0,))).raw
    found = asked(classifier, image, raw.sum(1), side, sizes=(1, 3, 5))
    assert found == pytest.approx(np.ones((1, 3)), abs=1e-12)
    assert asked(classifier, image, -raw.sum(1), side, sizes=(3,)) == pytest.approx(-1, abs=1e-12)


def test_input_times_gradient_is_not_1_against_another_fill():
    """It says what turning pixels black does, and asked about white it is wrong."""
    classifier = linear(torch.randn(1, 4, 5, generator=generator_of(1, "1")))
    image = photos(1, 1, 4, 5)
    raw = configure("input-x-gradient").run(classifier, image, Target(index=(0,))).raw
    assert float(asked(classifier, image, raw.sum(1), absent=torch.ones_like(image)).max()) < 0.9


def test_integrated_gradients_against_its_own_baseline_is_1():
    classifier = linear(torch.randn(3, 4, 5, generator=generator_of(1, "1")))
    image = photos(1, 3, 4, 5)
    raw = configure("integrated-gradients", {"baseline": "grey", "steps": 3}).run(classifier, image, Target(index=(0,)))
    found = asked(classifier, image, raw.raw.sum(1), absent=torch.full_like(image, 0.5))
    assert found == pytest.approx(np.ones((1, 3)), abs=1e-12)


class Seen(nn.Module):
    """Remembers what it was given."""

    def __init__(self, network):
        super().__init__()
        self.network, self.seen = network, []

    def forward(self, x):
        self.seen += list(x.detach().clone())
        return self.network(x)


def test_any_network_s_by_the_pictures_it_was_shown():
    """What is gone is read off the pictures; sums, losses and numpy's correlation are taken of those."""
    plain = classifier_of(Smooth(1), mean=(0.0,), std=(1.0,))
    watched = Seen(plain.network)
    image = 0.2 + 0.7 * photos(1, 1, 6, 7)
    maps = torch.randn(2, 6, 7, generator=generator_of(3, "3"), dtype=torch.float64)
    side, sizes, subsets = 2, (2, 5), 30
    found = asked(Classifier(watched, channels=1), image, maps, side, sizes, subsets, index=3)
    unlike = [picture for picture in watched.seen[-61:] if not torch.equal(picture, image[0])]
    assert len(unlike) == 60  # the photo itself was one of them
    whole = float(plain(image)[0, 3].detach())
    for i, size in enumerate(sizes):
        pictures = unlike[i * subsets : (i + 1) * subsets]
        gone = [(picture[0] == 0) for picture in pictures]
        for where in gone:  # whole cells, and as many as n
            parts = [where[r : r + side, c : c + side] for r in range(0, 6, side) for c in range(0, 7, side)]
            assert all(bool(part.all()) or not bool(part.any()) for part in parts)
            assert sum(bool(part.any()) for part in parts) == size
        assert len({tuple(where.flatten().tolist()) for where in gone}) > subsets / 2
        lost = [whole - float(plain(picture[None])[0, 3].detach()) for picture in pictures]
        for m in range(2):
            sums = [float(maps[m][where].sum()) for where in gone]
            assert found[m, i] == pytest.approx(np.corrcoef(sums, lost)[0, 1], abs=1e-9)


def test_cells_cover_the_canvas():
    assert cells(3, 5, 2).tolist() == [[0, 0, 1, 1, 2], [0, 0, 1, 1, 2], [3, 3, 4, 4, 5]]


def test_sizes_are_at_least_one_and_never_all():
    assert sizes_of((0.001, 0.25, 0.999), 12) == [1, 3, 11]
    with pytest.raises(UsageError, match="two cells at least"):
        sizes_of((0.5,), 1)


def test_what_does_not_vary_has_no_correlation():
    line = np.arange(5.0)
    assert correlation(line, 3 - 2 * line) == pytest.approx(-1)
    assert math.isnan(correlation(line, np.full(5, 0.1)))
    assert math.isnan(correlation(np.full(5, 0.1) + 1e-16 * line, line))
    assert math.isnan(correlation(line, np.array([1.0, 2.0, np.nan, 1.0, 0.0])))
    flat = asked(linear(torch.ones(1, 4, 4)), photos(1, 1, 4, 4), torch.ones(1, 4, 4).double())
    assert np.isnan(flat).all()  # n ones are n
