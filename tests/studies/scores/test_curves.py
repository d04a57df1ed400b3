"""Deletion and insertion on networks whose curves are known, ties, and Quantus's pixel flipping."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from convscope.errors import Cancelled, UsageError
from convscope.instrument.target import Target
from convscope.models.classifier import Classifier
from convscope.progress import reporting
from convscope.studies.scores.blind import generator_of
from convscope.studies.scores.cells import cells
from convscope.studies.scores.curves import area, counts, curves, ranks
from tests.nets import Smooth, classifier_of, photos

BUDGET = {"budget": 500.0, "label": "curves"}


def linear(weights, bias=0.0):
    """Two classes: the first's logit is the sum of weight times pixel, plus the bias; the second's is 0."""
    layer = nn.Linear(weights.numel(), 2, dtype=torch.float64)
    layer.weight.data = torch.stack([weights.flatten(), torch.zeros(weights.numel())]).double()
    layer.bias.data = torch.tensor([bias, 0.0], dtype=torch.float64)
    return Classifier(nn.Sequential(nn.Flatten(), layer), channels=weights.shape[0])


def sigmoid(value):
    return 1 / (1 + math.exp(-value))


def of(map, seed=0, side=1):
    return ranks(map, cells(*map.shape, side), generator_of(seed, "0"))


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("steps", [12, 5, 1])
def test_a_linear_network_s_curves_by_hand(channels, steps):
    """Every point: fill or restore the first pixels of the order one by one, and take the sigmoid of the sum."""
    weights = torch.randn(channels, 3, 4, generator=generator_of(1, "1"), dtype=torch.float64)
    image = photos(1, channels, 3, 4)
    map = torch.randn(3, 4, generator=generator_of(2, "2"), dtype=torch.float64)
    fill, hidden = torch.full_like(image, 0.5), torch.zeros_like(image)
    classifier = linear(weights, 0.3)
    found = curves(
        classifier, image, Target(index=(0,)), [of(map), of(-map)], [(fill, image), (image, hidden)], steps, **BUDGET
    )
    assert found.shape == (2, 2, steps + 1)
    for m, signed in enumerate((map, -map)):
        order = sorted((float(-signed[r, c]), r, c) for r in range(3) for c in range(4))
        for kind, (taken, rest) in enumerate([(fill, image), (image, hidden)]):
            for step in range(steps + 1):
                pixels = rest[0].clone()
                for _, r, c in order[: round(step * 12 / steps)]:
                    pixels[:, r, c] = taken[0, :, r, c]
                assert found[m, kind, step] == pytest.approx(sigmoid(float((weights * pixels).sum()) + 0.3), abs=1e-12)


def test_the_true_order_is_the_best_one():
    """Of a linear network with one pixel that matters, deletion and insertion in closed form."""
    weights = torch.zeros(1, 4, 4)
    weights[0, 2, 1] = 6.0
    image = torch.ones(1, 1, 4, 4, dtype=torch.float64)
    black = torch.zeros_like(image)
    ends = [(black, image), (image, black)]
    first, last = weights[0].double(), -weights[0].double()
    found = curves(linear(weights), image, Target(index=(0,)), [of(first), of(last)], ends, 16, **BUDGET)
    shares = [count / 16 for count in counts(16, 16)]
    on, off = sigmoid(6), 0.5
    # Gone after the first of 16 steps: one trapezoid from on to off, then fifteen of off; and the other way round.
    best, worst = (on + off) / 2 / 16 + 15 / 16 * off, (on + off) / 2 / 16 + 15 / 16 * on
    assert area(shares, found)[0] == pytest.approx([best, worst], abs=1e-12)
    assert area(shares, found)[1] == pytest.approx([worst, best], abs=1e-12)


def test_curves_begin_and_end_exactly_on_the_photo_and_what_hides_it():
    classifier = classifier_of(Smooth())
    image = photos(1, height=13, width=11)
    grey, noise = torch.full_like(image, 0.5), photos(1, height=13, width=11, seed=9)
    found = curves(
        classifier, image, Target(index=(2,)), [of(noise[0, 0])], [(grey, image), (image, noise)], 7, **BUDGET
    )
    share = [float(classifier(x).softmax(1)[0, 2].detach()) for x in (image, grey, noise)]
    assert found[0, 0, [0, -1]] == pytest.approx(share[:2], abs=1e-12)
    assert found[0, 1, [0, -1]] == pytest.approx([share[2], share[0]], abs=1e-12)


def test_area_is_the_trapezoid_rule_over_shares():
    assert area([0, 0.25, 1], np.array([1.0, 0.5, 0.1])) == pytest.approx(0.25 * 0.75 + 0.75 * 0.3)
    assert area([0, 1], np.array([0.4, 0.4])) == pytest.approx(0.4)


def test_counts_are_even_and_end_with_all():
    assert counts(10, 4) == [0, 2, 5, 8, 10]
    assert counts(49, 7) == list(range(0, 50, 7))


def test_ranks_order_and_ties():
    map = torch.tensor([[3.0, 0.0, 7.0], [0.0, 5.0, 0.0]])
    found = of(map)
    assert [int(found[0, 2]), int(found[1, 1]), int(found[0, 0])] == [0, 1, 2]
    assert sorted(found.flatten().tolist()) == list(range(6))
    zeros = [tuple(int(of(map, seed)[place]) for place in ((0, 1), (1, 0), (1, 2))) for seed in range(40)]
    assert len(set(zeros)) == 6  # every order of the three equal ones
    assert torch.equal(of(map, 3), of(2 * map + 1, 3))  # the same order is the same ranks


def test_cells_are_ranked_by_their_mean_and_taken_as_one():
    """Whatever their size: those at the border are cut. By their sum the cell of four would come first."""
    map = torch.tensor([[3.0, 3.0, 5.0], [3.0, 3.0, 1.0], [0.0, 2.0, 4.0]])  # means 3, 3, 1, 4
    assert of(map, side=2).tolist() in ([[a, a, b], [a, a, b], [3, 3, 0]] for a, b in ((1, 2), (2, 1)))
    weights = torch.zeros(1, 3, 3)
    weights[0, 2, 2] = 5.0
    image, grey = torch.ones(1, 1, 3, 3, dtype=torch.float64), torch.full((1, 1, 3, 3), 0.5, dtype=torch.float64)
    found = curves(linear(weights), image, Target(index=(0,)), [of(map, side=2)], [(grey, image)], 4, **BUDGET)
    assert found[0, 0] == pytest.approx([sigmoid(5)] + [sigmoid(2.5)] * 4, abs=1e-12)


def test_a_constant_map_has_no_side():
    """Among a map's equal pixels none is earlier for where it lies: the mean rank of each half is the middle."""
    found = of(torch.zeros(60, 60)).double()
    for half in (found[:30], found[30:], found[:, :30], found[:, 30:]):
        assert float(half.mean()) == pytest.approx(3599 / 2, rel=0.05)


@pytest.mark.parametrize("budget", [2.0, 500.0])
def test_the_budget_changes_nothing(budget):
    classifier, image = classifier_of(Smooth()), photos(1)
    order = [of(photos(1, seed=4)[0, 1])]
    ends = [(torch.zeros_like(image), image)]
    found = curves(classifier, image, Target(index=(1,)), order, ends, 30, budget=budget, label="c")
    once = curves(classifier, image, Target(index=(1,)), order, ends, 30, budget=900.0, label="c")
    assert found == pytest.approx(once, abs=1e-12)


def test_cancelled():
    classifier, image = classifier_of(Smooth()), photos(1)
    with reporting(cancel=lambda: True), pytest.raises(Cancelled):
        curves(classifier, image, Target(index=(1,)), [of(image[0, 0])], [(image, image)], 30, **BUDGET)
    with pytest.raises(UsageError, match="memory budget"):
        curves(classifier, image, Target(index=(1,)), [of(image[0, 0])], [(image, image)], 30, budget=-1, label="c")


@pytest.mark.parametrize("channels", [1, 3])
def test_deletion_filled_with_black_is_quantus_s_pixel_flipping(channels):
    quantus = pytest.importorskip("quantus")
    classifier = classifier_of(Smooth(channels), mean=(0.0,) * channels, std=(1.0,) * channels)
    image = photos(1, channels, 8, 6).float().double()  # as Quantus brings it to the network
    image[0, 0, 0, 0] = 0  # its black is the picture's darkest value
    map = torch.randn(8, 6, generator=generator_of(5, "5"), dtype=torch.float64)
    # Quantus flips single features. Those of one pixel have the same attribution, so they come one after the other, and
    # a step of four pixels with all their channels is the same on both sides.
    metric = quantus.PixelFlipping(
        features_in_step=4 * channels, abs=False, normalise=False, perturb_baseline="black", disable_warnings=True
    )
    (theirs,) = metric(
        model=classifier.eval(),
        x_batch=image.numpy(),
        y_batch=np.array([2]),
        a_batch=map.expand(1, channels, -1, -1).numpy(),
        softmax=True,
        device="cpu",
    )
    ours = curves(classifier, image, Target(index=(2,)), [of(map)], [(torch.zeros_like(image), image)], 12, **BUDGET)
    assert len(theirs) == 12
    assert ours[0, 0, 1:] == pytest.approx(np.array(theirs), abs=1e-10)
