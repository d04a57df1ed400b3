"""How sure an accuracy and a gain are: by hand, and by how often their intervals hold what they are about."""

import math

import numpy as np
import pytest
import scipy.stats

from convscope.studies.retraining.repeats import gain, measured, points, shares, spread
from convscope.training.metrics import wilson

CASES = 1500


def trainings(generator, shift, repeats, photos, *, by_run=0.0, by_photo=1.5, added=0.0):
    """Whether two networks are right, "repetitions photos" each: photos differ in how hard they are, trainings in how
    well they went. What it would come to for all photos and trainings is not asked of these."""
    hard = generator.normal(0, by_photo, photos) + np.concatenate([np.zeros(photos // 2), np.full(-(-photos // 2), 1)])
    found = []
    for more in (shift, 0.0):
        run = generator.normal(0, by_run, (repeats, 1)) if by_run else 0.0
        own = generator.normal(0, added, photos) if added else 0.0
        found.append((hard + more + run + own + generator.logistic(size=(repeats, photos)) > 0).astype(float))
    return found


@pytest.mark.parametrize(
    ("repeats", "photos", "law"),
    [
        (1, 40, {}),
        (1, 40, {"added": 1.0}),  # a photo may suit one network and not the other
        (3, 40, {"by_run": 0.7}),
        (5, 200, {"by_run": 0.3, "added": 1.0}),
        (5, 30, {"added": 2.0}),  # all from the photos, which are the same in all repetitions
    ],
)
def test_the_interval_of_a_gain_holds_it_in_95_of_100_cases(repeats, photos, law):
    generator = np.random.default_rng([repeats, photos])
    one, other = trainings(generator, 0.8, 400, 20_000, **law)
    truth = one.mean() - other.mean()
    found = [gain(*trainings(generator, 0.8, repeats, photos, **law)) for _ in range(CASES)]
    held = np.mean([own.low < truth < own.high for own in found])
    assert held > 0.93


def test_equal_answers_are_not_sure_to_be_equal():
    right = np.ones((1, 100))
    same = gain(right, right)
    assert same.mean == 0
    assert same.low == -same.high
    assert 0.01 < same.high < 0.04  # Wilson says of none of 100 at most 3.7 %
    assert gain(np.ones((5, 100)), np.ones((5, 100))) == same  # the same photos, however often
    for few in (1, 2):  # they tell next to nothing
        alone = gain(np.ones((1, few)), np.zeros((1, few)))
        assert alone.mean == 1
        assert alone.low < 0


@pytest.mark.parametrize("photos", [2, 4, 6, 10, 20])
def test_equal_networks_are_seldom_told_apart(photos):
    generator = np.random.default_rng(photos)
    pairs = (generator.random((2, CASES, 1, photos)) < 0.5).astype(float)
    found = [gain(one, other) for one, other in zip(*pairs, strict=True)]
    assert np.mean([own.low > 0 or own.high < 0 for own in found]) < 0.065


UNEQUAL = [
    ([50, 5], [1, 0.5]),
    ([50, 50, 50, 5], [0.99, 0.99, 0.99, 0.5]),
    ([200, 8], [0.98, 0.6]),
    ([5] * 6, [0.8] * 6),
]


@pytest.mark.parametrize(("counts", "accuracies"), UNEQUAL)
def test_classes_of_other_sizes_and_other_difficulty(counts, accuracies):
    """Of a large easy class and a small hard one it is the small one that is not known."""
    generator = np.random.default_rng(counts)
    labels = np.repeat(np.arange(len(counts)), counts)
    right = (generator.random((2, CASES, 1, len(labels))) < np.array(accuracies)[labels]).astype(float)
    gains = [gain(one, other, labels) for one, other in zip(*right, strict=True)]
    assert np.mean([own.low <= 0 <= own.high for own in gains]) > 0.9
    found = [spread(one, labels) for one in right[0]]
    assert np.mean([own.low <= np.mean(accuracies) <= own.high for own in found]) > 0.92


def test_a_gain_by_hand():
    one, other = np.array([[1.0, 1, 1, 0] * 5]), np.array([[1.0, 0, 0, 1] * 5])
    rest = 5 * ((0 - 0.25) ** 2 + 2 * (1 - 0.25) ** 2 + (-1 - 0.25) ** 2)
    reach = scipy.stats.t.ppf(0.975, 20) * math.sqrt((rest + 1) / 20 / 20)
    assert gain(one, other) == pytest.approx((0.25, 0.25 * 20 / 22 - reach, 0.25 * 20 / 22 + reach))


def test_trainings_that_differ_widen_it():
    generator = np.random.default_rng(1)
    other = (generator.random((4, 400)) < 0.5).astype(float)
    one = other.copy()
    one[0] = one[1] = 1
    each = (one - other).mean(1)
    found = gain(one, other)
    assert found.mean == pytest.approx(each.mean())
    assert found.high - found.low > 2 * scipy.stats.t.ppf(0.975, 3) * each.std(ddof=1) / 2


def test_classes_weigh_alike_and_photos_not_asked_about_do_not_count():
    labels = np.array([0, 0, 0, 2, 2])
    right = np.array([[1.0, 1, 0, 0, math.nan], [1, math.nan, math.nan, 1, 0]])
    assert shares(right, labels) == pytest.approx([(2 / 3 + 0) / 2, (1 + 0.5) / 2])
    assert shares(right) == pytest.approx([0.5, 2 / 3])
    zeros = np.where(np.isfinite(right), 0.0, math.nan)
    assert gain(right, zeros, labels).mean == pytest.approx(np.mean(shares(right, labels)))


def told(*counts, of=40):
    """Of so many photos as many told right in each repetition."""
    return np.array([[1.0] * count + [0.0] * (of - count) for count in counts])


def test_an_accuracy_by_hand_and_of_several_trainings_both_reaches_joined():
    right = told(30)
    reach = scipy.stats.t.ppf(0.975, 40) * math.sqrt((40 * 0.75 * 0.25 + 1) / 40 / 40)
    assert spread(right) == pytest.approx((0.75, 32 / 44 - reach, 32 / 44 + reach))
    again = scipy.stats.t.ppf(0.975, 2) * scipy.stats.sem([0.7, 0.8, 0.75])
    several = told(28, 32, 30)
    rest = sum((share - 0.75) ** 2 for share in several.mean(0))
    both = math.hypot(scipy.stats.t.ppf(0.975, 40) * math.sqrt((rest + 1) / 40 / 40), again)
    assert spread(several) == pytest.approx((0.75, 32 / 44 - both, 32 / 44 + both))


def test_all_right_is_not_sure_to_be_right_always():
    found, of = spread(told(40, 40)), wilson(40, 40)
    assert found.high == found.mean == 1
    assert found.low == pytest.approx(of.low, abs=0.02)


def test_it_is_near_wilsons_where_photos_are_many():
    found, of = spread(told(300, of=400)), wilson(300, 400)
    assert found == pytest.approx((0.75, of.low, of.high), abs=0.002)


def test_how_many_were_asked_about():
    assert measured(np.array([[1, math.nan, math.nan], [math.nan, 0, math.nan]])) == 2


def test_in_words():
    assert points(gain(np.ones((1, 400)), np.zeros((1, 400)))).startswith("+100.0 points (+9")
