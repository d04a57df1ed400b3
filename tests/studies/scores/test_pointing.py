"""The pointing game and the energy inside, counted by hand and against Quantus; and the maps that know nothing."""

import math

import numpy as np
import pytest
import torch

from convscope.studies.scores.blind import blind_maps, centre, edges, generator_of
from convscope.studies.scores.pointing import energy_inside, inside, pointed
from tests.nets import photos


def peak(row, col, shape=(20, 30)):
    map = torch.zeros(shape)
    map[row, col] = 1
    return map


BOX = (5, 10, 8, 14)  # rows 5 to 7, columns 10 to 13


@pytest.mark.parametrize(
    ("place", "tolerance", "hit"),
    [
        ((5, 10), 0, 1),
        ((7, 13), 0, 1),
        ((8, 13), 0, 0),  # the first row outside
        ((7, 14), 0, 0),
        ((8, 13), 1, 1),
        ((10, 17), 4.9, 0),  # three rows and four columns away: 5
        ((10, 17), 5, 1),
        ((2, 6), 5, 1),
        ((0, 12), 4, 0),
        ((0, 12), 5, 1),
    ],
)
def test_the_maximum_is_in_the_box_or_so_far_away(place, tolerance, hit):
    assert pointed(peak(*place), [BOX], tolerance) == hit


def test_any_box_will_do():
    assert pointed(peak(15, 3), [BOX, (14, 0, 18, 6)], 0) == 1
    assert pointed(peak(15, 3), [BOX, (16, 0, 18, 6)], 0) == 0


def test_equal_maxima_hit_as_often_as_one_of_them_would():
    map = peak(5, 10)
    map[0, 0] = map[6, 11] = map[19, 29] = 1
    assert pointed(map, [BOX], 0) == 0.5
    assert pointed(torch.ones(20, 30), [BOX], 0) == pytest.approx(12 / 600)  # of a constant map: the box's area


def test_energy_is_the_share_of_what_is_positive():
    map = torch.zeros(4, 4)
    map[0, 0], map[1, 1], map[3, 3], map[0, 3] = 2, 1, 5, -7
    assert energy_inside(map, [(0, 0, 2, 2)]) == pytest.approx(3 / 8)
    assert energy_inside(map, [(0, 0, 2, 2), (1, 1, 4, 4)]) == pytest.approx(1)  # what both hold counts once
    assert math.isnan(energy_inside(-map.abs(), [BOX]))
    assert math.isnan(energy_inside(map * torch.nan, [BOX]))
    assert math.isnan(pointed(map * torch.nan, [BOX], 0))


@pytest.mark.filterwarnings("ignore:Ratio is smaller", "ignore:divide by zero")  # its own
@pytest.mark.parametrize("seed", range(4))
def test_equal_to_quantus(seed):
    """Without tolerance, and where one maximum is the largest, as Quantus counts any of several."""
    quantus = pytest.importorskip("quantus")
    map = torch.randn(12, 9, generator=generator_of(seed, "0"), dtype=torch.float64)
    box = ((0, 0, 12, 6), (3, 2, 9, 9), (0, 0, 12, 9), (4, 4, 5, 5))[seed]
    mask = inside((12, 9), [box]).numpy()[None, None]
    given = {
        "model": None,
        "x_batch": np.zeros((1, 1, 12, 9)),
        "y_batch": np.zeros(1, int),
        "a_batch": map.numpy()[None, None],
        "s_batch": mask,
        "channel_first": True,
    }
    quiet = {"normalise": False, "abs": False, "disable_warnings": True}
    (hit,) = quantus.PointingGame(**quiet)(**given)
    (share,) = quantus.AttributionLocalisation(positive_attributions=True, **quiet)(**given)
    assert pointed(map, [box], 0) == float(hit)
    assert energy_inside(map, [box]) == pytest.approx(float(share), abs=1e-8)


def test_the_blob_is_a_gaussian_of_a_quarter_of_each_side():
    map = centre(9, 21)
    for row, col in ((0, 0), (4, 10), (4, 0), (7, 15)):
        away = ((row - 4) / (9 / 4)) ** 2 + ((col - 10) / (21 / 4)) ** 2
        assert float(map[row, col]) == pytest.approx(math.exp(-away / 2))
    assert int(map.argmax()) == 4 * 21 + 10


@pytest.mark.parametrize("channels", [1, 3])
def test_edges_are_sobel_s(channels):
    image = photos(1, channels, 6, 7)
    grey = np.pad(image[0].mean(0).numpy(), 1, mode="edge")
    found = edges(image)[0]
    for r in range(6):
        for c in range(7):
            w = grey[r : r + 3, c : c + 3]
            down = (w[0, 0] + 2 * w[0, 1] + w[0, 2]) - (w[2, 0] + 2 * w[2, 1] + w[2, 2])
            across = (w[0, 0] + 2 * w[1, 0] + w[2, 0]) - (w[0, 2] + 2 * w[1, 2] + w[2, 2])
            assert float(found[r, c]) == pytest.approx(math.hypot(down, across), abs=1e-12)


def test_noise_is_a_photo_s_own_whatever_else_is_in_the_batch():
    images = photos(3)
    whole, alone = blind_maps(images, "abc", 1), blind_maps(images[1:2], "b", 1)
    assert torch.equal(whole["random"][1], alone["random"][0])
    assert not torch.equal(whole["random"][0], whole["random"][1])
    assert not torch.equal(whole["random"], blind_maps(images, "abc", 2)["random"])
    assert {name: map.dtype for name, map in whole.items()} == dict.fromkeys(whole, torch.float64)
