"""Confused classes, and the units that push photos from one to the other."""

import pytest
import torch
from torch import nn

from convscope.models.classes import as_classes
from convscope.models.classifier import Classifier
from convscope.studies.diagnosis import CHECKS
from convscope.studies.diagnosis.confusion import confused
from convscope.studies.diagnosis.patient import Patient
from tests.studies.diagnosis import small


def net(weights, bias):
    """Three units are the photo's three pixels, rectified."""
    head = nn.Linear(3, len(weights)).double()
    head.weight.data, head.bias.data = (torch.tensor(v, dtype=torch.float64) for v in (weights, bias))
    return Classifier(
        nn.Sequential(nn.Conv2d(1, 1, 1).double(), nn.ReLU(), nn.Flatten(), head),
        as_classes(["a", "b", "c"]),
        channels=1,
    )


def test_pushes_by_hand() -> None:
    labels, answers = torch.tensor([0, 0, 0, 1]), torch.tensor([0, 1, 1, 1])
    features = torch.tensor([[1.0, 0.0], [3.0, 1.0], [5.0, 3.0], [9.0, 9.0]], dtype=torch.float64)
    weights = torch.tensor([[1.0, 2.0], [3.0, 1.0]], dtype=torch.float64)
    (pair,) = confused(labels, answers, features, weights)
    assert (pair.own, pair.other, pair.wrong, pair.of) == (0, 1, 2, 3)
    assert pair.pushes is not None  # (3 - 1) (4 - 1) and (1 - 2) (2 - 0)
    assert pair.pushes.tolist() == [6.0, -2.0]
    # Wilson's interval of 2 of 3: (p + z^2/2n - z sqrt(p(1-p)/n + z^2/4n^2)) / (1 + z^2/n)
    z, p, n = 1.959963984540054, 2 / 3, 3
    low = (p + z * z / 2 / n - z * (p * (1 - p) / n + z * z / 4 / n / n) ** 0.5) / (1 + z * z / n)
    assert pair.low == pytest.approx(low, rel=1e-12)


def test_a_unit_that_confuses_is_named() -> None:
    generator = torch.Generator().manual_seed(0)
    images = 0.1 * torch.rand(60, 1, 1, 3, generator=generator, dtype=torch.float64)
    labels = [0] * 30 + [1] * 15 + [2] * 15
    images[:20, 0, 0, 0] += 0.8  # a
    images[20:30, 0, 0, 1] += 0.9  # a, with what b has
    images[30:45, 0, 0, 1] += 0.8  # b
    images[45:, 0, 0, 2] += 0.8  # c
    own = net([[5.0, 0, 0], [0, 5.0, 0], [0, 0, 5.0]], [0.0, 0.0, 0.0])
    own.network[0].weight.data.fill_(1.0)
    own.network[0].bias.data.zero_()
    patient = Patient(own, images, [str(i) for i in range(60)], labels)
    found = CHECKS["confusion"].run(patient)
    (fault,) = found.findings
    assert (fault.where, fault.fault) == ("a as b", True)
    right, wrong = images[:20].flatten(1).mean(0), images[20:30].flatten(1).mean(0)
    push = 5 * float(wrong[1] - right[1])  # of unit 1; unit 0 has the most of losing a
    other = 5 * float(right[0] - wrong[0])
    assert f":1 (+{push:.2g})" in fault.change
    assert f":0 (+{other:.2g})" in fault.change


def test_pushes_add_up_to_the_logits() -> None:
    images, labels = small.digits()
    patient = small.patient(small.trained(images, labels, epochs=1), images, labels, 400)
    weights = patient.classifier.network[-1].weight.detach().double()
    pairs = confused(torch.tensor(patient.labels), patient.answers, patient.passed.features, weights)
    assert pairs
    for pair in pairs[:4]:
        of = torch.tensor(patient.labels) == pair.own
        apart = patient.logits[:, pair.other] - patient.logits[:, pair.own]
        wrong, right = (apart[of & (patient.answers == label)].mean() for label in (pair.other, pair.own))
        assert pair.pushes is not None
        torch.testing.assert_close(pair.pushes.sum(), wrong - right, atol=1e-4, rtol=1e-4)


def test_single_bad_photos_are_no_confusion() -> None:
    found = CHECKS["confusion"].run(small.patient(small.sound(), *small.digits()))
    assert not found.findings
    assert next(one.number for one in found.measures if "wrong" in one.what) > 0


def test_where_no_linear_layer_ends_the_network_units_are_left_out() -> None:
    head = [nn.Conv2d(1, 3, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    own = Classifier(nn.Sequential(*head), as_classes(["a", "b", "c"]), channels=1)
    with torch.no_grad():
        own.network[0].bias[:] = torch.tensor([0.0, 5.0, 0.0])
    images = torch.rand(20, 1, 4, 4)
    found = CHECKS["confusion"].run(Patient(own, images, [str(i) for i in range(20)], [0] * 20))
    (fault,) = found.findings
    assert fault.where == "a as b"
    assert "pushes" not in fault.change
