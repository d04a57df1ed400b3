"""Intervals over photos: against slow resampling, and against what theory says of many."""

import math

import numpy as np
import pytest

from convscope.studies.interval import RESAMPLES, estimate, estimate_pairs


def test_of_many_values_it_is_what_the_normal_law_says():
    values = np.random.default_rng(5).normal(3, 2, 4000)
    found = estimate(values)
    half = 1.96 * values.std() / math.sqrt(len(values))
    assert found.mean == pytest.approx(values.mean())
    assert found.low == pytest.approx(values.mean() - half, abs=0.1 * half)
    assert found.high == pytest.approx(values.mean() + half, abs=0.1 * half)


def test_it_is_the_quantiles_of_resampled_means():
    values = [0.0, 1.0, 5.0, 2.0]
    generator = np.random.default_rng(3)
    means = sorted(np.mean([values[i] for i in generator.integers(0, 4, 4)]) for _ in range(RESAMPLES))
    found = estimate(values, seed=3)
    assert found.low == pytest.approx(means[round(0.025 * RESAMPLES)], abs=0.3)
    assert found.high == pytest.approx(means[round(0.975 * RESAMPLES)], abs=0.3)
    assert estimate(values, seed=3) == found
    assert found.photos == 4


def test_what_is_not_finite_is_left_out():
    assert estimate([1.0, math.nan, 3.0, math.inf]) == (2.0, None, None, 2)
    assert math.isnan(estimate([math.nan]).mean)
    assert estimate([]).photos == 0


def test_few_have_no_interval_and_equal_ones_one_of_no_width():
    assert estimate([1.0, 2.0])[1:3] == (None, None)
    assert estimate([2.0] * 5) == (2.0, 2.0, 2.0, 5)


def pairs(distances, rows):
    """The mean over pairs of different photos among the rows."""
    found = [distances[i, j] for a, i in enumerate(rows) for b, j in enumerate(rows) if a < b and i != j]
    return np.mean(found) if found else math.nan


def test_pairs_by_brute_force():
    half = np.random.default_rng(0).random((6, 6))
    distances = half + half.T
    found = estimate_pairs(distances, seed=2)
    assert found.mean == pytest.approx(pairs(distances, range(6)))
    counts = np.random.default_rng(2).multinomial(6, np.full(6, 1 / 6), RESAMPLES)
    means = [pairs(distances, np.repeat(np.arange(6), row)) for row in counts]
    means = [mean for mean in means if not math.isnan(mean)]
    assert (found.low, found.high) == pytest.approx(tuple(np.quantile(means, [0.025, 0.975])))


def test_pairs_without_a_distance_are_left_out():
    distances = np.array([[0, 0.2, np.nan, 0.4], [0.2, 0, 0.6, 0.8], [np.nan, 0.6, 0, 1], [0.4, 0.8, 1, 0]])
    found = estimate_pairs(distances)
    assert found.mean == pytest.approx(np.mean([0.2, 0.4, 0.6, 0.8, 1]))
    assert found.low < found.mean < found.high
    assert math.isnan(estimate_pairs(np.full((4, 4), np.nan)).mean)


def test_pairs_of_few():
    assert estimate_pairs(np.array([[0.0, 0.25], [0.25, 0.0]])) == (0.25, None, None, 2)
    assert math.isnan(estimate_pairs(np.zeros((1, 1))).mean)
    assert estimate_pairs(np.ones((5, 5))) == (1.0, 1.0, 1.0, 5)  # the diagonal does not count
