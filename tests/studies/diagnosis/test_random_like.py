"""Layers against their own weights in other orders."""

import math

import numpy as np
import pytest
import torch

from convscope.models.classifier import Classifier
from convscope.studies.diagnosis import CHECKS
from convscope.studies.diagnosis.patient import Patient
from convscope.studies.diagnosis.random_like import apart, figures, likenesses
from tests.nets import photos, seeded, vgg_like
from tests.studies.diagnosis import small


def test_figures_by_hand() -> None:
    # Two units over four places: variances 4 and 1, not correlated: eigenvalues 4 and 1.
    maps = torch.tensor([[[[2.0, 2.0, -2.0, -2.0]], [[1.0, -1.0, 1.0, -1.0]]]], dtype=torch.float64) + 7
    wanted = [math.log(5), math.log(25 / 17), math.log(25 / 17)]
    np.testing.assert_allclose(figures(maps), wanted, rtol=1e-12)
    # Two units that do the same fill one dimension, but are spread over two.
    twice = torch.tensor([[1.0, 1.0], [3.0, 3.0]], dtype=torch.float64)
    np.testing.assert_allclose(figures(twice), [math.log(2), 0.0, math.log(2)], atol=1e-12)
    assert figures(torch.ones(3, 4)) is None


def test_figures_do_not_depend_on_which_side_is_longer() -> None:
    wide = torch.randn(3, 40, 2, 2, dtype=torch.float64)  # 40 units, 12 places
    values = wide.movedim(1, 0).flatten(1)
    eigen = torch.linalg.eigvalsh(torch.cov(values, correction=0))
    wanted = [float(eigen.sum().log()), float((eigen.sum() ** 2 / eigen.square().sum()).log())]
    found = figures(wide)
    assert found is not None
    np.testing.assert_allclose(found[:2], wanted, rtol=1e-9)


def test_apart_by_hand() -> None:
    others = np.array([[0.0, 1.0], [2.0, 1.0], [4.0, 1.0]])  # means 2 and 1, deviations 2 and 0
    assert apart(np.array([5.0, 1.0]), others) == pytest.approx(1.5)
    assert apart(np.array([5.0, 1.1]), others) == math.inf


def test_an_untrained_network_is_like_random_in_whatever_way_it_was_drawn() -> None:
    own = Classifier(seeded(vgg_like(), dtype=torch.float32), channels=3)
    found = CHECKS["random-like"].run(Patient(own, photos(6, 3, 22, 27, dtype=torch.float32), list("abcdef")))
    (fault,) = found.findings
    assert fault.fault
    assert fault.number > 0.9


def test_a_layer_with_structure_is_told_from_the_untrained_ones() -> None:
    """By hand: one layer's filters all see the mean of their inputs, which no other order of the weights does."""
    net = seeded(vgg_like(), dtype=torch.float32)
    net[3].weight.data[:2], net[3].weight.data[2:] = 1.0, -1.0
    own = Classifier(net, channels=3)
    found = {
        one.layer: one.apart
        for one in likenesses(Patient(own, photos(6, 3, 22, 27, dtype=torch.float32), list("abcdef")))
    }
    assert found["3"] > 4
    assert max(value for name, value in found.items() if name != "3") < found["3"]


def test_trained_layers_differ() -> None:
    found = CHECKS["random-like"].run(small.patient(small.sound(), *small.digits()))
    assert not any(one.fault for one in found.findings)
    numbers = {one.where: one.number for one in found.measures}
    assert min(numbers["3"], numbers["6"]) > 8


def test_weights_and_random_numbers_stay() -> None:
    own = small.sound()
    before = [one.clone() for one in own.parameters()]
    state = torch.random.get_rng_state()
    first, again = (likenesses(small.patient(own, *small.digits())) for _ in range(2))
    assert first == again
    assert torch.equal(state, torch.random.get_rng_state())
    assert all(torch.equal(one, old) for one, old in zip(own.parameters(), before, strict=True))
