"""Augmented photos are what slow loops and torchvision make of them, whatever else is in their batch."""

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from skimage import data
from torchvision.transforms.v2 import functional as TF

from convscope.data import augment
from convscope.data.augment import LIMITS, PRESETS, SLOTS, Augmentation, augmentation, uniform

CAT = Image.fromarray(data.chelsea())
FULL = Augmentation(0.5, 0.5, 60, 0.3, 0.3, 0.4, "reflect", 0.5, 0.5, 0.5, 0.3, 0.5)


def photos(count, height, width, channels=3):
    """Different parts of a photo, uint8 "b c h w"."""
    parts = [CAT.crop((7 * i, 5 * i, 250 + 7 * i, 220 + 5 * i)).resize((width, height)) for i in range(count)]
    arrays = [np.asarray(part.convert("L" if channels == 1 else "RGB")).reshape(height, width, -1) for part in parts]
    return torch.from_numpy(np.stack(arrays)).permute(0, 3, 1, 2).contiguous()


def keys_of(count, start=0):
    return np.arange(start, start + count, dtype=np.uint64)


def drawn(keys, seed, epoch):
    return [dict(zip(SLOTS, row, strict=True)) for row in uniform(seed, epoch, keys, len(SLOTS))]


@pytest.fixture
def pin(monkeypatch):
    """Sets what is drawn: a half (which moves nothing) but where told otherwise."""

    def pinned(**values):
        row = np.array([values.get(slot, 0.5) for slot in SLOTS])
        assert not values.keys() - set(SLOTS)
        monkeypatch.setattr(augment, "uniform", lambda seed, epoch, keys, count: np.tile(row, (len(keys), 1)))

    return pinned


# Movement, by loops over pixels


def inverse(augmentation, draw, height, width):
    """3x3, canvas -> photo, of (row, col, 1) from the centre: the forward steps multiplied out, then inverted."""

    def step(*rows):
        return np.array([*rows, (0, 0, 1)], float)

    def around(name, slot=None):
        return getattr(augmentation, name) * (2 * draw[slot or name] - 1)

    angle = math.radians(around("rotation"))
    mirror = step(
        (-1 if draw["vertical_flip"] < augmentation.vertical_flip else 1, 0, 0),
        (0, -1 if draw["flip"] < augmentation.flip else 1, 0),
    )
    zoom = step((1 + around("zoom", "zoom_rows"), 0, 0), (0, 1 + around("zoom", "zoom_cols"), 0))
    shear = step((1, 0, 0), (around("shear"), 1, 0))
    turn = step((math.cos(angle), -math.sin(angle), 0), (math.sin(angle), math.cos(angle), 0))
    shift = step((1, 0, height * around("shift", "shift_rows")), (0, 1, width * around("shift", "shift_cols")))
    return np.linalg.inv(shift @ turn @ shear @ zoom @ mirror)


def taken(image, row, col, fill):
    height, width = image.shape[1:]
    if fill == "zeros":
        return image[:, row, col] if 0 <= row < height and 0 <= col < width else 0.0 * image[:, 0, 0]
    if fill == "nearest":
        return image[:, min(max(row, 0), height - 1), min(max(col, 0), width - 1)]
    row, col = row % (2 * height), col % (2 * width)
    return image[:, min(row, 2 * height - 1 - row), min(col, 2 * width - 1 - col)]


def by_loops(image, matrix, fill):
    image = image.numpy().astype(float)
    height, width = image.shape[1:]
    middle = (height - 1) / 2, (width - 1) / 2
    out = np.zeros_like(image)
    for row, col in itertools.product(range(height), range(width)):
        r, c, _ = matrix @ (row - middle[0], col - middle[1], 1)
        r, c = r + middle[0], c + middle[1]
        for i, j in itertools.product((0, 1), (0, 1)):
            at = math.floor(r) + i, math.floor(c) + j
            out[:, row, col] += taken(image, *at, fill) * (1 - abs(r - at[0])) * (1 - abs(c - at[1]))
    return out


@pytest.mark.parametrize("fill", ["nearest", "reflect", "zeros"])
@pytest.mark.parametrize(("size", "channels"), [((13, 13), 3), ((9, 22), 1), ((20, 7), 3)])
@pytest.mark.parametrize(
    "moves",
    [
        {"rotation": 180},
        {"shift": 0.6},
        {"shear": 0.8},
        {"zoom": 0.7},
        {"flip": 0.5, "vertical_flip": 0.5, "rotation": 90, "shift": 0.3, "shear": 0.5, "zoom": 0.5},
    ],
    ids=lambda moves: "+".join(moves),
)
def test_movement_is_what_loops_over_pixels_give(moves, size, channels, fill):
    chosen = Augmentation(**moves, fill=fill)
    images, keys = photos(4, *size, channels), keys_of(4)
    found = chosen.apply(images, keys, seed=5, epoch=2)
    for image, draw, result in zip(images, drawn(keys, 5, 2), found, strict=True):
        wanted = by_loops(image, inverse(chosen, draw, *size), fill)
        assert np.abs(result.numpy() - wanted).max() <= 0.51  # the nearest whole number


@pytest.mark.parametrize(("drawn_at", "quarters"), [(1.0, 1), (0.0, -1)])
def test_a_quarter_turn_is_rot90(pin, drawn_at, quarters):
    pin(rotation=drawn_at)
    images = photos(2, 31, 31)
    found = Augmentation(rotation=90).apply(images, keys_of(2), seed=0, epoch=0)
    assert torch.equal(found, images.rot90(quarters, (2, 3)))


def test_a_turn_of_a_canvas_that_is_not_square_does_not_shear_it(pin):
    pin(rotation=1.0)
    images = photos(1, 20, 40)
    found = Augmentation(rotation=90, fill="zeros").apply(images, keys_of(1), seed=0, epoch=0)
    assert torch.equal(found[..., 10:30], images[..., 10:30].rot90(1, (2, 3)))
    assert not found[..., :10].any()
    assert not found[..., 30:].any()


@pytest.mark.parametrize(("down", "right"), [(3, -5), (-4, 0), (0, 7)])
def test_a_shift_by_whole_pixels_is_a_roll_with_the_edge_repeated(pin, down, right):
    images = photos(2, 20, 40)
    pin(shift_rows=0.5 + down / 20, shift_cols=0.5 + right / 40)  # a shift of 1 is the whole side in ±
    found = Augmentation(shift=0.5).apply(images, keys_of(2), seed=0, epoch=0)
    rows, cols = np.clip(np.arange(20) - down, 0, 19), np.clip(np.arange(40) - right, 0, 39)
    assert torch.equal(found, images[:, :, rows][..., cols])


def test_flips_are_bit_exact_and_as_often_as_asked():
    images, keys = photos(1, 9, 14).repeat(2000, 1, 1, 1), keys_of(2000)
    found = Augmentation(flip=0.5, vertical_flip=0.2).apply(images, keys, seed=0, epoch=0)
    kinds = {axes: images[0].flip(axes) for axes in ((), (2,), (1,), (1, 2))}
    counts = {axes: sum(torch.equal(image, kind) for image in found) for axes, kind in kinds.items()}
    assert sum(counts.values()) == 2000
    for axes, share in {(): 0.4, (2,): 0.4, (1,): 0.1, (1, 2): 0.1}.items():
        assert counts[axes] == pytest.approx(2000 * share, abs=4 * math.sqrt(2000 * share))
    for probability, kind in ((0, ()), (1, (2,))):
        found = Augmentation(flip=probability, erase=0).apply(images, keys, seed=0, epoch=0)
        assert torch.equal(found, images.flip((3,)) if kind else images)


def test_what_draws_no_movement_stays_bit_exact(pin):
    pin()
    images = photos(3, 21, 34)
    found = Augmentation(0, 0, 40, 0.2, 0.2, 0.2, brightness=0.4).apply(images, keys_of(3), seed=0, epoch=0)
    assert torch.equal(found, images)


# Colour, by torchvision


@pytest.mark.parametrize("name", ["brightness", "contrast", "saturation", "hue"])
@pytest.mark.parametrize("most", [0.3, 0.5, 1.5])
def test_colour_is_torchvisions(name, most):
    most = min(most, LIMITS[name][1])
    images, keys = photos(6, 40, 30), keys_of(6)
    noise = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (3, 10, 30), dtype=np.uint8))
    images[:, :, :10] = noise  # every hue
    images[:, :, 10:12] = noise[:1, :2]  # greys, which have none
    adjust = getattr(TF, f"adjust_{name}")
    found = Augmentation(**{name: most}).apply(images, keys, seed=1, epoch=0)
    for image, draw, result in zip(images, drawn(keys, 1, 0), found, strict=True):
        least = -most if name == "hue" else max(0, 1 - most)
        factor = least + ((most if name == "hue" else 1 + most) - least) * draw[name]
        wanted = adjust(image.double() / 255, factor) * 255
        assert (result - wanted).abs().max() <= 0.51
    assert (found != images).any((1, 2, 3)).all()


def test_colours_follow_each_other_in_a_fixed_order():
    images, keys = photos(4, 40, 30), keys_of(4)
    chosen = Augmentation(hue=0.5, saturation=0.9, contrast=0.9, brightness=0.9)
    found = chosen.apply(images, keys, seed=1, epoch=0)
    for image, draw, result in zip(images, drawn(keys, 1, 0), found, strict=True):
        wanted = image.double() / 255
        for name in ("brightness", "contrast", "saturation"):
            wanted = getattr(TF, f"adjust_{name}")(wanted, 0.1 + 1.8 * draw[name])
        assert (result - 255 * TF.adjust_hue(wanted, draw["hue"] - 0.5)).abs().max() <= 0.51


def test_grey_photos_have_no_saturation_and_no_hue():
    grey = photos(4, 30, 22, channels=1)
    assert torch.equal(Augmentation(saturation=1, hue=0.5).apply(grey, keys_of(4), seed=0, epoch=0), grey)
    chosen = augmentation("strong,saturation=0,hue=0")
    alone = chosen.apply(grey, keys_of(4), seed=0, epoch=0)
    coloured = chosen.apply(grey.repeat(1, 3, 1, 1), keys_of(4), seed=0, epoch=0)
    assert (alone.int() - coloured.int()).abs().max() <= 1  # luminance's weights make .9999
    assert (alone != grey).any((1, 2, 3)).all()


def test_what_comes_in_stays_black(pin):
    pin(shift_rows=1.0, contrast=0.0)  # less contrast makes black grey
    found = Augmentation(shift=0.5, contrast=0.8, fill="zeros").apply(photos(1, 20, 20), keys_of(1), seed=0, epoch=0)
    assert not found[:, :, :10].any()
    assert found[:, :, 10:].min() > 40


# Erasing


@pytest.mark.parametrize("size", [(40, 40), (64, 30), (28, 90)])
def test_erased_is_one_grey_box_of_a_share_of_the_area(size):
    images, keys = photos(1, *size).repeat(600, 1, 1, 1), keys_of(600)
    images[images == augment.GREY] = 0
    found = Augmentation(flip=0.5, erase=0.4).apply(images, keys, seed=0, epoch=0)
    flipped = Augmentation(flip=0.5).apply(images, keys, seed=0, epoch=0)
    shares, corners = [], []
    for before, after in zip(flipped, found, strict=True):
        changed = (after == augment.GREY).all(0)
        assert torch.equal(after[:, ~changed], before[:, ~changed])
        if changed.any():
            rows, cols = changed.any(1).nonzero().flatten(), changed.any(0).nonzero().flatten()
            box = (int(rows[0]), int(rows[-1]) + 1), (int(cols[0]), int(cols[-1]) + 1)
            assert changed[slice(*box[0]), slice(*box[1])].all()
            shares.append(float(changed.float().mean()))
            corners.append((*box[0], *box[1]))
    assert len(shares) == pytest.approx(240, abs=50)
    assert 0.015 < min(shares) < 0.035
    assert 0.18 < max(shares) < 0.21
    assert np.mean(shares) == pytest.approx(0.11, abs=0.015)
    assert np.array(corners).min(0)[[0, 2]].tolist() == [0, 0]  # every border is reached
    assert np.array(corners).max(0)[[1, 3]].tolist() == list(size)


# Each photo's own


@settings(max_examples=25, deadline=None)
@given(
    st.sampled_from([*PRESETS.values(), FULL]),
    st.tuples(st.integers(1, 40), st.integers(1, 40)),
    st.sampled_from([1, 3]),
    st.permutations(range(7)),
    st.sampled_from([1, 2000, 2**18]),
)
def test_a_photo_comes_out_alike_in_any_batch(chosen, size, channels, order, at_once):
    images, keys = photos(7, *size, channels), keys_of(7, start=2**64 - 7)
    alone = torch.cat([chosen.apply(images[i : i + 1], keys[i : i + 1], seed=3, epoch=4) for i in range(7)])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(augment, "AT_ONCE", at_once)
        together = chosen.apply(images[order], keys[order], seed=3, epoch=4)
        last = images.contiguous(memory_format=torch.channels_last)
        assert torch.equal(chosen.apply(last, keys, seed=3, epoch=4), alone)
    assert torch.equal(together, alone[order])


@pytest.mark.parametrize("chosen", [PRESETS["strong"], FULL], ids=str)
def test_a_large_photo_comes_out_alike_on_any_number_of_threads(chosen):
    images, keys = photos(3, 301, 233), keys_of(3)
    alone = torch.cat([chosen.apply(images[i : i + 1], keys[i : i + 1], seed=0, epoch=0) for i in range(3)])
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        threaded = torch.cat([chosen.apply(images[i : i + 1], keys[i : i + 1], seed=0, epoch=0) for i in range(3)])
        together = chosen.apply(images, keys, seed=0, epoch=0)
    finally:
        torch.set_num_threads(before)
    assert torch.equal(threaded, alone)
    assert torch.equal(together, alone)


def test_only_seed_epoch_and_key_decide():
    images, keys = photos(1, 24, 24).repeat(5, 1, 1, 1), keys_of(5)
    chosen, kept = PRESETS["strong"], images.clone()
    torch_state, numpy_state = torch.get_rng_state(), np.random.get_state()[1].copy()
    first = chosen.apply(images, keys, seed=0, epoch=0)
    assert torch.equal(first, chosen.apply(images, keys, seed=0, epoch=0))
    for other in (chosen.apply(images, keys, seed=1, epoch=0), chosen.apply(images, keys, seed=0, epoch=1)):
        assert (other != first).any((1, 2, 3)).all()
    assert len({image.numpy().tobytes() for image in first}) == 5
    assert torch.equal(torch.get_rng_state(), torch_state)
    assert np.array_equal(np.random.get_state()[1], numpy_state)
    assert torch.equal(images, kept)


def test_one_transform_more_leaves_the_others_draws():
    """Moved alike, whether recoloured or not: where a grey photo's colour does nothing, nothing differs."""
    grey, keys = photos(6, 30, 30, channels=1), keys_of(6)
    plain = augmentation("flip,rotation=30,shift=.2").apply(grey, keys, seed=0, epoch=0)
    more = augmentation("flip,rotation=30,shift=.2,saturation=1,hue=.5,crop=.5").apply(grey, keys, seed=0, epoch=0)
    assert torch.equal(plain, more)


def test_nothing_on_is_a_copy_and_no_photos_are_fine():
    images = photos(2, 8, 8)
    copy = Augmentation(crop=0.5).apply(images, keys_of(2), seed=0, epoch=0)
    assert torch.equal(copy, images)
    assert copy.data_ptr() != images.data_ptr()
    assert FULL.apply(images[:0], keys_of(0), seed=0, epoch=0).shape == (0, 3, 8, 8)
