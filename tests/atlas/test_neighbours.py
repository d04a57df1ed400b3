"""Correlations of units, against numpy's and by hand; duplicates."""

import numpy as np
import pytest
import torch

from convscope.atlas import neighbours as module
from convscope.atlas.neighbours import duplicates, neighbours


def maxima(images=40, units=12, seed=0):
    return torch.randn(images, units, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).relu()


@pytest.mark.parametrize("part", [5, 512])
@pytest.mark.parametrize("nearest", [1, 4, 11, 20])
def test_the_nearest_are_numpys_most_correlated(monkeypatch, part, nearest):
    monkeypatch.setattr(module, "PART", part)
    values = maxima()
    others, correlations = neighbours(values, nearest)
    wanted = np.corrcoef(values.numpy().T)
    for unit in range(12):
        ranked = sorted((-wanted[unit, other], other) for other in range(12) if other != unit)[:nearest]
        assert others[unit, : len(ranked)].tolist() == [other for _, other in ranked]
        assert np.allclose(correlations[unit, : len(ranked)], [-value for value, _ in ranked], atol=1e-12)
    assert (others[:, 11:] == -1).all()
    assert correlations[:, 11:].isnan().all()


def test_units_that_never_change_and_images_that_were_not_seen_have_no_part():
    values = maxima()
    values[:, 3], values[:, 7] = 0, 0.1
    others, correlations = neighbours(values)
    assert (others[[3, 7]] == -1).all()
    assert correlations[[3, 7]].isnan().all()
    assert not {3, 7} & set(others.flatten().tolist())
    holed = torch.cat([values[:9], torch.full((2, 12), torch.nan, dtype=torch.float64), values[9:]])
    assert all(torch.equal(*pair) for pair in zip(neighbours(holed)[:1], (others,), strict=True))
    assert (neighbours(values[:1])[0] == -1).all()


def test_large_means_do_not_hide_what_changes():
    values = maxima() + 1e6
    assert torch.equal(neighbours(values)[0], neighbours(maxima())[0])


def test_units_that_are_the_same_up_to_scale_are_duplicates_of_the_first():
    values = maxima()
    values[:, 5] = values[:, 2] * 3 + 1
    values[:, 9] = values[:, 2] / 2
    values[:, 10] = -values[:, 4]  # the opposite is not the same
    values[:, 0] = values[:, 0] + 1e-2 * maxima(seed=1)[:, 0]
    assert duplicates(values).tolist() == [-1, -1, -1, -1, -1, 2, -1, -1, -1, 2, -1, -1]


def test_more_of_the_same_than_there_are_neighbours():
    values = maxima(units=1).expand(-1, 20) * torch.arange(1, 21)
    assert duplicates(values).tolist() == [-1, *[0] * 19]


def test_of_few_images_nothing_is_said_to_be_the_same():
    assert duplicates(maxima(images=2)).tolist() == [-1] * 12
