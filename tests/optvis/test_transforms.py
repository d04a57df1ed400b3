"""Transforms against places worked out pixel by pixel, and what is drawn against its picture alone."""

import math

import numpy as np
import pytest
import torch

from convscope.errors import UsageError
from convscope.optvis.draws import Draws
from convscope.optvis.transforms import Transform, Window, box_crop, jitter, noise, pad, rotate, scale, transformed
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


class Told:
    """Draws that are told: shares of the way from the lower end to the upper, and normal numbers, as they are asked."""

    def __init__(self, *values):
        self.values = iter(values)

    def uniform(self, low, high):
        return np.array([low + (high - low) * next(self.values)])

    def normal(self):
        return np.array([next(self.values)])


def told(transform, image, *values, done=0.0):
    draws = Told(*values)
    found = transformed(image, transform if isinstance(transform, list) else [transform], draws, done)
    assert not list(draws.values), "all that was told was asked for"
    return found


def near(found, wanted, tolerance=1e-12):
    assert found.shape == wanted.shape
    assert torch.allclose(found, wanted, rtol=0, atol=tolerance)


IMAGE = photos(1, height=9, width=12)
FILLS = ["reflect", "grey"]


@pytest.mark.parametrize("fill", FILLS)
@pytest.mark.parametrize(("cols", "rows"), [(3, 2), (-3, 1), (0, -2), (1, 0), (0, 0)])
def test_jitter_by_whole_pixels_is_an_exact_shift(cols, rows, fill):
    shares = [(most + move + 0.5) / (2 * most + 1) for most, move in ((3, cols), (2, rows))]  # a quarter of 12, of 9
    found = told([pad(0, fill), jitter(0.25)], IMAGE, *shares)
    near(found[0], by_hand(IMAGE[0], lambda r, c: (r + rows, c + cols), (9, 12), fill))
    out, of = [], []
    for side, move in ((9, rows), (12, cols)):
        out.append(slice(max(-move, 0), side - max(move, 0)))
        of.append(slice(max(move, 0), side - max(-move, 0)))
    near(found[:, :, out[0], out[1]], IMAGE[:, :, of[0], of[1]])
    if fill == "grey" and rows > 0:
        assert torch.equal(found[:, :, 9 - rows :], torch.full((1, 3, rows, 12), 0.5, dtype=torch.float64))


def test_jitter_goes_everywhere_within_its_share_alike_often():
    marked = torch.zeros(4000, 1, 9, 12, dtype=torch.float64)
    marked[:, 0, 4, 6] = 1
    found = transformed(marked, [jitter(0.25)], Draws(range(4000), 1))[:, 0]
    seen = (found > 0.5).double().mean(0)
    assert torch.equal(found.round(), found.round(decimals=9)), "by whole pixels"
    assert bool((seen[2:7, 3:10] > 0).all())
    assert float(seen[2:7, 3:10].sum()) == pytest.approx(1)
    assert (seen[2:7, 3:10] - 1 / 35).abs().max() < 5 * math.sqrt(1 / 35 / 4000)


@pytest.mark.parametrize("factor", [0.6, 0.8, 1.0, 1.25, 2.5])
@pytest.mark.parametrize("fill", FILLS)
def test_scale_enlarges_about_the_middle(factor, fill):
    found = told([pad(0, fill), scale(0.5, 2.5)], IMAGE, (factor - 0.5) / 2)
    near(found[0], by_hand(IMAGE[0], lambda r, c: (r / factor, c / factor), (9, 12), fill), 1e-10)


@pytest.mark.parametrize("degrees", [-90, -7, 0, 30, 90, 137])
@pytest.mark.parametrize("fill", FILLS)
def test_rotation_turns_what_is_not_square_without_stretching_it(degrees, fill):
    angle = math.radians(degrees)

    def place(row, col):
        return -math.sin(angle) * col + math.cos(angle) * row, math.cos(angle) * col + math.sin(angle) * row

    found = told([pad(0, fill), rotate(180)], IMAGE, (degrees + 180) / 360)
    near(found[0], by_hand(IMAGE[0], place, (9, 12), fill), 1e-9)


@pytest.mark.parametrize("side", [7, 8])
@pytest.mark.parametrize(("quarters", "share"), [(1, 0.25), (-1, 0.75), (2, 1.0)])
def test_a_square_turned_by_quarters_is_that_square_turned(side, quarters, share, monkeypatch):
    square = photos(2, height=side, width=side)
    monkeypatch.setattr(Draws, "uniform", lambda self, low, high: np.full(len(self), low + (high - low) * share))
    near(transformed(square, [rotate(180)], Draws([1, 2], 3)), torch.rot90(square, quarters, (2, 3)))


@pytest.mark.parametrize("fill", FILLS)
def test_a_border_is_mirrored_or_grey(fill):
    found = told(pad(0.3, fill), IMAGE)
    assert found.shape[2:] == (9 + 2 * 3, 12 + 2 * 4)
    near(found[0], by_hand(IMAGE[0], lambda r, c: (r, c), (15, 20), fill))
    near(found[:, :, 3:-3, 4:-4], IMAGE)
    how = {"mode": "symmetric"} if fill == "reflect" else {"constant_values": 0.5}
    padded = np.pad(IMAGE.numpy(), ((0, 0), (0, 0), (3, 3), (4, 4)), **how)
    near(found, torch.from_numpy(padded))


@pytest.mark.parametrize("done", [0.0, 0.5, 1.0])
@pytest.mark.parametrize(
    ("more", "right", "down"), [(0, 0, 0), (-1.2, 0.5, -0.7), (0.4, 9, -9), (99, 1, 1), (-99, 0, 1)]
)
def test_a_box_is_enlarged_to_the_picture(done, more, right, down):
    """``more`` than its usual side, its middle to the ``right`` and ``down``, in standard deviations."""
    side = min(max(0.9 - 0.4 * done + 0.05 * more, 0.05), 1)
    room = (1 - side) / 2
    col, row = (min(max(0.08 * to, -room), room) for to in (right, down))
    found = told(box_crop(0.9, 0.5, 0.08), IMAGE, more, right, down, done=done)
    wanted = by_hand(IMAGE[0], lambda r, c: (r * side + row * 9, c * side + col * 12), (9, 12))
    near(found[0], wanted, 1e-10)


def test_a_box_can_be_of_another_size_than_the_picture():
    found = told(box_crop(0.5, 0.5, size=(18, 24)), IMAGE, 0, 1, -1)
    near(found[0], by_hand(IMAGE[0], lambda r, c: (r / 4 - 0.08 * 9, c / 4 + 0.08 * 12), (18, 24)), 1e-10)
    padded = told([pad(1), box_crop(0.5, 0.5)], IMAGE, 0, 1, -1)
    near(padded[0], by_hand(IMAGE[0], lambda r, c: (r / 6 - 0.08 * 9, c / 6 + 0.08 * 12), (27, 36)), 1e-10)


@pytest.mark.parametrize("done", [0.0, 0.3, 1.0])
def test_boxes_lie_within_the_picture_and_are_spread_as_told(done):
    count = 3000
    whole = Window((40, 60), (40, 60), np.broadcast_to(np.eye(3), (count, 3, 3)), (40, 60))
    seen = box_crop(0.6, 0.3, 0.04).move(whole, Draws(range(count), 7), done)
    corners = np.array([[x, y, 1] for x in (-30, 30) for y in (-20, 20)]).T
    places = seen.matrix @ corners
    assert (np.abs(places[:, 0]) <= 30 + 1e-9).all()
    assert (np.abs(places[:, 1]) <= 20 + 1e-9).all()
    sides = np.ptp(places[:, 0], axis=1) / 60
    assert np.allclose(sides, np.ptp(places[:, 1], axis=1) / 40)
    assert sides.mean() == pytest.approx(0.6 - 0.3 * done, abs=0.004)
    assert sides.std() == pytest.approx(0.05, abs=0.004)
    for row, length in ((0, 60), (1, 40)):
        middles = places[:, row].mean(1) / length
        assert abs(middles.mean()) < 0.004
        assert middles.std() == pytest.approx(0.04, abs=0.003)


def test_several_moves_are_done_in_their_order_and_sampled_once():
    moves = [jitter(0.25), scale(1.25, 1.25)]
    both = told(moves, IMAGE, 0.999999, 0.999999, 0)
    other = told(moves[::-1], IMAGE, 0, 0.999999, 0.999999)
    near(both[0], by_hand(IMAGE[0], lambda r, c: (r / 1.25 + 2, c / 1.25 + 3), (9, 12)))
    near(other[0], by_hand(IMAGE[0], lambda r, c: ((r + 2) / 1.25, (c + 3) / 1.25), (9, 12)))
    assert not torch.allclose(both, other, atol=0.01)


def test_turned_scaled_and_moved_within_a_border():
    angle = math.radians(20)

    def place(row, col):
        row, col = row - 1, col + 2  # the last of the moves comes first for whoever looks
        row, col = row / 1.5, col / 1.5
        return -math.sin(angle) * col + math.cos(angle) * row, math.cos(angle) * col + math.sin(angle) * row

    for fill in FILLS:
        moves = [pad(0.2, fill), rotate(20), scale(1.5, 1.5), jitter(0.17)]  # up to 2 columns and 1 row
        found = told(moves, IMAGE, 1, 0, 0.999999, 0.1)
        near(found[0], by_hand(IMAGE[0], place, (9 + 2 * 2, 12 + 2 * 2), fill), 1e-10)


@pytest.mark.parametrize("fill", FILLS)
def test_several_whole_shifts_are_those_one_after_the_other(fill):
    """Seen once and in turn they are the same, but for the edge, of which the second mirrors what the first shows."""
    shares = (0.9, 0.1, 0.7, 0.3, 0.2, 0.95)
    frame, moves = pad(0.5, fill), [jitter(0.1), jitter(0.2), jitter(0.15)]
    together = told([frame, *moves], IMAGE, *shares)
    inside = transformed(IMAGE, [frame], Told())
    turned = inside
    for i, part in enumerate((0.1, 0.2, 0.15)):
        most = [math.floor(side * part) for side in (12, 9)]
        cols, rows = (math.floor(-m + (2 * m + 1) * share) for m, share in zip(most, shares[2 * i :], strict=False))
        turned = torch.roll(turned, (-rows, -cols), (2, 3))
    assert not torch.equal(turned, inside)
    near(together[:, :, 4:-4, 5:-5], turned[:, :, 4:-4, 5:-5])


def test_noise_has_its_deviation_which_changes_over_the_steps():
    grey = torch.full((2, 3, 64, 64), 0.5, dtype=torch.float64)
    for done, std, still in ((0.0, 0.2, 0.2), (0.5, 0.15, 0.2), (1.0, 0.1, 0.2)):
        found = transformed(grey, [noise(0.2, 0.1)], Draws([1, 2], 3), done) - grey
        assert found.std().item() == pytest.approx(std, rel=0.05)
        assert abs(found.mean().item()) < 0.005
        assert not torch.equal(found[0], found[1])
        near(found, std * Draws([1, 2], 3).field((3, 64, 64)))
        same = transformed(grey, [noise(0.2)], Draws([1, 2], 3), done) - grey
        assert same.std().item() == pytest.approx(still, rel=0.05)


def test_noise_comes_upon_what_is_seen_by_then():
    images = photos(2, height=8, width=8)
    draws, other = Draws([1, 2], 3), Draws([1, 2], 3)
    found = transformed(images, [scale(2, 2), noise(0.1), jitter(0.2)], draws)
    other.uniform(2, 2)
    seen = torch.stack([by_hand(one, lambda r, c: (r / 2, c / 2), (8, 8)) for one in images])
    seen = seen + 0.1 * other.field((3, 8, 8))
    cols, rows = (np.floor(other.uniform(-1, 2)) for _ in range(2))
    for i in range(2):
        wanted = by_hand(seen[i], lambda r, c, i=i: (r + rows[i], c + cols[i]), (8, 8))
        near(found[i], wanted, 1e-10)


ALL = [pad(0.1), jitter(0.1), scale(0.9, 1.2), rotate(10), box_crop(), noise(0.05)]


@pytest.mark.parametrize("channels", [1, 3, 5])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_a_batch_gets_what_its_pictures_get_alone_to_the_last_bit(channels, dtype):
    images, seeds = photos(4, channels=channels, dtype=dtype), [7, 8, 9, 2**64 - 1]

    def seen(chosen, step=5):
        leaf = images[chosen].clone().requires_grad_()
        found = transformed(leaf, ALL, Draws([seeds[i] for i in chosen], step), 0.3)
        (found * torch.linspace(-1, 2, found.shape[-1], dtype=dtype)).sum().backward()
        return found.detach(), leaf.grad

    together, way_back = seen([0, 1, 2, 3])
    assert together.dtype == dtype
    for i in range(4):
        alone, gradient = seen([i])
        assert torch.equal(together[i], alone[0])
        assert torch.equal(way_back[i], gradient[0])
    swapped, _ = seen([2, 0])
    assert torch.equal(swapped, together[[2, 0]])
    again, _ = seen([0, 1, 2, 3], step=6)
    assert not torch.allclose(again, together)


@pytest.mark.parametrize("transform", [jitter(1), *ALL[2:]], ids=repr)
def test_each_picture_has_draws_of_its_own_at_each_step(transform):
    same = photos(1, height=60, width=60).expand(6, -1, -1, -1)
    found = [view for step in (1, 2) for view in transformed(same, [transform], Draws(range(10, 16), step), 0.5)]
    for i, view in enumerate(found):
        assert not any(torch.equal(view, other) for other in found[:i])


def test_every_channel_is_moved_alike():
    images = photos(2, channels=5)
    together = transformed(images, ALL[:-1], Draws([1, 2], 3))
    for i in range(5):
        near(together[:, i : i + 1], transformed(images[:, i : i + 1], ALL[:-1], Draws([1, 2], 3)))


@pytest.mark.parametrize("transforms", [ALL, [pad(0.5, "grey"), rotate(30), noise(0.1)], [scale(0.4, 0.4)]], ids=str)
def test_the_way_back_is_the_gradient(transforms):
    image = photos(1, height=4, width=5).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: transformed(x, transforms, Draws([3], 1), 0.5), image)


def test_nothing_asked_for_leaves_pictures_as_they_are():
    assert torch.equal(transformed(IMAGE, [], Draws([1], 1)), IMAGE)
    kept = IMAGE.clone()
    transformed(IMAGE, ALL, Draws([1], 1))
    assert torch.equal(IMAGE, kept), "pictures are not written into"


REFUSED = {
    "pad(-0.1) is outside of 0 to 1": lambda: pad(-0.1),
    "pad(inf) is outside of 0 to 1": lambda: pad(math.inf),
    "pad: fill is 'black', not reflect or grey": lambda: pad(0.1, "black"),
    "jitter(2) is outside of 0 to 1": lambda: jitter(2),
    "scale: a factor is positive, got 0": lambda: scale(0, 1),
    "scale(1, inf) is outside of 0 to inf": lambda: scale(1, math.inf),
    "scale: 0.9 must be at least 1.2": lambda: scale(1.2, 0.9),
    "rotate(nan) is outside of 0 to 180": lambda: rotate(math.nan),
    "rotate(181) is outside of 0 to 180": lambda: rotate(181),
    "box_crop(0.9, 0) is outside of 0.01 to 1": lambda: box_crop(0.9, 0),
    "box_crop: 0.2 must be at least 0.9": lambda: box_crop(0.2, 0.9),
    "box_crop(2) is outside of 0 to 1": lambda: box_crop(spread=2),
    "noise(-1) is outside of 0 to inf": lambda: noise(-1),
    "noise(0.1, -0.2) is outside of 0 to inf": lambda: noise(0.1, -0.2),
    "noise(0.1, nan) is outside of 0 to inf": lambda: noise(0.1, math.nan),
}


@pytest.mark.parametrize("says", REFUSED)
def test_what_cannot_be_meant_is_refused_in_one_line(says):
    with pytest.raises(UsageError) as caught:
        REFUSED[says]()
    assert str(caught.value) == says


def test_a_transform_says_what_it_is():
    assert [repr(one) for one in ALL] == [
        "pad(0.1, reflect)",
        "jitter(0.1)",
        "scale(0.9, 1.2)",
        "rotate(10)",
        "box_crop(0.9, 0.5, 0.08)",
        "noise(0.05)",
    ]
    assert repr(noise(0.2, 0.1)) == "noise(0.2, 0.1)"
    assert all(isinstance(one, Transform) for one in ALL)
