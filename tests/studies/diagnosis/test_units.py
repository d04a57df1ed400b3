"""Units are judged as a person would who reads all their activations."""

import math

import pytest
import torch
from torch import nn

from convscope.instrument.trace import trace
from convscope.models.classifier import Classifier
from convscope.studies.diagnosis import CHECKS
from convscope.studies.diagnosis.bounded import bounded_layers
from convscope.studies.diagnosis.patient import Patient
from tests.studies.diagnosis import small


def one_by_one(weights, biases, activation):
    """Photos of one channel; unit i of the layer is activation(weights[i] * pixel + biases[i])."""
    conv = nn.Conv2d(1, len(weights), 1).double()
    conv.weight.data = torch.tensor(weights, dtype=torch.float64)[:, None, None, None]
    conv.bias.data = torch.tensor(biases, dtype=torch.float64)
    head = nn.Linear(len(weights), 2).double()
    return Classifier(nn.Sequential(conv, activation, nn.AdaptiveAvgPool2d(1), nn.Flatten(), head), channels=1)


def pixels(count, seed=0):
    return torch.rand(count, 1, 4, 5, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def judged(classifier, images):
    return CHECKS["units"].run(Patient(classifier, images, [str(i) for i in range(len(images))]))


def kinds(checkup):
    return {one.what: one.where for one in checkup.findings}


def shares(checkup):
    return {one.what: one.number for one in checkup.measures}


# By hand, of pixels in (0, 1): w x + b.  0: never above 0; 1: always; 2: above 6 at nearly all places; 3 and 4: their
# maxima are those of 1, up to offset and scale; 5: one of its own.
WEIGHTS, BIASES = [1.0, 1.0, 100.0, 1.0, 3.0, -1.0], [-2.0, 0.5, 0.0, -0.2, -0.6, 0.3]


def test_every_kind_of_unit() -> None:
    images = pixels(120)
    found = judged(one_by_one(WEIGHTS, BIASES, nn.ReLU6()), images)
    where = kinds(found)
    assert where["dead units"].endswith("1:0")
    assert where["saturated units"].endswith("1:2")
    assert where["duplicate units"].endswith("1:3,4")
    assert where["units that are always on"].endswith("1:1,2")
    assert not any(one.fault for one in found.findings), "a sixth of a layer is a remark"
    assert shares(found)["share of dead units"] == pytest.approx(1 / 6)
    assert bool((100 * images > 6).double().mean() > 0.5)


def test_few_photos_show_no_dead_unit() -> None:
    found = judged(one_by_one(WEIGHTS, BIASES, nn.ReLU6()), pixels(99))
    assert "dead units" not in kinds(found)
    assert "share of dead units" not in shares(found)
    assert any("99 photos" in note for note in found.notes)


def test_most_of_a_layer_is_a_fault() -> None:
    found = judged(one_by_one([1.0] * 5, [-2.0, -3.0, -4.0, -5.0, 0.0], nn.ReLU()), pixels(100))
    (fault,) = [one for one in found.findings if one.fault]
    assert (fault.what, fault.number) == ("dead units", 0.8)
    assert fault.where == "1:0,1,2,3"


def test_a_silent_layer_is_a_fault_with_one_photo() -> None:
    found = judged(one_by_one([1.0, 2.0], [-5.0, -5.0], nn.ReLU()), pixels(1))
    (fault,) = found.findings
    assert (fault.what, fault.where, fault.fault) == ("silent layer", "1", True)


def test_what_lies_behind_a_silent_layer_is_not_judged() -> None:
    own = small.silent()
    found = CHECKS["units"].run(small.patient(own, *small.digits()))
    assert [one.where for one in found.findings if one.fault] == ["4"]
    assert not [one for one in found.measures if one.where == "7"]
    assert any("behind a silent one" in note for note in found.notes)


def test_units_that_fire_on_few_photos_are_no_duplicates() -> None:
    images = torch.zeros(20, 1, 4, 5, dtype=torch.float64)
    images[3] = 1.0  # both fire on this one alone, and so their maxima go up and down with each other
    found = judged(one_by_one([1.0, 5.0, 0.1], [-0.5, -3.0, 0.0], nn.ReLU()), images)
    assert "duplicate units" not in kinds(found)


@pytest.mark.parametrize(("activation", "low"), [(nn.Tanh(), -1), (nn.Sigmoid(), 0)])
def test_smooth_bounds_saturate_at_both_ends(activation: nn.Module, low: float) -> None:
    found = judged(one_by_one([0.0, 0.0, 1.0], [9.0, -9.0, 0.0], activation), pixels(5))
    assert kinds(found) == {"saturated units": "2 in 1 layer, the most in 1:0,1"}
    bounds = bounded_layers(trace(nn.Sequential(activation, nn.Flatten()), pixels(1)))["0"]
    assert (bounds.low, bounds.high, bounds.hard) == (low, 1.0, False)


class Written(nn.Module):
    """Rectifiers as functions, in place, and as a clamp."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.end = nn.Conv2d(1, 2, 1), nn.Sigmoid()

    def forward(self, x):
        x = torch.relu(self.conv(x))
        x = x.clamp(min=0, max=3).clamp_(min=-1)
        return self.end(x.mean((2, 3)))


def test_layers_are_found_however_they_are_written() -> None:
    layers = bounded_layers(trace(Written(), torch.rand(1, 1, 4, 4)))
    assert {name: (one.low, one.high) for name, one in layers.items()} == {
        "/relu": (0.0, math.inf),
        "/clamp": (0.0, 3.0),
    }, "the sigmoid at the end is the answer, a lower bound of -1 is none"


def test_without_bounds_nothing_can_die() -> None:
    found = judged(one_by_one([1.0], [0.0], nn.GELU()), pixels(3))
    assert not found.seen
    assert "none can die" in found.notes[0]
