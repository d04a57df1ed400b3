"""Agreement of methods on networks whose maps are known without any method."""

import copy
import math

import numpy as np
import pytest
import scipy.stats
import torch
from torch import nn

from convscope import Scope
from convscope.errors import Cancelled, UsageError
from convscope.models.classifier import Classifier
from convscope.progress import reporting
from convscope.studies import configure
from convscope.studies.agreement import Pair, alike_first, strongest_part
from convscope.studies.subject import Album
from tests.nets import Skip, photos, seeded

HEIGHT, WIDTH = 12, 18


def run(net, images, **settings):
    classifier = Classifier(net, channels=images.shape[1])
    return configure("agreement", settings).run(Album.of(classifier, images), 0)


def linear(channels=3):
    return seeded(nn.Sequential(nn.Flatten(), nn.Linear(channels * HEIGHT * WIDTH, 4)))


def averaged(map, side):
    """The mean over squares, one by one."""
    rows, cols = map.shape[0] // side, map.shape[1] // side
    return np.array(
        [[map[r * side : r * side + side, c * side : c * side + side].mean() for c in range(cols)] for r in range(rows)]
    )


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("side", [1, 2])
def test_the_figures_of_a_linear_network_by_hand(channels, side):
    """Its gradient is its weights, and input times gradient the pixels times these."""
    net, images = linear(channels), photos(3, channels, HEIGHT, WIDTH)
    grid = None if side == 1 else HEIGHT // side
    found = run(net, images, methods="gradient,input-x-gradient", grid=grid, top=0.2)
    weights = net[1].weight.detach()[net(images).argmax(1)].reshape(images.shape)
    ranks, overlaps = [], []
    for weight, image in zip(weights.numpy(), images.numpy(), strict=True):
        one = averaged(np.abs(weight).sum(0), side)
        other = averaged(np.abs(weight * image).sum(0), side)
        ranks.append(scipy.stats.spearmanr(one.ravel(), other.ravel()).statistic)
        count = round(0.2 * one.size)
        parts = [set(np.argsort(-map.ravel())[:count].tolist()) for map in (one, other)]
        overlaps.append(len(parts[0] & parts[1]) / len(parts[0] | parts[1]))
    shown = found.table("photos").records()
    assert [row["rank"] for row in shown] == pytest.approx(ranks)
    assert [row["overlap"] for row in shown] == pytest.approx(overlaps)
    (pair,) = found.table("pairs").records()
    assert (pair["rank"], pair["overlap"]) == pytest.approx((np.mean(ranks), np.mean(overlaps)))
    assert pair["rank low"] <= pair["rank"] <= pair["rank high"]
    square = found.table("agreement").records()
    assert square[0][square[1]["method"]] == pytest.approx(np.mean(ranks))
    assert square[0][square[0]["method"]] == 1
    assert len(found.findings) == 1


def test_the_strongest_part_takes_ties_and_never_the_least():
    map = np.array([[5.0, 4.0, 4.0, 1.0, 1.0], [1.0, 0.0, 0.0, 0.0, 0.0]])
    for top, count in ((0.1, 1), (0.2, 3), (0.3, 3), (0.4, 6), (0.9, 6)):
        assert strongest_part(map, top).sum() == count
    assert strongest_part(np.ones((2, 2)), 0.5) is None
    assert strongest_part(np.full((2, 2), np.nan), 0.5) is None


def test_methods_alike_stand_together():
    """Two families: within them 0.9, between them 0.1."""
    names = ["a1", "b1", "a2", "b2", "a3"]
    pairs = [
        Pair(one, other, np.array([0.9 if one[0] == other[0] else 0.1]), np.array([0.0]))
        for i, one in enumerate(names)
        for other in names[i + 1 :]
    ]
    order = "".join(name[0] for name in alike_first(names, pairs))
    assert order in ("aaabb", "bbaaa")


class Mute(nn.Module):
    """Its class activation map is zero everywhere, its gradient is not."""

    def __init__(self):
        super().__init__()
        self.conv, self.head = nn.Conv2d(3, 2, 3, padding=1), nn.Linear(2, 2)
        self.conv.weight.data = torch.linspace(0.1, 1, 54).reshape(2, 3, 3, 3)
        self.head.weight.data.fill_(-1.0)

    def forward(self, x):
        return self.head(self.conv(x).relu().mean((2, 3)))


def test_a_map_that_is_zero_everywhere_is_not_counted_and_said_so():
    found = run(Mute().double(), photos(2, 3, HEIGHT, WIDTH), methods="grad-cam,gradient,input-x-gradient", grid=None)
    assert "grad-cam: 2 of 2 maps are the same everywhere or not finite, and not counted" in found.notes
    pairs = found.table("pairs").records()
    assert (pairs[0]["method"], pairs[0]["other"], pairs[0]["photos"]) == ("gradient", "input-x-gradient", 2)
    assert [row["rank"] for row in pairs[1:]] == [None, None]
    others = {row["method"]: row["others"] for row in found.table("agreement").records()}
    assert others["grad-cam"] is None
    assert others["gradient"] == pytest.approx(pairs[0]["rank"])
    for figure in found.figures:
        found.picture(figure.name)


def test_methods_that_are_the_same_by_their_mathematics_agree_wholly():
    """Where the head is a mean and a matrix, Grad-CAM and HiResCAM weigh maps by the same numbers."""
    net = seeded(nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 3)))
    found = run(net, photos(3, 3, 20, 26), methods="hires-cam,gradient,grad-cam", top=0.25)
    best = found.table("pairs").records()[0]
    assert {best["method"], best["other"]} == {"grad-cam", "hires-cam"}
    assert best["rank"] == pytest.approx(1)
    assert best["overlap"] == pytest.approx(1)
    assert found.findings[0].startswith("most alike: hires-cam and grad-cam, rank correlation 1 (1 to 1), 100% of")
    assert found.findings[1].startswith("least alike: ")
    assert "gradient least" in found.findings[2]


def test_methods_of_every_kind_and_the_users_network_as_it_was():
    net = seeded(Skip(channels=1), dtype=torch.float32).train()
    before = copy.deepcopy(net.state_dict())
    random = torch.get_rng_state()
    scope = Scope(net, classes=list("abcd"), channels=1)
    images = photos(2, 1, 24, 30, dtype=torch.float32)
    methods = "grad-cam,guided,smoothgrad,eigen-cam,occlusion"
    found, again = (scope.study("agreement", images, methods=methods) for _ in range(2))
    assert len(found.table("agreement")) == 5
    assert len(found.table("pairs")) == math.comb(5, 2)
    assert [table.csv() for table in found.tables] == [table.csv() for table in again.tables]
    assert net.training
    assert torch.equal(torch.get_rng_state(), random)
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


def test_it_ends_when_it_is_cancelled():
    with reporting(cancel=lambda: True), pytest.raises(Cancelled):
        run(linear(), photos(1, 3, HEIGHT, WIDTH), methods="gradient,guided")


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"methods": "gradient"}, "agreement compares methods: name at least two"),
        ({"methods": "gradient,gradient"}, "agreement compares methods: name at least two"),
        ({"methods": "gradient,filters"}, "filters does not make a map of a photo"),
        ({"grid": "1"}, "agreement: grid must be at least 2, got 1"),
        ({"top": "0"}, "agreement: top is a share between 0 and 1, got 0.0"),
        ({"top": "much"}, "agreement: top is 'much'"),
    ],
)
def test_what_is_wrong_is_said_before_a_model_is_needed(settings, said):
    with pytest.raises(UsageError) as refused:
        configure("agreement", settings)
    assert str(refused.value).startswith(said)
    assert "\n" not in str(refused.value)


def test_one_method_that_is_left_agrees_with_none():
    with pytest.raises(UsageError, match="there is one alone: left out: grad-cam"):
        run(linear(), photos(1, 3, HEIGHT, WIDTH), methods="gradient,grad-cam")
