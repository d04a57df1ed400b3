"""Where the evidence lies, and whether a class hangs on a corner."""

import numpy as np
import pytest
import torch
from torch import nn

from convscope.models.classes import as_classes
from convscope.models.classifier import Classifier
from convscope.studies.diagnosis import CHECKS
from convscope.studies.diagnosis.evidence import Group, _drop, around, corners, middle, within
from convscope.studies.diagnosis.patient import Patient
from tests.studies.diagnosis import small


def test_places_by_hand() -> None:
    places = corners(16, 24)
    assert tuple(places["top left"]) == (0, 0, 4, 6)
    assert tuple(places["bottom right"]) == (12, 18, 16, 24)
    assert tuple(middle(16, 24)) == (2, 3, 14, 21)
    maps = torch.zeros(2, 16, 24)
    maps[0, 0, 0], maps[0, 8, 8] = 1.0, 3.0
    assert within(maps, places["top left"]).tolist() == [0.25, 0.0]
    assert around(maps, middle(16, 24)).tolist() == [0.25, 0.0]


class OneCorner(nn.Module):
    """Class 1's logit is ten times the mean of the lower right corner, less 5; class 0's is 0."""

    def __init__(self) -> None:
        super().__init__()
        self.same = nn.Conv2d(1, 1, 1)
        self.same.weight.data.fill_(1.0)
        self.same.bias.data.zero_()

    def forward(self, x):
        found = self.same(x)[:, 0, -4:, -4:].mean((1, 2))
        return torch.stack([torch.zeros_like(found), 10 * found - 5], 1)


def cornered(count=12):
    images = 0.2 * torch.rand(2 * count, 1, 16, 16, generator=torch.Generator().manual_seed(0))
    images[count:, :, -4:, -4:] = 1.0
    own = Classifier(OneCorner(), as_classes(["plain", "marked"]), channels=1)
    return Patient(own, images, [str(i) for i in range(2 * count)], [0] * count + [1] * count)


def test_a_corner_costs_what_the_network_makes_of_it() -> None:
    patient = cornered()
    group = Group(1, list(range(12, 24)), torch.zeros(12, 16, 16), torch.zeros(12, 4), torch.zeros(12))
    places = corners(16, 16)
    fall = _drop(patient, group, patient.labels, [places["bottom right"]])
    donors = np.random.default_rng([0, 1]).integers(0, 12, 12)
    means = patient.images[donors, 0, -4:, -4:].mean((1, 2))
    wanted = torch.sigmoid(torch.tensor(5.0)) - torch.sigmoid(10 * means - 5)
    torch.testing.assert_close(fall.float(), wanted, atol=1e-5, rtol=1e-5)
    assert float(_drop(patient, group, patient.labels, [places["top left"]]).abs().max()) < 1e-6
    assert float(patient.images[12:, :, -4:, -4:].min()) == 1.0, "the photos stay"


def test_a_class_that_hangs_on_a_corner_is_found_though_no_map_can_be_had() -> None:
    found = CHECKS["evidence"].run(cornered())
    faults = {one.where: one.number for one in found.findings if one.fault}
    assert "marked, bottom right" in faults
    assert faults["marked, bottom right"] == pytest.approx(1.0, abs=0.05)


def test_a_mark_that_was_learned_is_found() -> None:
    images, labels = small.digits()
    found = CHECKS["evidence"].run(small.patient(small.watermarked(), small.marked(images, labels), labels))
    (fault,) = [one for one in found.findings if one.fault]
    assert (fault.what, fault.where) == ("a corner gives the class away", "3, bottom right")
    assert "bottom right of all photos" in fault.change


def test_the_same_photos_with_the_mark_do_not_fool_a_network_that_did_not_learn_it() -> None:
    images, labels = small.digits()
    found = CHECKS["evidence"].run(small.patient(small.sound(), small.marked(images, labels), labels))
    assert not [one for one in found.findings if one.fault]


def test_without_labels_the_answers_stand_for_them() -> None:
    images, labels = small.digits()
    found = CHECKS["evidence"].run(small.patient(small.watermarked(), small.marked(images, labels), None))
    assert [one.where for one in found.findings if one.fault] == ["3, bottom right"]


def framed(count=10):
    """Class 1 has a white frame, which is all that its logit sees; class 0 has none."""
    images = 0.3 * torch.rand(2 * count, 1, 16, 16, generator=torch.Generator().manual_seed(0))
    images[count:, :, :2], images[count:, :, -2:], images[count:, :, :, :2], images[count:, :, :, -2:] = 1, 1, 1, 1
    return images, [0] * count + [1] * count


class Frame(nn.Module):
    """The logit of class 1 is the mean of a map that is on where the frame is."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.relu, self.head = nn.Conv2d(1, 1, 1), nn.ReLU(), nn.Linear(1, 2)
        self.conv.weight.data.fill_(1.0)
        self.conv.bias.data.fill_(-0.5)
        self.head.weight.data, self.head.bias.data = torch.tensor([[0.0], [60.0]]), torch.tensor([0.0, -4.0])

    def forward(self, x):
        return self.head(self.relu(self.conv(x)).mean((2, 3)))


def test_a_class_that_hangs_on_its_border_is_found() -> None:
    images, labels = framed()
    own = Classifier(Frame(), as_classes(["bare", "framed"]), channels=1)
    found = CHECKS["evidence"].run(Patient(own, images, [str(i) for i in range(20)], labels))
    faults = [(one.what, one.where) for one in found.findings if one.fault]
    assert faults == [("the border gives the class away", "framed")]
    remark = next(one for one in found.findings if not one.fault)
    assert remark.where.startswith("10 of ")
