"""How sure an accuracy and a gain are: by hand, and by how often their intervals hold what they are about."""

import math

import numpy as np
import pytest
import scipy.stats

from convscope.studies.retraining.repeats import effective, gain, points, shares, spread
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
    assert gain(np.ones((1, 1)), np.zeros((1, 1)))[0] == 1  # a single photo tells next to nothing
    assert gain(np.ones((1, 1)), np.zeros((1, 1))).low < 0


def test_a_gain_by_hand():
    one, other = np.array([[1.0, 1, 1, 0]]), np.array([[1.0, 0, 0, 1]])
    error = math.sqrt(((0 - 0.25) ** 2 + 2 * (1 - 0.25) ** 2 + (-1 - 0.25) ** 2 + 1) / 5 / 6)
    reach = scipy.stats.t.ppf(0.975, 5) * error
    assert gain(one, other) == pytest.approx((0.25, 0.25 - reach, min(1, 0.25 + reach)))


def test_trainings_that_differ_widen_it():
    generator = np.random.default_rng(1)
    other = (generator.random((4, 400)) < 0.5).astype(float)
    one = other.copy()
    one[0] = one[1] = 1
    each = (one - other).mean(1)
    found = gain(one, other)
    assert found.mean == pytest.approx(each.mean())
    assert found.high - found.mean > scipy.stats.t.ppf(0.975, 3) * each.std(ddof=1) / 2


def test_classes_weigh_alike_and_photos_not_asked_about_do_not_count():
    labels = np.array([0, 0, 0, 2, 2])
    right = np.array([[1.0, 1, 0, 0, math.nan], [1, math.nan, math.nan, 1, 0]])
    assert shares(right, labels) == pytest.approx([(2 / 3 + 0) / 2, (1 + 0.5) / 2])
    assert shares(right) == pytest.approx([0.5, 2 / 3])
    zeros = np.where(np.isfinite(right), 0.0, math.nan)
    assert gain(right, zeros, labels).mean == pytest.approx(np.mean(shares(right, labels)))


def test_an_accuracy_of_one_training_is_wilsons_and_of_several_both_reaches_are_joined():
    of = wilson(30, 40)
    assert spread([0.75], 40) == pytest.approx((0.75, of.low, of.high))
    values = [0.7, 0.8, 0.75]
    again = scipy.stats.t.ppf(0.975, 2) * scipy.stats.sem(values)
    found = spread(values, 40)
    assert found.low == pytest.approx(0.75 - math.hypot(0.75 - of.low, again))
    assert found.high == pytest.approx(0.75 + math.hypot(of.high - 0.75, again))
    assert spread([1.0, 1.0], 10).high == 1
    assert spread([1.0, 1.0], 10).low == pytest.approx(wilson(10, 10).low)


def test_of_classes_as_many_photos_as_leave_it_as_uncertain():
    assert effective([10, 10, 0]) == pytest.approx(20)
    assert effective([1, 100]) == pytest.approx(4 / 1.01)


def test_in_words():
    assert points(gain(np.ones((1, 400)), np.zeros((1, 400)))).startswith("+100.0 points (+9")
