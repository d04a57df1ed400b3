"""What a stride folds, against a sum over frequencies one by one, and on first layers of known kinds."""

import cmath

import pytest
import torch
from torch import nn

from convscope.models.classifier import Classifier
from convscope.studies.diagnosis import CHECKS
from convscope.studies.diagnosis.aliasing import folded, folded_of
from convscope.studies.diagnosis.first import First
from convscope.studies.diagnosis.patient import Patient
from tests.studies.diagnosis import small


def slowly(one, stride, grid):
    """The share that is folded, frequency by frequency."""
    total = beyond = 0.0
    for r in range(grid):
        for c in range(grid):
            down, across = (k / grid if k <= grid // 2 else k / grid - 1 for k in (r, c))
            if (r, c) == (0, 0):
                continue
            power = 0.0
            for channel in one:
                value = sum(
                    float(channel[i, j]) * cmath.exp(-2j * cmath.pi * (down * i + across * j))
                    for i in range(channel.shape[0])
                    for j in range(channel.shape[1])
                )
                power += abs(value) ** 2 / (down**2 + across**2)
            total += power
            beyond += power * (abs(down) >= 0.5 / stride[0] or abs(across) >= 0.5 / stride[1])
    return beyond / total


@pytest.mark.parametrize("stride", [(2, 2), (4, 4), (4, 2)])
def test_folded_against_a_slow_sum(stride: tuple[int, int]) -> None:
    filters = torch.randn(2, 2, 3, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found = folded(filters, stride, grid=12)
    assert found.tolist() == pytest.approx([slowly(one, stride, 12) for one in filters], rel=1e-9)


def judged(conv, images):
    rest = [nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(conv.out_channels, 2)]
    own = Classifier(nn.Sequential(conv, *rest), channels=conv.in_channels)
    return CHECKS["aliasing"].run(Patient(own, images, [str(i) for i in range(len(images))]))


@pytest.mark.parametrize(
    ("kernel", "stride", "fault"), [(11, 4, True), (7, 2, False), (3, 2, False), (5, 2, False), (3, 1, False)]
)
def test_first_layers_of_known_kinds(kernel: int, stride: int, fault: bool) -> None:
    """AlexNet's is found; ZFNet's and ResNet's, MobileNet's and VGG's are not."""
    torch.manual_seed(0)
    smooth = torch.nn.functional.interpolate(torch.rand(3, 3, 6, 7), (96, 112), mode="bicubic").clamp(0, 1)
    found = judged(nn.Conv2d(3, 64, kernel, stride, kernel // 2), smooth)
    assert [one.fault for one in found.findings] == ([True] if fault else [])


def test_small_photos_with_detail() -> None:
    """Filters that learned to pass low frequencies do not help where digits are four samples wide."""
    own, (images, labels) = small.strided(), small.digits()
    found = CHECKS["aliasing"].run(small.patient(own, images, labels))
    assert [one.fault for one in found.findings] == [True]
    natural, these = (one.number for one in found.measures)
    assert natural < 0.25 < these


def test_a_wave_beyond_what_the_stride_holds_is_folded_on_the_photos() -> None:
    at = torch.arange(64, dtype=torch.float64)
    fine, coarse = (0.5 + 0.4 * torch.cos(2 * torch.pi * f * at).expand(1, 1, 64, 64) for f in (3 / 16, 1 / 16))
    unit = torch.zeros(1, 1, 3, 3, dtype=torch.float64)
    unit[0, 0, 1, 1] = 1
    first = First("conv", unit, torch.ones(1, dtype=torch.float64), (4, 4))  # holds less than 1/8
    own = Classifier(nn.Sequential(nn.Flatten(), nn.Linear(64 * 64, 2)), channels=1)
    shares = [float(folded_of(Patient(own, images, ["a"]), first)) for images in (fine, coarse)]
    assert shares[0] > 0.99
    assert shares[1] < 0.01


def test_a_low_pass_with_a_stride_of_four_is_a_remark() -> None:
    conv = nn.Conv2d(1, 4, 11, 4, 5, bias=False)
    conv.weight.data[:] = torch.outer(torch.hann_window(11, False), torch.hann_window(11, False))
    found = judged(conv, torch.nn.functional.interpolate(torch.rand(2, 1, 3, 3), (128, 128), mode="bicubic"))
    assert [one.fault for one in found.findings] == [False]


def test_patches_are_left_out() -> None:
    found = judged(nn.Conv2d(3, 4, 4, 4), torch.rand(1, 3, 32, 32))
    assert not found.findings
    assert "do not overlap" in found.notes[0]
