"""What is drawn for a photo, where it is cropped, and how augmentation is written."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from convscope.data.augment import LIMITS, PRESETS, SLOTS, Augmentation, augmentation, uniform
from convscope.data.mixing import GOLDEN, mixed
from convscope.errors import UsageError


def keys_of(count):
    return np.arange(count, dtype=np.uint64)


# Chance


def splitmix(state):
    """The reference in C (Vigna, splitmix64.c), in whole numbers of any size."""
    z = state
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
    z = (z ^ (z >> 27)) * 0x94D049BB133111EB % 2**64
    return z ^ (z >> 31)


def test_a_step_gives_the_published_numbers_of_splitmix64():
    states = np.uint64(1234567) + np.arange(5, dtype=np.uint64) * GOLDEN
    published = [6457827717110365317, 3203168211198807973, 9817491932198370423, 4593380528125082431]
    published.append(16408922859458223821)
    assert mixed(states).tolist() == published
    assert [splitmix((int(state) + int(GOLDEN)) % 2**64) for state in states] == published


@given(st.integers(-(2**63), 2**64), st.integers(0, 10**6), st.lists(st.integers(0, 2**64 - 1), max_size=4))
def test_uniform_is_a_hash_of_seed_epoch_key_and_position(seed, epoch, keys):
    found = uniform(seed, epoch, np.array(keys, np.uint64), 5)
    assert found.shape == (len(keys), 5)
    for row, key in zip(found, keys, strict=True):
        state = 0
        for word in (seed, epoch, key):
            state = splitmix(((state ^ word % 2**64) + int(GOLDEN)) % 2**64)
        wanted = [(splitmix((state + place * int(GOLDEN)) % 2**64) >> 11) / 2**53 for place in range(1, 6)]
        assert row.tolist() == wanted


def test_uniform_looks_uniform_and_independent():
    """Of keys that count up, as indices do: flat, and uncorrelated between keys, positions, epochs and seeds."""
    first = uniform(0, 0, keys_of(20000), 8)
    assert first.min() >= 0
    assert first.max() < 1
    for place in first.T:
        counts = np.histogram(place, 20, (0, 1))[0]
        assert ((counts - 1000) ** 2 / 1000).sum() < 55  # chi squared of 19 degrees: beyond once in 40,000
    columns = [*first.T, *uniform(0, 1, keys_of(20000), 2).T, *uniform(1, 0, keys_of(20000), 2).T]
    columns += [np.roll(first[:, 0], 1)]
    between = np.corrcoef(columns) - np.eye(len(columns))
    assert np.abs(between).max() < 0.03  # four times what chance leaves


def test_more_positions_leave_the_first_as_they_are():
    assert np.array_equal(uniform(3, 4, keys_of(9), 30)[:, :7], uniform(3, 4, keys_of(9), 7))


# Cropping


def test_boxes_keep_to_their_bounds_and_fill_them():
    chosen = Augmentation(crop=0.1)
    boxes = np.array([chosen.box(key, 300, 451, (150, 150), seed=0, epoch=0) for key in range(3000)])
    assert boxes.min() >= 0
    assert (boxes.max(0) <= (300, 451, 300, 451)).all()
    rows, cols = boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1]
    shares, aspects = rows * cols / (300 * 451), cols / rows
    assert 3 / 4 - 1e-9 <= aspects.min() < 0.76
    assert 1.32 < aspects.max() <= 4 / 3 + 1e-9
    assert np.log(aspects).mean() == pytest.approx(0, abs=0.015)
    assert 0.1 <= shares.min() < 0.105
    free = (rows < 299.99) & (cols < 450.99)
    draws = uniform(0, 0, keys_of(3000), len(SLOTS))[:, SLOTS.index("crop_area")]
    assert np.allclose(shares[free], 0.1 + 0.9 * draws[free])
    assert (shares[~free] <= (0.1 + 0.9 * draws + 1e-9)[~free]).all()  # made smaller, until it fits
    assert 0.3 < free.mean() < 0.9


@given(st.integers(1, 3000), st.integers(1, 3000), st.integers(1, 600), st.integers(1, 600), st.integers(0, 2**64 - 1))
def test_boxes_lie_on_any_photo(height, width, rows, cols, key):
    top, left, bottom, right = Augmentation(crop=0.05).box(key, height, width, (rows, cols), seed=1, epoch=1)
    assert 0 <= top < bottom <= height
    assert 0 <= left < right <= width
    aspect = (right - left) / (bottom - top) / (cols / rows)
    assert 3 / 4 - 1e-6 <= aspect <= 4 / 3 + 1e-6


def test_without_a_crop_there_is_no_box():
    assert PRESETS["strong"].box(3, 40, 50, (20, 20), seed=0, epoch=0) is None


# Text


@given(st.builds(Augmentation, **{name: st.floats(0, most) for name, (_, most) in LIMITS.items()}))
def test_text_there_and_back(chosen):
    assert augmentation(str(chosen)) == chosen


@pytest.mark.parametrize("name", PRESETS)
def test_presets_there_and_back(name):
    assert augmentation(name) == PRESETS[name] == augmentation(str(PRESETS[name]))


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("flip", Augmentation(flip=0.5)),
        ("flip=1,vertical_flip", Augmentation(flip=1, vertical_flip=0.5)),
        (
            " rotation = 40, shift=.2,shear=.2,zoom=.2,flip,fill=nearest",
            Augmentation(rotation=40, shift=0.2, shear=0.2, zoom=0.2, flip=0.5),
        ),
        ("light,flip=0,fill=zeros", Augmentation(shift=0.1, zoom=0.1, fill="zeros")),
        ("none,crop=.3", Augmentation(crop=0.3)),
    ],
)
def test_what_people_write(text, wanted):
    assert augmentation(text) == wanted


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("rotaton=3", "unknown augmentation 'rotaton'; nearest: rotation"),
        ("", "unknown augmentation '' .none, light, standard"),
        ("flip,", "unknown augmentation ''"),
        ("heavy", "unknown augmentation 'heavy'"),
        ("rotation", "rotation needs a value, degrees"),
        ("fill", "fill needs a value, one of nearest, reflect, zeros"),
        ("fill=mirror", "unknown fill 'mirror'"),
        ("flip=2", "flip is a probability, from 0 to 1: got '2'"),
        ("shear=20", "shear is a tangent, from 0 to 2: got '20'"),
        ("zoom=much", "zoom is a share, from 0 to 0.9: got 'much'"),
        ("hue=nan", "hue is turns of the colour circle, from 0 to 0.5: got 'nan'"),
        ("rotation=-5", "rotation is degrees, from 0 to 180: got '-5'"),
        ("shift=", "shift is a share of the height and the width, from 0 to 1: got ''"),
        ("flip,light", "preset light stands first"),
        ("flip,flip=1", "flip is given twice"),
    ],
)
def test_what_cannot_be_meant(text, words):
    with pytest.raises(UsageError, match=words) as caught:
        augmentation(text)
    assert "\n" not in str(caught.value)


def test_a_truth_value_is_no_probability():
    with pytest.raises(UsageError, match="got True"):
        Augmentation(flip=True)


def test_whether_anything_is_on():
    on = {name: Augmentation(**{name: 0.1}) for name in LIMITS}
    assert all(chosen.active for chosen in on.values())
    assert [name for name, chosen in on.items() if not chosen.on_canvas] == ["crop"]
    assert not Augmentation(fill="zeros").active
    assert not PRESETS["none"].active
