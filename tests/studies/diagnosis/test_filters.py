"""First-layer filters whose energy, spectrum and likeness to noise are known."""

import math

import pytest
import torch
from torch import nn

from convscope.models.classifier import Classifier
from convscope.studies.diagnosis import CHECKS
from convscope.studies.diagnosis.filters import bands, concentration, dominance
from convscope.studies.diagnosis.first import First, first_layer
from convscope.studies.diagnosis.patient import Patient


def layer(filters, gain=None):
    ones = torch.ones(len(filters), dtype=torch.float64)
    return First("conv", filters, ones if gain is None else torch.tensor(gain, dtype=torch.float64), (1, 1))


def network(filters, *between):
    conv = nn.Conv2d(filters.shape[1], len(filters), tuple(filters.shape[2:]), bias=False).double()
    conv.weight.data = filters.clone()
    rest = [nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(len(filters), 2).double()]
    return Classifier(nn.Sequential(conv, *between, *rest), channels=filters.shape[1]).eval()


def judged(filters, *between):
    images = torch.rand(2, filters.shape[1], 20, 24, dtype=torch.float64)
    return CHECKS["filters"].run(Patient(network(filters, *between), images, ["a", "b"]))


def waves(count=16, side=7, channels=3, frequency=1 / 7):
    """Cosines of one frequency, each with its direction: what a sound first layer has."""
    at = torch.arange(side, dtype=torch.float64)
    found = []
    for number in range(count):
        across, down = ((frequency, 0.0), (0.0, frequency))[number % 2]
        wave = torch.cos(2 * math.pi * (down * at[:, None] + across * at) + number)
        found.append(torch.stack([wave * (1 + 0.2 * channel) for channel in range(channels)]))
    return torch.stack(found)


def noise(count=64, side=7, channels=3):
    return torch.randn(count, channels, side, side, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def test_dominance_by_hand() -> None:
    filters = torch.ones(32, 1, 2, 2, dtype=torch.float64)
    filters[5] *= 4  # energy 16, and 1 of each other: the strongest two of 32 have 17 of 47
    share, strongest = dominance(layer(filters))
    assert share == pytest.approx(17 / 47, rel=1e-12)
    assert strongest[0] == 5


def test_the_gain_of_batch_norm_counts() -> None:
    norm = nn.BatchNorm2d(16, eps=0.0).double().eval()
    norm.weight.data[3], norm.running_var.data[3] = -6.0, 4.0
    own = network(waves(), norm)
    first = first_layer(Patient(own, torch.rand(1, 3, 20, 24, dtype=torch.float64), ["a"]))
    assert first is not None
    assert first.gain.tolist() == [3.0 if unit == 3 else 1.0 for unit in range(16)]
    torch.testing.assert_close(first.rms, waves().square().mean((1, 2, 3)).sqrt() * first.gain)


def test_a_pattern_is_in_one_frequency_and_noise_in_all() -> None:
    torch.testing.assert_close(concentration(waves(4)), torch.ones(4, dtype=torch.float64))
    one = noise(1, 4, 2)  # slowly: every pair of frequencies that are each other's mirror image, and those alone
    power = torch.fft.fft2(one[0]).abs().square().sum(0)
    pairs = [
        power[r, c] if (r, c) == (-r % 4, -c % 4) else power[r, c] + power[-r % 4, -c % 4]
        for r in range(4)
        for c in range(4)
    ]
    assert float(concentration(one)[0]) == pytest.approx(float(max(pairs) / power.sum()), rel=1e-12)


def test_bands_by_hand() -> None:
    at = torch.arange(8, dtype=torch.float64)
    flat = torch.ones(8, 8, dtype=torch.float64)
    board = (-1.0) ** (at[:, None] + at)
    middle = torch.cos(2 * math.pi * 2 / 8 * at).expand(8, 8)  # 1/4 cycle a pixel
    found = bands(torch.stack([flat, middle, board, flat + board])[:, None])
    wanted = torch.tensor([[1, 0, 0], [0, 1, 0], [0, 0, 1], [0.5, 0, 0.5]], dtype=torch.float64)
    torch.testing.assert_close(found, wanted, atol=1e-12, rtol=0)


def faults(checkup):
    return [one.what for one in checkup.findings if one.fault]


def test_sound_filters_are_sound() -> None:
    assert faults(judged(waves())) == []


def test_each_fault_alone() -> None:
    strong = waves()
    strong[4] *= 20
    assert faults(judged(strong)) == ["dominated first layer"]
    assert faults(judged(noise())) == ["noise for filters"]
    assert faults(judged(waves(frequency=0.0))) == ["all of low frequency"]
    assert faults(judged(waves(frequency=3 / 7))) == ["all of high frequency"]
    mixed = torch.cat([waves(8, frequency=0.0), waves(8, frequency=3 / 7)])
    assert faults(judged(mixed)) == ["no middle frequencies"]


def test_a_dominated_layer_is_sound_where_batch_norm_takes_the_scale_off() -> None:
    strong = waves()
    strong[4] *= 20
    norm = nn.BatchNorm2d(16).double().eval()
    norm.running_var.data[4] = 400.0
    assert faults(judged(strong, norm)) == []


def test_what_cannot_be_told_is_said() -> None:
    found = judged(noise(4, 3, 1))
    assert faults(found) == []
    assert any("4 are too few" in note for note in found.notes)
    assert any("9 numbers (1x3x3)" in note for note in found.notes)


def test_no_first_convolution() -> None:
    own = Classifier(nn.Sequential(nn.Flatten(), nn.Linear(12, 2)), channels=3)
    found = CHECKS["filters"].run(Patient(own, torch.rand(1, 3, 2, 2), ["a"]))
    assert not found.seen
    assert "sees the pixels" in found.notes[0]
