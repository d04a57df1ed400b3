"""How alike two maps are: by force, and as scipy and scikit-image say it."""

import itertools
import sys

import numpy as np
import pytest
import scipy.stats
from skimage.feature import hog as their_hog
from skimage.metrics import structural_similarity

from convscope.errors import UsageError
from convscope.studies.likeness import (
    Sight,
    hog,
    needs_scikit_image,
    pearson,
    rank_correlation,
    ranks,
    ssim,
    standard_ranks,
    stretched,
)

TIED = np.array([[0.0, 0.0, 3.0], [1.0, 0.0, 3.0]])


def test_ranks_of_equal_values_are_the_mean_of_theirs():
    """By force: a value's rank is one more than how many are smaller, and half of the others that equal it."""
    by_force = [1 + sum(o < v for o in TIED.flat) + (sum(o == v for o in TIED.flat) - 1) / 2 for v in TIED.flat]
    assert by_force == [2, 2, 5.5, 4, 2, 5.5]
    assert ranks(TIED).ravel().tolist() == by_force


def test_ranks_hold_where_most_of_a_large_map_is_equal():
    """32-bit sums of ranks overflow from 65,536 equal values on."""
    large = np.zeros((300, 300))
    large[0, :10] = np.arange(1, 11)
    assert np.array_equal(ranks(large), scipy.stats.rankdata(large).reshape(large.shape))
    assert ranks(large)[5, 5] == (300 * 300 - 10 + 1) / 2


def test_the_rank_correlation_with_ties_is_spearmans():
    generator = np.random.default_rng(0)
    for _ in range(5):
        one, other = generator.integers(0, 6, (2, 7, 9)).astype(float)
        found = rank_correlation(standard_ranks(one), standard_ranks(other))
        assert found == pytest.approx(scipy.stats.spearmanr(one.ravel(), other.ravel()).statistic, abs=1e-12)
    up = np.arange(12.0).reshape(3, 4)
    assert rank_correlation(standard_ranks(up), standard_ranks(np.exp(up))) == pytest.approx(1)
    assert rank_correlation(standard_ranks(up), standard_ranks(-up)) == pytest.approx(-1)


def test_the_correlation_of_few_values_by_hand():
    """Without ties it is 1 - 6 sum d^2 / (n (n^2 - 1))."""
    one = np.array([[3.0, 1.0], [2.0, 4.0]])
    for order in itertools.permutations([1.0, 2.0, 3.0, 4.0]):
        other = np.array(order).reshape(2, 2)
        by_hand = 1 - 6 * ((one - other) ** 2).sum() / (4 * 15)
        assert rank_correlation(standard_ranks(one), standard_ranks(other)) == pytest.approx(by_hand, abs=1e-12)


def test_a_map_that_is_the_same_everywhere_or_not_finite_has_no_likeness():
    flat, broken, other = np.ones((16, 16)), np.full((16, 16), np.nan), np.arange(256.0).reshape(16, 16)
    assert standard_ranks(flat) is None
    assert standard_ranks(broken) is None
    assert stretched(flat) is None
    assert stretched(broken) is None
    for bad in (flat, broken):
        found = Sight.of(bad, bad, 2).like(Sight.of(other, other, 2))
        assert np.isnan(found).all()
    assert np.isnan(Sight.of(other, None, 2).like(Sight.of(other, None, 2))[1])


def test_a_picture_goes_from_the_least_value_to_the_99th_percentile():
    map = np.arange(1.0, 102.0).reshape(1, 101)  # 99 % do not exceed the 100th value
    found = stretched(map)
    assert found.min() == 0
    assert found[0, 50] == pytest.approx(50 / 99)
    assert found[0, 99] == found[0, 100] == 1
    spot = np.zeros((20, 20))
    spot[3, 4] = 5  # less than one per cent of the map
    assert stretched(spot)[3, 4] == 1
    assert stretched(spot).sum() == 1


def test_ssim_and_hog_are_scikit_images_of_the_stretched_magnitudes():
    generator = np.random.default_rng(1)
    one, other = generator.normal(size=(2, 33, 40))

    def picture(map):
        magnitude = np.abs(map)
        low, high = magnitude.min(), np.percentile(magnitude, 99)
        return np.clip((magnitude - low) / (high - low), 0, 1)

    a, b = picture(one), picture(other)
    rank, signed, structure, oriented = Sight.of(one, one, 4).like(Sight.of(other, other, 4))
    assert rank == pytest.approx(scipy.stats.spearmanr(np.abs(one).ravel(), np.abs(other).ravel()).statistic)
    assert signed == pytest.approx(scipy.stats.spearmanr(one.ravel(), other.ravel()).statistic)
    assert structure == pytest.approx(
        structural_similarity(a, b, data_range=1, gaussian_weights=True, use_sample_covariance=False)
    )
    features = [their_hog(p, pixels_per_cell=(4, 4)) for p in (a, b)]  # 9 orientations, blocks of 3x3, L2-Hys
    assert oriented == pytest.approx(scipy.stats.pearsonr(*features).statistic)


def test_ssim_by_force():
    """One Gaussian window of 11 pixels at the middle of maps of 11x11, sigma 1.5."""
    one, other = np.random.default_rng(2).random((2, 11, 11))
    at = np.arange(11) - 5
    weight = np.exp(-(at[:, None] ** 2 + at**2) / (2 * 1.5**2))
    weight /= weight.sum()
    mean1, mean2 = (weight * one).sum(), (weight * other).sum()
    var1, var2 = (weight * one**2).sum() - mean1**2, (weight * other**2).sum() - mean2**2
    both = (weight * one * other).sum() - mean1 * mean2
    c1, c2 = 0.01**2, 0.03**2
    by_hand = ((2 * mean1 * mean2 + c1) * (2 * both + c2)) / ((mean1**2 + mean2**2 + c1) * (var1 + var2 + c2))
    assert ssim(one, other) == pytest.approx(by_hand)


def test_what_is_too_small_for_a_window_or_a_block_has_no_figure():
    small = np.random.default_rng(0).random((10, 30))
    assert np.isnan(ssim(small, small))
    assert hog(small, 4) is None
    assert hog(small, 3) is not None
    assert np.isnan(pearson(None, small.ravel()))
    assert np.isnan(pearson(np.zeros(5), np.arange(5.0)))


def test_without_scikit_image_one_line_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "skimage.feature", None)
    with pytest.raises(UsageError, match=r"^sanity needs scikit-image: pip install 'convscope\[studies\]'$"):
        needs_scikit_image("sanity")
