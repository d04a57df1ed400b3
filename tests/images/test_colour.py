"""Numbers to colours: the display stretch by its definition, scales that mean what they say, nothing drawn from NaN."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from matplotlib import colormaps
from PIL import Image

from convscope.errors import ConvscopeError, UsageError
from convscope.images import colour

FLOATS = st.floats(width=32, allow_nan=False, allow_infinity=False)
MAPS = hnp.arrays(np.float32, hnp.array_shapes(min_dims=2, max_dims=4, max_side=4), elements=FLOATS)
quickly = settings(max_examples=80, deadline=None, derandomize=True)


@quickly
@given(MAPS)
def test_stretch_by_its_definition(maps: np.ndarray) -> None:
    got = colour.stretch(maps)
    assert got.shape == maps.shape
    assert got.dtype == np.float32
    for index in np.ndindex(maps.shape[:-2]):
        numbers = [[float(value) for value in row] for row in maps[index]]
        low, high = min(map(min, numbers)), max(map(max, numbers))
        if low == high:
            want = np.clip(numbers, 0, 1)
        else:
            want = [[(value - low) / (high - low) for value in row] for row in numbers]
            assert got[index].min() == 0
            assert got[index].max() == 1
        np.testing.assert_allclose(got[index], want, atol=1e-6)


def test_stretch_of_extremes() -> None:
    for largest in (3e38, 1e-38, 1e-45):
        maps = np.float32([[-largest, 0, largest]])
        np.testing.assert_array_equal(colour.stretch(maps), [[0, 0.5, 1]])


@quickly
@given(MAPS)
def test_stretching_twice_changes_nothing(maps: np.ndarray) -> None:
    once = colour.stretch(maps)
    np.testing.assert_array_equal(colour.stretch(once), once)


def test_stretch_of_a_constant_map() -> None:
    maps = np.stack([np.full((2, 3), value) for value in (0.0, 0.25, 7.0, -3.0)])
    assert colour.stretch(maps)[:, 0, 0].tolist() == [0, 0.25, 1, 0]


def test_each_map_has_its_own_range() -> None:
    got = colour.stretch(np.array([[[0, 1], [2, 4]], [[-10, 0], [10, 10]]]))
    np.testing.assert_array_equal(got, [[[0, 0.25], [0.5, 1]], [[0, 0.5], [1, 1]]])


def test_merge_by_hand() -> None:
    maps = np.array([[[0, 1], [2, 4]], [[10, 10], [10, 30]], [[0.5, 0.5], [0.5, 0.5]]])  # sum: .5 .75 1 2.5
    np.testing.assert_allclose(colour.merge(maps), [[0, 0.125], [0.25, 1]])
    np.testing.assert_array_equal(colour.merge(maps[None].repeat(2, 0))[1], colour.merge(maps))
    assert (colour.merge(np.zeros((5, 2, 2))) == 0).all()


def test_squash_is_the_sigmoid() -> None:
    values = np.array([-1000, -5, -1, 0, 0.5, 3, 1000])
    np.testing.assert_allclose(colour.squash(values), torch.tensor(values).sigmoid(), atol=1e-7)


def test_tensors_of_any_kind_are_taken() -> None:
    values = torch.tensor([[0.0, 1.0], [2.0, 4.0]])
    for tensor in (values.bfloat16(), values.half(), values.double(), values.int(), values.requires_grad_()):
        np.testing.assert_array_equal(colour.stretch(tensor), [[0, 0.25], [0.5, 1]])


def test_arguments_are_not_changed() -> None:
    values = np.array([[-3.0, 8.0], [1.0, 2.0]])
    photo = Image.new("RGB", (2, 2), "teal")
    before = values.copy(), photo.tobytes()
    for draw in (colour.stretch, colour.grey, colour.heat, colour.signed, colour.squash):
        draw(values)
    colour.overlay(photo, values, seen=(0, 0, 1, 1))
    np.testing.assert_array_equal(values, before[0])
    assert photo.tobytes() == before[1]


DRAWN: list[Callable[[np.ndarray], object]] = [
    colour.stretch,
    colour.squash,
    colour.robust_limit,
    colour.grey,
    colour.heat,
    colour.signed,
    lambda values: colour.merge(values[None]),
    lambda values: colour.pixels(values[None]),
    lambda values: colour.overlay(Image.new("RGB", (3, 3)), values),
    lambda values: colour.overlay_signed(Image.new("RGB", (3, 3)), values),
]


@pytest.mark.parametrize("draw", DRAWN)
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_what_is_not_a_number_is_never_drawn(draw: Callable[[np.ndarray], object], bad: float) -> None:
    values = np.ones((3, 3))
    values[1, 2] = bad
    with pytest.raises(ConvscopeError, match="1 of 9 values of a map are NaN or infinite") as caught:
        draw(values)
    assert "\n" not in str(caught.value)
    draw(np.ones((3, 3)))


@pytest.mark.parametrize("draw", DRAWN)
def test_nothing_to_draw(draw: Callable[[np.ndarray], object]) -> None:
    with pytest.raises(UsageError):
        draw(np.zeros((0, 3)))


# Colours.


def test_grey_goes_from_zero_to_the_maximum() -> None:
    got = colour.grey(np.array([[-1.0, 0, 1], [2, 3, 4]]))
    assert got.dtype == np.uint8
    assert got[..., 0].tolist() == [[0, 0, 64], [128, 191, 255]]
    assert (got == got[..., :1]).all()
    assert colour.grey(np.array([[0.0, 0.5, 1, 2]]), limit=1)[0, :, 1].tolist() == [0, 128, 255, 255]


def test_heat_uses_the_colour_map() -> None:
    got = colour.heat(np.array([[0.0, 5, 10]]))
    want = [colormaps["inferno"](share, bytes=True)[:3] for share in (0.0, 0.5, 1.0)]
    assert np.abs(got[0].astype(int) - want).max() <= 2
    assert not np.array_equal(got, colour.heat(np.array([[0.0, 5, 10]]), "viridis"))


def test_signed_is_symmetric_about_a_light_middle() -> None:
    got = colour.signed(np.array([[-8.0, 0, 2]]), limit=8).astype(int)
    assert got[0, 1].tolist() == [247] * 3
    assert got[0, 0, 2] > got[0, 0, 0], "below zero is blue"
    assert got[0, 2, 0] > got[0, 2, 2], "above zero is red"
    assert got[0, 0].sum() < got[0, 2].sum(), "2 is paler than -8"


def test_one_outlier_does_not_wash_out_the_rest() -> None:
    values = np.tile([1.0, -1.0], (40, 20))
    plain = colour.signed(values)
    values[3, 3] = 1e6
    np.testing.assert_array_equal(colour.signed(values)[:3], plain[:3])
    np.testing.assert_array_equal(colour.pixels(values[None])[:3], colour.pixels(values[None], limit=1)[:3])


def test_robust_limit_of_a_single_spot() -> None:
    values = np.zeros((100, 100))
    values[5, 5] = -3
    assert colour.robust_limit(values) == 3
    values[40:60, 40:60] = np.linspace(-1, 1, 400).reshape(20, 20)
    assert colour.robust_limit(values) == pytest.approx(1, abs=0.01), "what is zero around it sets no scale"
    assert colour.robust_limit(np.zeros(5)) == 0
    assert colour.robust_limit(np.arange(-1000, 1001)) == pytest.approx(995, abs=1)


@pytest.mark.parametrize("channels", [1, 3])
def test_pixels_are_grey_at_zero(channels: int) -> None:
    raw = np.zeros((channels, 2, 3))
    assert (colour.pixels(raw) == 128).all()
    raw[0, 0] = [-1, 0.5, 1]
    got = colour.pixels(raw, limit=1)
    assert got.shape == (2, 3, 3)
    assert got[0, :, 0].tolist() == [0, 191, 255]
    assert got[0, :, 2].tolist() == ([0, 191, 255] if channels == 1 else [128] * 3)


def test_a_dead_map_is_drawn_quietly() -> None:
    dead = np.zeros((4, 5))
    photo = Image.new("RGB", (5, 4), "olive")
    with np.errstate(all="raise"):
        assert (colour.grey(dead) == 0).all()
        assert (colour.grey(-np.ones((4, 5))) == 0).all()
        assert (colour.signed(dead) >= 240).all()
        np.testing.assert_array_equal(colour.heat(dead), np.broadcast_to(colour.heat(dead)[0, 0], (4, 5, 3)))
        np.testing.assert_array_equal(colour.overlay(photo, dead), np.asarray(photo))
        grey = np.asarray(photo.convert("L").convert("RGB"))  # its own colours would be taken for the map's
        np.testing.assert_array_equal(colour.overlay_signed(photo, dead), grey)


@pytest.mark.parametrize(
    ("draw", "says"),
    [
        (lambda: colour.heat(np.ones((2, 2)), "infrno"), "unknown colour map 'infrno'; nearest: inferno"),
        (lambda: colour.heat(np.ones((3, 2, 2))), "shape 3 x 2 x 2"),
        (lambda: colour.grey(np.ones(4)), "shape 4"),
        (lambda: colour.stretch(np.float64(3)), "a single number"),
        (lambda: colour.merge(np.ones((2, 2))), "at least 3"),
        (lambda: colour.pixels(np.ones((4, 2, 2))), "shape 4 x 2 x 2"),
        (lambda: colour.grey(np.ones((2, 2)), limit=0), "must be positive, got 0"),
        (lambda: colour.signed(np.ones((2, 2)), limit=float("nan")), "must be positive, got nan"),
        (lambda: colour.overlay(Image.new("RGB", (2, 2)), np.ones((2, 2)), alpha=50), "0 to 1, got 50"),
        (lambda: colour.overlay(Image.new("RGB", (4, 2)), np.ones((2, 2)), seen=(0, 0, 4, 2)), r"2x4 \(h x w\)"),
    ],
)
def test_what_cannot_be_meant(draw: Callable[[], object], says: str) -> None:
    with pytest.raises(UsageError, match=says) as caught:
        draw()
    assert "\n" not in str(caught.value)


# Over the photo.


def test_overlay_leaves_the_photo_where_the_map_is_zero() -> None:
    photo = Image.effect_noise((8, 6), 60).convert("RGB")
    values = np.zeros((6, 8))
    values[2, 3], values[4, 6] = 4, 1
    got, under = colour.overlay(photo, values, alpha=1).astype(int), np.asarray(photo).astype(int)
    change = np.abs(got - under).sum(-1)
    assert (change[values == 0] == 0).all()
    assert (change[values > 0] > 0).all()
    np.testing.assert_array_equal(got[2, 3], colour.heat(values)[2, 3])


def test_opacity_grows_with_the_value() -> None:
    photo = Image.new("RGB", (101, 1), (0, 0, 255))
    values = np.linspace(0, 1, 101)[None]
    tint = colour.overlay(photo, values, alpha=0.6, cmap="autumn")[0]  # red to yellow, without blue
    blue = tint[:, 2].astype(int)
    assert (np.diff(blue) <= 0).all()
    assert (blue[0], blue[-1]) == (255, 102)
    assert (255 - blue[50]) / 153 == pytest.approx(0.5**0.75, abs=0.01)


def test_a_large_photo_has_no_seams() -> None:
    photo = Image.effect_noise((9, 600), 60).convert("RGB")
    values = np.random.default_rng(0).random((600, 9))
    whole = colour.overlay(photo, values, limit=1)
    for top in (100, 255, 500):
        part = colour.overlay(photo.crop((0, top, 9, top + 90)), values[top : top + 90], limit=1)
        np.testing.assert_array_equal(whole[top : top + 90], part)


def test_small_map_is_enlarged_smoothly() -> None:
    photo = Image.new("RGB", (70, 50))
    got = colour.overlay(photo, np.eye(5, 7), alpha=1, cmap="gray")[..., 0].astype(int)
    assert got.shape == (50, 70)
    assert np.abs(np.diff(got, axis=1)).max() < 60
    assert got[5, 5] > 120 > 20 > got[5, 65]


def test_overlay_signed_is_red_and_blue() -> None:
    photo = Image.new("RGB", (3, 1), (120, 120, 120))
    red, plain, blue = colour.overlay_signed(photo, np.array([[1.0, 0, -1]]))[0].astype(int)
    assert red[0] > red[2]
    assert blue[2] > blue[0]
    assert plain.tolist() == [120] * 3


def test_what_was_not_seen_is_dimmed() -> None:
    photo = Image.new("RGB", (6, 4), (200, 100, 50))
    got = colour.overlay(photo, np.zeros((4, 6)), seen=(1, 2, 3, 5))
    inside = np.zeros((4, 6), bool)
    inside[1:3, 2:5] = True
    assert (got[inside] == [200, 100, 50]).all()
    assert (got[~inside] < 80).all()
    assert (got[~inside] > 20).all(), "still to be recognised"
    assert (np.ptp(got[~inside], axis=-1) == 0).all(), "without colour"


def test_overlay_takes_any_photo() -> None:
    for mode in ("L", "RGBA", "P", "CMYK"):
        assert colour.overlay(Image.new(mode, (4, 3)), np.ones((3, 4))).shape == (3, 4, 3)
