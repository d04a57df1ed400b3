"""Transforms against places worked out pixel by pixel, and what is drawn against its picture alone."""

import math

import numpy as np
import pytest
import torch

from convscope.errors import UsageError
from convscope.optvis.draws import Draws, seed_of
from convscope.optvis.transforms import (
    Transform,
    box_crop,
    jitter,
    noise,
    pad,
    rotate,
    scale,
    transformed,
)
from tests.nets import photos


def mirrored(place, side):
    """Where a mirror at the edge of the outermost pixels shows a place, in pixels from the first one's middle."""
    place = place + 0.5
    period = place % (2 * side)
    return min(period, 2 * side - period) - 0.5


def looked_at(image, row, col, fill):
    """A place of an image "c h w", bilinearly; outside of it its mirror image, or grey."""
    _, height, width = image.shape
    if fill == "reflect":
        row, col = mirrored(row, height), mirrored(col, width)
        row, col = min(max(row, 0), height - 1), min(max(col, 0), width - 1)
    total = np.zeros(len(image))
    for r in (math.floor(row), math.floor(row) + 1):
        for c in (math.floor(col), math.floor(col) + 1):
            weight = max(0.0, 1 - abs(row - r)) * max(0.0, 1 - abs(col - c))
            inside = 0 <= r < height and 0 <= c < width
            if weight > 0:
                total += weight * (image[:, r, c].numpy() if inside else 0.5)
    return total


def by_hand(image, place, size, fill="reflect"):
    """The picture that shows at (row, col) from its middle what lies at ``place(row, col)`` from the image's."""
    _, height, width = image.shape
    out = np.zeros((len(image), *size))
    for r in range(size[0]):
        for c in range(size[1]):
            row, col = place(r - (size[0] - 1) / 2, c - (size[1] - 1) / 2)
            out[:, r, c] = looked_at(image, row + (height - 1) / 2, col + (width - 1) / 2, fill)
    return torch.from_numpy(out)


class Fixed:
    """Draws that are always the upper end, and noise that is always the same."""

    def __init__(self, count, share=1.0, normal=0.0):
        self.count, self.share, self.own = count, share, normal

    def uniform(self, low, high):
        return np.full(self.count, low + (high - low) * self.share)

    def normal(self):
        return np.full(self.count, self.own)


def one(transform, image, **options):
    return transformed(image, [transform], Fixed(len(image), **options))


IMAGE = photos(1, height=9, width=12)


def test_jitter_by_whole_pixels_is_a_shift():
    share = 0.999999  # up to 2 rows (a quarter of 9, rounded down) and 3 columns
    found = one(jitter(0.25), IMAGE, share=share)
    assert torch.allclose(found[0], by_hand(IMAGE[0], lambda r, c: (r + 2, c + 3), (9, 12)), atol=1e-12)
    assert torch.allclose(found[0, :, :7, :9], IMAGE[0, :, 2:, 3:], atol=1e-12)


def test_scale_enlarges_about_the_middle():
    found = one(scale(0.8, 1.25), IMAGE)
    assert torch.allclose(found[0], by_hand(IMAGE[0], lambda r, c: (r / 1.25, c / 1.25), (9, 12)), atol=1e-12)


def test_rotation_turns_what_is_not_square_without_stretching_it():
    angle = math.radians(30)

    def place(row, col):
        return -math.sin(angle) * col + math.cos(angle) * row, math.cos(angle) * col + math.sin(angle) * row

    assert torch.allclose(one(rotate(30), IMAGE)[0], by_hand(IMAGE[0], place, (9, 12)), atol=1e-12)
    square = photos(1, height=8, width=8)
    turned = one(rotate(90), square)
    assert any(torch.allclose(turned, torch.rot90(square, k, (2, 3)), atol=1e-12) for k in (1, 3))


@pytest.mark.parametrize("fill", ["reflect", "grey"])
def test_a_border_is_mirrored_or_grey(fill):
    found = one(pad(0.3, fill), IMAGE)
    assert found.shape[2:] == (9 + 2 * 3, 12 + 2 * 4)
    assert torch.allclose(found[0], by_hand(IMAGE[0], lambda r, c: (r, c), (15, 20), fill), atol=1e-12)
    assert torch.allclose(found[:, :, 3:-3, 4:-4], IMAGE, atol=1e-12)


def test_a_box_is_enlarged_to_the_picture():
    for done, side in ((0.0, 0.9), (0.5, 0.7), (1.0, 0.5)):
        found = transformed(IMAGE, [box_crop(0.9, 0.5)], Fixed(1), done)
        expected = by_hand(IMAGE[0], lambda r, c, side=side: (r * side * 9 / 9, c * side), (9, 12))
        assert torch.allclose(found[0], expected, atol=1e-12)


def test_several_moves_are_done_in_their_order_and_sampled_once():
    both = transformed(IMAGE, [jitter(0.25), scale(1.25, 1.25)], Fixed(1, share=0.999999))
    other = transformed(IMAGE, [scale(1.25, 1.25), jitter(0.25)], Fixed(1, share=0.999999))
    expected = by_hand(IMAGE[0], lambda r, c: (r / 1.25 + 2, c / 1.25 + 3), (9, 12))
    assert torch.allclose(both[0], expected, atol=1e-12)
    assert torch.allclose(
        other[0], by_hand(IMAGE[0], lambda r, c: ((r + 2) / 1.25, (c + 3) / 1.25), (9, 12)), atol=1e-12
    )


def test_noise_has_its_deviation_which_changes_over_the_steps():
    grey = torch.full((2, 3, 64, 64), 0.5, dtype=torch.float64)
    for done, std in ((0.0, 0.2), (0.5, 0.15), (1.0, 0.1)):
        found = transformed(grey, [noise(0.2, 0.1)], Draws([1, 2], 3), done) - grey
        assert found.std().item() == pytest.approx(std, rel=0.05)
        assert not torch.equal(found[0], found[1])


ALL = [pad(0.1), jitter(0.1), scale(0.9, 1.2), rotate(10), box_crop(), noise(0.05)]


@pytest.mark.parametrize("channels", [1, 3, 5])
def test_a_batch_gets_what_its_pictures_get_alone(channels):
    images, seeds = photos(4, channels=channels), [7, 8, 9, 2**64 - 1]
    together = transformed(images, ALL, Draws(seeds, 5), 0.3)
    for i, seed in enumerate(seeds):
        assert torch.equal(together[i], transformed(images[i : i + 1], ALL, Draws([seed], 5), 0.3)[0])
    again = transformed(images, ALL, Draws(seeds, 6), 0.3)
    assert not torch.allclose(again, together)


def test_the_way_back_is_the_gradient():
    image = photos(1, height=4, width=5).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: transformed(x, ALL, Draws([3], 1), 0.5), image)


def test_draws_are_their_seeds_and_steps_alone():
    before = torch.random.get_rng_state()
    one, two = Draws([1, 2, 3], 4), Draws([3, 1], 4)
    first, other = one.uniform(-2, 5), two.uniform(-2, 5)
    assert first[[2, 0]].tolist() == other.tolist()
    assert one.field((2, 3))[[2, 0]].tolist() == two.field((2, 3)).tolist()
    assert Draws([1], 5).uniform(-2, 5) != first[0]
    assert torch.equal(torch.random.get_rng_state(), before)
    many = Draws(range(4000), 1)
    values = many.uniform(-2, 5)
    assert values.min() >= -2
    assert values.max() < 5
    assert abs(values.mean() - 1.5) < 0.1
    normal = many.normal()
    assert abs(normal.mean()) < 0.06
    assert abs(normal.std() - 1) < 0.05
    assert len({seed_of(0, unit, copy) for unit in range(50) for copy in range(4)}) == 200


@pytest.mark.parametrize(
    "make",
    [
        lambda: pad(-0.1),
        lambda: pad(0.1, "black"),
        lambda: jitter(2),
        lambda: scale(0, 1),
        lambda: scale(1.2, 0.9),
        lambda: rotate(float("nan")),
        lambda: box_crop(0.2, 0.9),
        lambda: noise(-1),
    ],
)
def test_what_cannot_be_meant_is_refused_in_one_line(make):
    with pytest.raises(UsageError) as caught:
        make()
    assert "\n" not in str(caught.value)


def test_a_transform_says_what_it_is():
    assert [repr(one) for one in ALL[:4]] == ["pad(0.1, reflect)", "jitter(0.1)", "scale(0.9, 1.2)", "rotate(10)"]
    assert isinstance(ALL[0], Transform)
