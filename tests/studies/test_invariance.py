"""Invariance: distances and probabilities on networks whose features are the pixels themselves."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from convscope.errors import UsageError
from convscope.models.classes import Classes
from convscope.models.classifier import Classifier
from convscope.studies import configure
from convscope.studies.invariance import versions
from convscope.studies.looks import drawn_of, on_layers
from convscope.studies.subject import Album
from tests.nets import photos


class Pixels(nn.Module):
    """Layer ``pixels`` is the photo; the logits are twice the mean of its upper half, and of its lower."""

    def __init__(self):
        super().__init__()
        self.pixels = nn.Identity()

    def forward(self, x):
        half = x.shape[2] // 2
        x = self.pixels(x)
        return 2 * torch.stack([x[:, :, :half].mean((1, 2, 3)), x[:, :, half:].mean((1, 2, 3))], 1)


def album(count=3, height=20, width=16, channels=3, labels=None):
    classifier = Classifier(Pixels(), Classes(("up", "down")), channels=channels)
    return Album.of(classifier, photos(count, channels, height, width), label=labels)


def shifted(image, down, right, level):
    """A photo moved by whole pixels, number by number."""
    channels, height, width = image.shape
    found = np.full((channels, height, width), level)
    for row in range(height):
        for col in range(width):
            if 0 <= row - down < height and 0 <= col - right < width:
                found[:, row, col] = image[:, row - down, col - right]
    return found


def test_shifts_by_hand():
    own = album()
    found = configure("invariance", {"layers": "pixels", "transforms": "shift,across", "steps": 5}).run(own)
    table = found.table("photos")
    moved = {("shift", d): (d, 0) for d in (-5, -2, 0, 2, 5)} | {("across", d): (0, d) for d in (-4, -2, 0, 2, 4)}
    assert {(row[1], row[2]) for row in table.rows} == set(moved)
    for name, transform, amount, distance, probability in table.rows:
        row = own.names.index(name)
        image = own.images[row].numpy()
        other = shifted(image, *moved[transform, amount], 0.5)
        assert distance == pytest.approx(math.sqrt(((image - other) ** 2).sum()), abs=1e-6)
        logits = [2 * other[:, :10].mean(), 2 * other[:, 10:].mean()]
        shares = np.exp(logits) / np.exp(logits).sum()
        assert probability == pytest.approx(shares[own.labels[row]], abs=1e-6)


def test_a_photo_that_is_not_moved_is_itself():
    own = album(1)
    for kind, amount in (("shift", 0.0), ("across", 0.0), ("scale", 1.0), ("rotation", 0.0)):
        assert torch.equal(versions(own.images, kind, [amount], "grey"), own.images)


@pytest.mark.parametrize("channels", [1, 3])
def test_a_quarter_turn_is_anticlockwise_and_exact(channels):
    square = photos(1, channels, 12, 12)
    found = versions(square, "rotation", [90.0], "grey")
    torch.testing.assert_close(found, torch.rot90(square, 1, (2, 3)), atol=1e-6, rtol=0)


def test_what_comes_in_is_the_fill():
    image = photos(1, 3, 10, 10)
    for fill, level in {"black": 0.0, "white": 1.0, "grey": 0.5}.items():
        found = versions(image, "shift", [4.0], fill)
        torch.testing.assert_close(found[:, :, :4], torch.full_like(found[:, :, :4], level))
    found = versions(image, "shift", [4.0], "mean")
    mean = image.mean((2, 3), keepdim=True).expand(-1, -1, 4, 10)
    torch.testing.assert_close(found[:, :, :4], mean)


def test_scale_enlarges_the_middle():
    """Twice as large, a photo's middle half fills it: bilinear in between, so compared on a smooth one."""
    rows = torch.linspace(0, 1, 40, dtype=torch.float64)
    image = rows[None, None, :, None].expand(1, 3, 40, 40).contiguous()
    found = versions(image, "scale", [2.0], "grey")[0, 0, 4:-4, 20]
    wanted = 0.5 + (rows[4:-4] - 0.5) / 2
    torch.testing.assert_close(found, wanted, atol=1e-6, rtol=0)


def test_relative_is_the_distance_over_that_between_photos():
    own = album(3)
    found = configure("invariance", {"layers": "pixels", "transforms": "shift", "steps": 3}).run(own)
    flat = own.images.flatten(1).numpy()
    apart = np.mean([np.linalg.norm(flat[i] - flat[j]) for i in range(3) for j in range(i)])
    curves = [row for row in found.table("curves").rows if row[3] in ("distance", "relative")]
    means = {(row[3], row[1]): row[5] for row in curves}
    for amount in (-5.0, 0.0, 5.0):
        assert means["relative", amount] == pytest.approx(means["distance", amount] / apart)
    photos_of = [row for row in found.table("photos").rows if row[2] == 5.0]
    assert means["distance", 5.0] == pytest.approx(np.mean([row[3] for row in photos_of]))
    summary = found.table("summary").records()[0]
    assert summary["smallest"] == "5 pixels up"
    assert summary["relative"] == pytest.approx(means["relative", -5.0])


def test_of_many_layers_a_figure_has_some_evenly():
    names = [f"layer {i}" for i in range(50)]
    assert drawn_of(names) == [f"layer {i}" for i in (0, 10, 20, 29, 39, 49)]
    assert drawn_of(names[:6]) == names[:6]
    assert on_layers(6) == ""
    layers = [nn.Conv2d(3, 3, 1) for _ in range(9)]
    net = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 2)).double()
    own = Album.of(Classifier(net, Classes(("up", "down"))), photos(2, 3, 12, 12))
    found = configure("invariance", {"layers": "?", "transforms": "shift", "steps": 3}).run(own)
    assert {row["layer"] for row in found.table("curves").records()} == {*"012345678", None, "9"}
    assert found.figure().caption.endswith("6 of 10 layers are drawn; the tables have all.")
    assert found.picture().width < 4000


def test_one_photo_has_no_relative_distance():
    found = configure("invariance", {"layers": "pixels", "transforms": "shift", "steps": 3}).run(album(1))
    assert found.table("summary").records()[0]["relative"] is None
    assert not [row for row in found.table("curves").rows if row[3] == "relative"]
    assert found.notes[-1] == "one photo: there is nothing that distances could be relative to"
    assert found.picture().width > 500


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"transforms": "turn"}, "unknown transform 'turn'"),
        ({"transforms": ""}, "no transform is named"),
        ({"steps": 1}, "steps must be at least 2"),
        ({"shift": 1.0}, "shift is a share of the side"),
        ({"scale": 1.0}, "scale is above 0 and not 1"),
        ({"layers": "pixels:3"}, "name the layer alone"),
        ({"layers": "pixel"}, "unknown layer 'pixel'; nearest: pixels"),
        ({"layers": ""}, "no layer is named"),
        ({"scale": "nan"}, "scale is nan, a finite number is needed"),
        ({"turn": "inf"}, "turn is inf, a finite number is needed"),
        ({"fill": "pink"}, "fill is 'pink', not one of"),
    ],
)
def test_what_cannot_be_meant_is_one_line(settings, words):
    with pytest.raises(UsageError, match=words) as error:
        configure("invariance", {"layers": "pixels", **settings}).run(album(1))
    assert "\n" not in str(error.value)
