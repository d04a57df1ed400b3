"""Occlusion against brute force: one forward pass a window, plain loops, float64."""

import numpy as np
import pytest
import torch

from convscope.errors import UsageError
from convscope.instrument.address import Address
from convscope.instrument.target import Target
from convscope.methods.occlusion import Occlusion
from tests.nets import Skip, alexnet_like, classifier_of, photos
from tests.oracles import near

HEIGHT, WIDTH = 24, 30


def starts(length, size, stride):
    found = [0]
    while found[-1] + size < length:
        found.append(min(found[-1] + stride, length - size))
    return found


def brute_force(score, image, filled, size, stride):
    """The mean drop "h w" over the windows that cover a pixel, for one image "c h w"."""
    clean = score(image)
    _, height, width = image.shape
    drops = [[[] for _ in range(width)] for _ in range(height)]
    for top in starts(height, size, stride):
        for left in starts(width, size, stride):
            hidden = image.clone()
            hidden[:, top : top + size, left : left + size] = filled[:, top : top + size, left : left + size]
            drop = clean - score(hidden)
            for row in range(top, top + size):
                for col in range(left, left + size):
                    drops[row][col].append(drop)
    return np.array([[np.mean(pixel) for pixel in row] for row in drops])


def logit(classifier, index):
    return lambda image: float(classifier(image[None])[0, index].detach())


@pytest.mark.parametrize(
    ("size", "stride"),
    [
        pytest.param(6, 6, id="divides both sides"),
        pytest.param(7, 5, id="leaves a remainder in both"),
        pytest.param(8, 4, id="leaves one in the width"),
        pytest.param(7, 7, id="side by side with a remainder"),
        pytest.param(24, 3, id="as high as the image"),
    ],
)
def test_brute_force(size, stride):
    classifier, images = classifier_of(Skip("functional in place")), photos(2)
    found = Occlusion(size=size, stride=stride).run(classifier, images, Target(index=(1, 3)))
    for raw, image, index in zip(found.raw, images, (1, 3), strict=True):
        near(raw, brute_force(logit(classifier, index), image, torch.full_like(image, 0.5), size, stride))


def test_brute_force_with_strides_and_overlapping_pools():
    classifier, images = classifier_of(alexnet_like(), seed=3), photos(1, 3, 69, 77)
    found = Occlusion(size=15, stride=11).run(classifier, images, Target(index=(1,)))
    grey = torch.full_like(images[0], 0.5)
    near(found.raw[0], brute_force(logit(classifier, 1), images[0], grey, 15, 11))


def blurred(image):
    """A Gaussian of a sixteenth of the shorter side, cut off at three sigma, the image mirrored at its border."""
    sigma = min(image.shape[1:]) / 16
    offsets = range(-int(3 * sigma), int(3 * sigma) + 1)
    weights = np.exp([-(offset**2) / (2 * sigma**2) for offset in offsets])
    weights /= weights.sum()
    out = image.numpy()
    for axis in (1, 2):
        pad = [(0, 0)] * 3
        pad[axis] = (-offsets[0], offsets[-1])
        padded, length = np.pad(out, pad, mode="reflect"), out.shape[axis]
        out = sum(w * padded.take(range(i, i + length), axis) for i, w in enumerate(weights))
    return torch.from_numpy(out)


FILLS = {
    "black": torch.zeros_like,
    "grey": lambda image: torch.full_like(image, 0.5),
    "white": torch.ones_like,
    "mean": lambda image: image.mean((1, 2), keepdim=True).expand_as(image),
    "blur": blurred,
}


@pytest.mark.parametrize("fill", FILLS)
def test_fills(fill):
    classifier, images = classifier_of(Skip()), photos(height=32, width=35)
    found = Occlusion(size=9, stride=8, fill=fill).run(classifier, images, Target(index=(0,)))
    near(found.raw[0], brute_force(logit(classifier, 0), images[0], FILLS[fill](images[0]), 9, 8))
    assert found.baseline == fill


@pytest.mark.parametrize(("place", "read"), [(None, lambda maps: maps.amax()), ((3, 4), lambda maps: maps[3, 4])])
def test_a_unit_and_a_neuron(place, read):
    classifier, images = classifier_of(Skip()), photos()
    net = classifier.network

    def score(image):
        x = torch.max_pool2d(net.norm1(net.conv1(classifier.normalise(image[None]))).relu(), 3, 2, 1)
        x = (net.norm2(net.conv2(x)) + x).relu()
        return float(read(net.conv3(x)[0, 2]).detach())

    found = Occlusion(size=7, stride=5).run(classifier, images, Target(Address("conv3"), (2,), position=place))
    near(found.raw[0], brute_force(score, images[0], torch.full_like(images[0], 0.5), 7, 5))


def test_one_class_against_another():
    classifier, images = classifier_of(Skip()), photos()
    found = Occlusion(size=7, stride=5).run(classifier, images, Target(index=(0,), against=(2,)))
    one, other = (Occlusion(size=7, stride=5).run(classifier, images, Target(index=(i,))).raw for i in (0, 2))
    near(found.raw, one - other)


def test_gains_are_kept_as_negative_drops():
    classifier, images = classifier_of(Skip()), photos()
    raw = Occlusion(size=7, stride=5).run(classifier, images, Target(index=(0,))).raw
    assert bool((raw < 0).any())
    assert bool((raw > 0).any())


def test_windows_by_default():
    windows, side, stride = Occlusion().windows(224, 280)
    assert (side, stride) == (32, 8)
    assert windows[:2] == [(0, 0), (0, 8)]
    assert windows[-1] == (192, 248)
    assert Occlusion().windows(5, 5) == ([(r, c) for r in range(5) for c in range(5)], 1, 1)


@pytest.mark.parametrize("settings", [{"size": 25}, {"size": 0}, {"stride": 0}, {"size": 5, "stride": 6}])
def test_windows_that_cannot_be(settings):
    with pytest.raises(UsageError, match="occlusion"):
        Occlusion(**settings).windows(HEIGHT, WIDTH)
