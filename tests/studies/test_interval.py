"""Intervals over photos: as scipy says it, by force, and by how often they hold what they are about."""

import math

import numpy as np
import pytest
import scipy.stats

from convscope.studies.interval import FEWEST, Estimate, estimate, estimate_pairs, estimate_share

CASES = 4000  # of a coverage: it is known to 0.4 %


def test_it_is_students():
    values = np.random.default_rng(5).normal(3, 2, 7)
    half = scipy.stats.sem(values)
    low, high = scipy.stats.t.interval(0.95, len(values) - 1, values.mean(), half)
    assert estimate(values) == pytest.approx((values.mean(), low, high, 7))


@pytest.mark.parametrize("count", [3, 5, 10])
def test_of_few_normal_values_it_holds_the_mean_in_95_of_100_cases(count):
    cases = np.random.default_rng(count).normal(size=(CASES, count))
    found = [estimate(values) for values in cases]
    assert np.mean([one.low < 0 < one.high for one in found]) == pytest.approx(0.95, abs=0.012)


def test_of_few_values_between_0_and_1_hardly_less():
    generator = np.random.default_rng(2)
    for law, mean in ((generator.uniform(size=(CASES, 5)), 0.5), (generator.beta(2, 5, (CASES, 5)), 2 / 7)):
        found = [estimate(values, (0, 1)) for values in law]
        assert np.mean([one.low < mean < one.high for one in found]) > 0.92


def test_what_is_not_finite_is_left_out():
    assert estimate([1.0, math.nan, 3.0, math.inf]) == estimate([1.0, 3.0])
    assert math.isnan(estimate([math.nan]).mean)
    assert estimate([]).photos == 0


def test_one_has_no_interval_and_equal_ones_one_of_no_width():
    assert estimate([1.0]) == (1.0, None, None, 1)
    assert estimate([2.0] * 5) == (2.0, 2.0, 2.0, 5)


def test_it_ends_where_the_values_do():
    assert estimate([0.0, 1.0, 1.0], (0, 1))[1:3] == (0, 1)
    assert estimate([0.0, 1.0, 1.0]).high > 1


def test_a_share_is_wilsons():
    assert estimate_share([1, 1, 1, 0, math.nan])[:3] == pytest.approx((0.75, 0.3006, 0.9544), abs=1e-4)
    assert 0.5 < estimate_share([1.0] * 6).low < 1
    assert estimate_share([]).photos == 0


def test_a_verdict_takes_six_photos_and_an_interval_on_one_side():
    assert Estimate(1.0, 0.5, 1.5, FEWEST).side() == 1
    assert Estimate(1.0, 0.5, 1.5, FEWEST).side(2) == -1
    assert Estimate(1.0, -0.5, 2.5, FEWEST).side() == 0
    assert Estimate(1.0, 0.5, 1.5, FEWEST - 1).side() is None
    assert Estimate(1.0, None, None, FEWEST).side() is None


def test_fewer_all_on_one_side_are_nothing_strange():
    """Of photos that lie on either side as a coin falls, all are on one side in so many cases."""
    assert 2 * 0.5 ** (FEWEST - 1) > 0.05 > 2 * 0.5**FEWEST


def pairs(distances, rows):
    """The mean over pairs of different photos among the rows."""
    found = [distances[i, j] for a, i in enumerate(rows) for b, j in enumerate(rows) if a < b]
    found = [value for value in found if not math.isnan(value)]
    return np.mean(found)


def test_pairs_are_the_jackknife_over_photos_and_what_pairs_have_of_their_own_by_force():
    half = np.random.default_rng(0).random((6, 6))
    distances = half + half.T
    distances[1, 4] = distances[4, 1] = np.nan
    without = [pairs(distances, [row for row in range(6) if row != left]) for left in range(6)]
    jackknife = 5 / 6 * sum((value - np.mean(without)) ** 2 for value in without)
    mean = pairs(distances, range(6))
    own = [5 / 4 * (np.nanmean([distances[i, j] for j in range(6) if j != i]) - mean) for i in range(6)]
    left = [distances[i, j] - mean - own[i] - own[j] for i in range(6) for j in range(i) if {i, j} != {1, 4}]
    second = sum(value**2 for value in left) / (14 - 6) / 14
    reach = scipy.stats.t.ppf(0.975, 5) * math.sqrt(jackknife + second)
    assert estimate_pairs(distances) == pytest.approx((mean, mean - reach, mean + reach, 6))


@pytest.mark.parametrize("count", [5, 10])
def test_of_few_photos_pairs_hold_their_mean_in_95_of_100_cases(count):
    """Distances that are half of each photo's own: 1 in the mean."""
    generator = np.random.default_rng(count)
    held = 0
    for _ in range(CASES):
        own, noise = generator.normal(0.5, 0.3, count), generator.normal(0, 0.1, (count, count))
        found = estimate_pairs(own[:, None] + own[None] + np.triu(noise, 1) + np.triu(noise, 1).T)
        held += found.low < 1 < found.high
    assert 0.935 < held / CASES < 0.975


@pytest.mark.parametrize("count", [6, 12, 40])
def test_photos_of_two_kinds_are_no_reason_to_be_sure(count):
    """Alike within a kind and not between: half of all pairs, whichever kinds these photos happen to be of."""
    generator = np.random.default_rng(count)
    held = 0
    for _ in range(600):
        kinds = generator.integers(0, 2, count)
        noise = generator.normal(0, 0.02, (count, count))
        found = estimate_pairs((kinds[:, None] != kinds) + (noise + noise.T) / 2)
        held += found.low < 0.5 < found.high
    assert held / 600 > 0.94


def test_pairs_without_a_distance_are_left_out():
    distances = np.array([[0, 0.2, np.nan, 0.4], [0.2, 0, 0.6, 0.8], [np.nan, 0.6, 0, 1], [0.4, 0.8, 1, 0]])
    found = estimate_pairs(distances)
    assert found.mean == pytest.approx(np.mean([0.2, 0.4, 0.6, 0.8, 1]))
    assert found.low < found.mean < found.high
    assert math.isnan(estimate_pairs(np.full((4, 4), np.nan)).mean)
    alone = np.full((5, 5), np.nan)
    alone[:4, :4] = distances
    assert estimate_pairs(alone) == pytest.approx(found)  # a photo without any pair is none


def test_pairs_of_few():
    assert estimate_pairs(np.array([[0.0, 0.25], [0.25, 0.0]])) == (0.25, None, None, 2)
    assert math.isnan(estimate_pairs(np.zeros((1, 1))).mean)
    assert estimate_pairs(np.ones((5, 5))) == (1.0, 1.0, 1.0, 5)  # the diagonal does not count
    star = np.full((4, 4), np.nan)
    star[0, 1:] = star[1:, 0] = 1, 2, 3
    assert estimate_pairs(star) == (2.0, None, None, 4)  # without the first there is no pair
