"""Splits have exactly the counts of a derivation by hand, part nothing that belongs together and follow the seed."""

from collections import Counter
from fractions import Fraction
from hashlib import blake2b
from itertools import combinations

import numpy as np
import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st
from sklearn.datasets import load_digits

from convscope.data.listing import NONE, TEST, TRAIN, VAL
from convscope.data.quotas import apportion
from convscope.data.split import Plan, split
from convscope.errors import UsageError

KINDS = (TRAIN, VAL, TEST)
PERCENTS = [(70, 15, 15), (80, 10, 10), (80, 20, 0), (60, 0, 40), (100, 0, 0), (20, 20, 60), (34, 33, 33), (1, 1, 98)]
percents = st.sampled_from(PERCENTS)
seeds = st.integers(-(2**70), 2**70)


def asked(percent, seed=0):
    return Plan(tuple(share / 100 for share in percent), seed=seed)


def divided(labels, plan, given=None, groups=None, hashes=None, classes=None):
    labels = np.array(labels, np.int32)
    classes = classes or [f"class{i}" for i in range(max(labels, default=0) + 1)]
    given = np.full(len(labels), NONE, np.int8) if given is None else np.array(given, np.int8)
    return split(labels, classes, plan, given=given, groups=groups, hashes=hashes)


def counts(labels, of):
    found = Counter(zip(np.array(labels).tolist(), of.tolist(), strict=True))
    return [[found[label, kind] for kind in KINDS] for label in range(max(labels) + 1)]


def contents(count, seed=0):
    return np.random.default_rng(seed).integers(0, 2**63, (count, 2)).astype(np.uint64)


# --- the slow derivations, from the definitions


def quota(count, percent):
    """Largest remainders in fractions; then one for each split that has none, from the one that has most."""
    wanted = [kind for kind in KINDS if percent[kind]]
    if count < len(wanted):
        return [int(kind in wanted[:count]) for kind in KINDS]
    exact = [Fraction(count * share, sum(percent)) for share in percent]
    whole = [int(share) for share in exact]
    by_rest = sorted(KINDS, key=lambda kind: (whole[kind] - exact[kind], kind))
    for kind in by_rest[: count - sum(whole)]:
        whole[kind] += 1
    for kind in wanted:
        if not whole[kind]:
            whole[whole.index(max(whole))] -= 1
            whole[kind] += 1
    return whole


def greedy(sizes, percent):
    """Groups of one class by size, each where most is missing; an empty split first when so few groups are left."""
    room, got = quota(sum(sizes), percent), [0, 0, 0]
    empty = [kind for kind in KINDS if room[kind]]
    for done, size in enumerate(size for size in sorted(sizes, reverse=True) if size > 1):
        choice = [kind for kind in KINDS if room[kind] > 0]
        if len(sizes) - done <= len(empty):
            choice = empty[: len(sizes) - done]
        kind = max(choice, key=lambda kind: room[kind])
        room[kind] -= size
        got[kind] += size
        empty = [other for other in empty if other != kind]
    return room, got


def together(groups, hashes):
    """Sets of photos that a chain of equal groups and equal contents joins."""
    sets = [{i} for i in range(len(groups))]
    for i, j in combinations(range(len(groups)), 2):
        if (groups[i] == groups[j] >= 0 or (hashes[i] == hashes[j]).all()) and sets[i] is not sets[j]:
            sets[i] |= sets[j]
            for member in sets[j]:
                sets[member] = sets[i]
    return sets


# --- the counts


@given(st.lists(st.integers(-1, 4), max_size=80), percents, seeds)
def test_every_class_has_its_largest_remainders(labels, percent, seed):
    assume(max(labels, default=-1) >= 0)
    of = divided(labels, asked(percent, seed)).of
    assert of.dtype == np.int8
    assert counts(labels, of) == [quota(labels.count(label), percent) for label in range(max(labels) + 1)]
    assert ((of == NONE) == (np.array(labels) == -1)).all()


@pytest.mark.parametrize(
    ("count", "expected"),
    [(1, [1, 0, 0]), (2, [1, 1, 0]), (3, [1, 1, 1]), (4, [2, 1, 1]), (10, [7, 2, 1]), (20, [14, 3, 3])],
)
def test_a_small_class_reaches_train_first_then_val_then_test(count, expected):
    assert counts([0] * count, divided([0] * count, Plan()).of) == [expected]
    assert quota(count, (70, 15, 15)) == expected
    assert counts([0] * 2, divided([0] * 2, asked((60, 0, 40))).of) == [[1, 0, 1]]


@given(st.lists(st.integers(1, 9), min_size=1, max_size=12), percents, seeds)
def test_groups_of_one_class_go_where_most_is_missing(sizes, percent, seed):
    groups = np.repeat(np.arange(len(sizes)), sizes)
    of = divided([0] * sum(sizes), asked(percent, seed), groups=groups).of
    room, got = greedy(sizes, percent)
    alone = np.isin(groups, np.flatnonzero(np.array(sizes) == 1))
    found = [int((of[~alone] == kind).sum()) for kind in KINDS]
    assert found == got
    assert len(of[alone]) == sum(max(0, lack) for lack in room) - sum(max(0, -lack) for lack in room)
    if min(room) >= 0:  # what is left for single photos fits
        assert [int((of == kind).sum()) for kind in KINDS] == quota(sum(sizes), percent)
    reached = sum(bool((of == kind).any()) for kind in KINDS)
    assert reached == min(len(sizes), sum(share > 0 for share in percent))


@pytest.mark.parametrize("seed", range(4))
def test_groups_of_several_classes_keep_a_rare_class_as_near_its_shares(seed):
    rng = np.random.default_rng(seed)
    groups = np.repeat(np.arange(150), rng.integers(1, 30, 150))
    rare = rng.random(len(groups)) < (rng.random(150) ** 4)[groups] * 0.3
    assert 0.02 < rare.mean() < 0.1
    result = divided(rare, Plan(), groups=groups)
    for label in (0, 1):
        shares = np.array(counts(rare, result.of)[label]) / (rare == label).sum()
        np.testing.assert_allclose(shares, (0.7, 0.15, 0.15), atol=0.012)
    assert not result.remarks


def test_photos_of_no_group_stand_alone():
    groups = np.array([-1] * 20 + [0] * 3)
    result = divided([0] * 20 + [1] * 3, Plan(), groups=groups)
    assert (result.of[:20] == divided([0] * 20, Plan()).of).all()
    assert counts([0] * 20 + [1] * 3, result.of) == [[14, 3, 3], [3, 0, 0]]


three = st.lists(st.tuples(st.integers(0, 9), st.booleans()), min_size=3, max_size=3)


@given(st.integers(0, 30), three)
@example(2, [(5, True), (4, False), (1, True)])  # of two that have one, the one that need not gives it
def test_what_must_have_one_has_one_if_there_are_enough(total, columns):
    weights = np.array([[weight for weight, _ in columns]])
    must = np.array([[wanted for _, wanted in columns]]) & (weights > 0)
    assume(weights.any())
    (quotas,) = apportion(np.array([total]), weights, must)
    assert quotas.min() >= 0
    assert (quotas[must[0]] > 0).sum() == min(total, must.sum())
    assert quotas.sum() == total
    assert (quotas[weights[0] == 0] == 0).all()


def test_digits_are_divided_like_their_classes():
    digits = load_digits()
    hashes = np.array(
        [np.frombuffer(blake2b(image.tobytes(), digest_size=16).digest(), "<u8") for image in digits.images]
    )
    of = divided(digits.target, Plan(), hashes=hashes).of
    sizes = np.bincount(digits.target)
    for kind, share in zip(KINDS, (0.7, 0.15, 0.15), strict=True):
        assert (abs(np.bincount(digits.target[of == kind]) - share * sizes) < 1).all()


# --- what belongs together


@st.composite
def entangled(draw):
    count = draw(st.integers(1, 40))
    ranges = [(-1, 3), (-1, draw(st.integers(0, 40))), (0, draw(st.integers(0, 80)))]
    numbers = [draw(st.lists(st.integers(*ends), min_size=count, max_size=count)) for ends in ranges]
    labels, groups, same = map(np.array, numbers)
    assume(labels.max() >= 0)
    return labels, groups, contents(81)[same]


@given(entangled(), percents, seeds)
def test_no_group_is_parted_through_any_chain_of_copies(photos, percent, seed):
    labels, groups, hashes = photos
    of = divided(labels, asked(percent, seed), groups=groups, hashes=hashes).of
    assert ((of == NONE) == (labels == -1)).all()
    for members in together(groups, hashes):
        assert len({int(of[i]) for i in members} - {NONE}) <= 1


@given(entangled(), st.tuples(st.integers(1, 3), st.integers(0, 2), st.integers(0, 2)), seeds)
def test_a_subset_parts_no_group_either_and_never_exceeds_its_counts(photos, subset, seed):
    labels, groups, hashes = photos
    assume((np.bincount(labels[labels >= 0]) >= sum(subset)).all())
    of = divided(labels, Plan(subset=subset, seed=seed), groups=groups, hashes=hashes).of
    assert (np.array(counts(labels, of)) <= subset).all()
    for members in together(groups, hashes):
        assert len({int(of[i]) for i in members} - {NONE}) <= 1


@given(entangled(), percents, seeds, st.randoms(use_true_random=False))
def test_the_order_of_the_photos_does_not_matter(photos, percent, seed, random):
    labels, groups, _ = photos
    hashes = contents(len(labels), 1)
    rows = np.array(random.sample(range(len(labels)), len(labels)))
    assume((np.bincount(labels[labels >= 0]) > 0).all())
    for wish in (asked(percent, seed), Plan(subset=(1, 0, 0), seed=seed)):
        one, other = divided(labels, wish, hashes=hashes), divided(labels[rows], wish, hashes=hashes[rows])
        assert (one.of[rows] == other.of).all()
        one = divided(labels, wish, groups=groups, hashes=hashes)
        other = divided(labels[rows], wish, groups=groups[rows], hashes=hashes[rows])
        assert (one.of[rows] == other.of).all()


def test_a_long_chain_of_groups_and_copies_is_one():
    count = 3000  # photos 2i and 2i+1 share a group, 2i+1 and 2i+2 a content, in a scrambled order
    rows = np.random.default_rng(2).permutation(count)
    groups, hashes = (np.arange(count) // 2)[rows], contents(count)[(np.arange(count) + 1) // 2][rows]
    groups, hashes = np.append(groups, [-1, -1, -1]), np.vstack([hashes, contents(3, 9)])
    of = divided([0] * (count + 3), Plan(), groups=groups, hashes=hashes).of
    assert len(set(of[:count].tolist())) == 1


# --- the seed


def test_the_seed_alone_decides_and_every_photo_has_the_same_chance():
    labels, hashes = [0] * 20 + [1] * 20, contents(40)
    for given_hashes in (None, hashes):
        drawn = np.array([divided(labels, Plan(seed=seed), hashes=given_hashes).of for seed in range(600)])
        again = divided(labels, Plan(seed=17), hashes=given_hashes).of
        assert (drawn[17] == again).all()
        assert len(np.unique(drawn, axis=0)) == 600
        for kind, share in zip(KINDS, (0.7, 0.15, 0.15), strict=True):
            spread = (share * (1 - share) / 600) ** 0.5
            assert (abs((drawn == kind).mean(0) - share) < 4.5 * spread).all()


# --- a subset


@given(
    st.lists(st.integers(12, 30), min_size=1, max_size=4), st.tuples(st.integers(1, 4), *[st.integers(0, 4)] * 2), seeds
)
def test_a_subset_has_exactly_its_counts(sizes, subset, seed):
    labels = np.repeat(np.arange(len(sizes)), sizes)
    assert counts(labels, divided(labels, Plan(subset=subset, seed=seed)).of) == [list(subset)] * len(sizes)


def test_a_class_too_small_for_the_subset_is_named():
    labels = [0] * 30 + [1] * 11 + [2] * 7
    with pytest.raises(UsageError, match=r"'lynx' has 7 photos, 12 \(6/3/3\) .* \(1 more classes"):
        divided(labels, Plan(subset=(6, 3, 3)), classes=["cat", "dog", "lynx"])
    with pytest.raises(UsageError, match="'puma' has 0 photos"):
        divided(labels, Plan(subset=(1, 0, 0)), classes=["cat", "dog", "lynx", "puma"])
    own = [TRAIN] * 26 + [TEST] * 4 + [TRAIN] * 15 + [TEST] * 3
    with pytest.raises(UsageError, match="'dog' has 3 photos in the source's test, 4 "):
        divided(labels[:30] + [1] * 18, Plan(subset=(6, 3, 4)), own, classes=["cat", "dog"])
    with pytest.raises(UsageError, match="no test: ask for 0"):
        divided([0] * 30, Plan(subset=(6, 3, 3)), [TRAIN] * 20 + [VAL] * 10)


def test_a_subset_uses_a_part_of_a_large_group_and_says_what_is_short():
    groups = np.repeat([0, 1, 2], [50, 30, 20])
    result = divided([0] * 100, Plan(subset=(40, 25, 30)), groups=groups, classes=["cat"])
    assert [sorted(set(result.of[groups == group].tolist())) for group in (0, 1, 2)] == [[-1, 0], [2], [1]]
    assert counts([0] * 100, result.of) == [[40, 20, 30]]
    assert result.remarks == ("photos that stay together leave too few: class 'cat' has 20 of 25 for val",)


# --- the source's own split

GIVEN = {  # what the source has: where its photos may go, by where it puts them
    (TRAIN, VAL, TEST): {TRAIN: [TRAIN], VAL: [VAL], TEST: [TEST], NONE: []},
    (TRAIN, TEST): {TRAIN: [TRAIN, VAL], TEST: [TEST], NONE: []},
    (TRAIN, VAL): {TRAIN: [TRAIN], VAL: [VAL], NONE: []},
    (TRAIN,): {TRAIN: [TRAIN, VAL, TEST], NONE: []},
    (TEST,): {TEST: [TEST], NONE: [TRAIN, VAL]},
    (VAL,): {VAL: [VAL], NONE: [TRAIN, TEST]},
    (VAL, TEST): {VAL: [VAL], TEST: [TEST], NONE: [TRAIN]},
}


@pytest.mark.parametrize("has", GIVEN)
@given(photos=st.lists(st.tuples(st.integers(-1, 2), st.integers(0, 3)), max_size=40), percent=percents, seed=seeds)
def test_the_own_split_is_kept_and_what_it_lacks_is_taken_from_where_it_may(has, photos, percent, seed):
    kinds = (*has, NONE)
    own = [*has, NONE] + [kinds[choice % len(kinds)] for _, choice in photos]
    labels = [0] * len(kinds) + [label for label, _ in photos]
    of = divided(labels, asked(percent, seed), own).of
    for kind, allowed in GIVEN[has].items():
        rows = np.array(own) == kind
        for label in set(labels) - {-1}:
            mine = rows & (np.array(labels) == label)
            masked = [percent[other] * (other in allowed) for other in KINDS]
            if len(allowed) == 1:
                masked = [int(other in allowed) for other in KINDS]
            expected = quota(int(mine.sum()), masked) if allowed else [0, 0, 0]
            assert [int((of[mine] == other).sum()) for other in KINDS] == expected
    assert (of[np.array(labels) == -1] == NONE).all()


def test_a_subset_is_drawn_within_the_own_split():
    own = np.tile([TRAIN, TRAIN, TRAIN, TEST, NONE], 20)
    labels = np.repeat([0, 1], 50)
    of = divided(labels, Plan(subset=(12, 6, 5)), own).of
    assert counts(labels, of) == [[12, 6, 5]] * 2
    assert set(own[of == TEST]) == {TEST}
    assert set(own[(of == TRAIN) | (of == VAL)]) == {TRAIN}


def test_photos_without_a_split_follow_their_group_into_the_own_test():
    own = [TEST, TEST, NONE, NONE, NONE, NONE]
    result = divided([0] * 6, asked((80, 20, 0)), own, groups=np.array([7, 8, 7, 9, 10, 11]))
    assert result.of[:3].tolist() == [TEST] * 3
    assert sorted(result.of[3:].tolist()) == [TRAIN, TRAIN, VAL]
    assert result.remarks == (
        "test is the source's own; train and val come from the 3 photos that the source gives no split; "
        "1 photo that the source gives no split: where their group or copy is",
    )


def test_copies_in_different_own_splits_are_told_and_stay():
    hashes, own = contents(20)[[*range(10), *range(4), *range(10, 16)]], [TRAIN] * 10 + [TEST] * 10
    result = divided([0] * 20, asked((80, 20, 0)), own, hashes=hashes)
    assert (result.of[10:] == TEST).all()
    assert (result.of[:10] != TEST).all()
    assert result.remarks[1:] == ("4 photos in more than one of the source's splits (same content): nothing was moved",)
    groups = divided([0] * 20, asked((80, 20, 0)), own, groups=np.array([*range(10), *range(4), *range(10, 16)]))
    assert groups.remarks[1:] == ("4 groups in more than one of the source's splits: nothing was moved",)


@pytest.mark.parametrize(("labels", "own"), [([], []), ([-1, -1], [0, 0]), ([0, 0, -1], [VAL, TEST, TRAIN])])
def test_nothing_to_train_on_is_an_error(labels, own):
    with pytest.raises(UsageError, match="nothing to train on"):
        divided(labels, Plan(), own, classes=["cat"])


# --- what is said


def test_a_plain_split_has_nothing_to_say():
    assert divided([0] * 10 + [1] * 3, Plan(), hashes=contents(13)).remarks == ()
    assert divided([0] * 10 + [1] * 2, asked((80, 20, 0))).remarks == ()


def test_classes_that_a_split_lacks_are_named():
    names = ["cat", "lynx", "puma", *"abcdef", "none"]
    labels = [0] * 9 + [1] + [2] * 2 + [label for label in range(3, 9) for _ in range(2)] + [-1]
    assert divided(labels[:10], Plan(), classes=names[:2]).remarks == (
        "class 'lynx' has 1 photo: train has it, val and test do not",
    )
    assert divided(labels, Plan(), classes=names).remarks == (
        "1 photo without a label: not used",
        "7 classes have no photo in test: 'puma', 'a', 'b', 'c', ...",
        "class 'lynx' has 1 photo: train has it, val and test do not",
        "class 'none' has no photo in train, val and test",
    )
    result = divided([0] * 4 + [1] * 2, Plan(), [TRAIN, TRAIN, VAL, VAL, VAL, VAL], classes=names[:2])
    assert result.remarks == (
        "train and val are the source's own; there is no test",
        "class 'lynx' has 2 photos: val has them, train does not",
    )


def test_an_own_split_is_told():
    own = [TRAIN] * 10 + [TEST] * 5 + [NONE]
    assert divided([0] * 16, asked((80, 20, 0)), own).remarks == (
        "test is the source's own; train and val come from the 10 photos of the source's train; "
        "1 photo that the source gives no split: not used",
    )
    assert divided([0] * 10, Plan(), own[:10]).remarks == (
        "train, val and test come from the 10 photos of the source's train",
    )
    assert divided([0] * 3, Plan(), [TRAIN, VAL, TEST]).remarks == ("train, val and test are the source's own",)


def test_copies_that_stay_together_are_counted_and_changed_shares_told():
    hashes = contents(100)[[*range(97), 0, 0, 1]]
    result = divided([0] * 100, Plan(), hashes=hashes)
    assert result.remarks == ("3 photos with the same content as another: copies are kept together",)
    assert counts([0] * 100, result.of) == [[70, 15, 15]]
    groups = np.repeat([0, 1, 2, 3], 25)
    assert divided([0] * 100, Plan(), groups=groups).remarks == (
        "photos that stay together: train/val/test are 50/25/25 % of the photos, not 70/15/15 %",
    )
