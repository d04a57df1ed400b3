"""Correspondence: signs of changes on networks whose features are the pixels, by hand and by loops."""

import json

import numpy as np
import pytest
import torch
from torch import nn

from convscope.errors import UsageError
from convscope.models.classes import Classes
from convscope.models.classifier import Classifier
from convscope.studies import configure
from convscope.studies.correspondence import _signs_apart
from convscope.studies.subject import Album
from tests.nets import photos


class Pixels(nn.Module):
    """Layer ``pixels`` is the photo."""

    def __init__(self):
        super().__init__()
        self.pixels = nn.Identity()

    def forward(self, x):
        return self.pixels(x).mean((2, 3))[:, :2]


def album(images, names=None):
    own = Album.of(Classifier(Pixels(), Classes(("a", "b")), channels=3), images)
    return own if names is None else Album(own.classifier, images, tuple(names), own.known)


def parts(folder, told):
    file = folder / "parts.json"
    file.write_text(json.dumps(told))
    return file


def signs_apart(clean, hidden, skip):
    """Feature by feature."""
    count, numbers = clean.shape
    found = np.zeros((count, count))
    for i in range(count):
        for j in range(count):
            own = [np.sign((clean[k] - hidden[k]).numpy()) for k in (i, j)]
            kept = [n for n in range(numbers) if not skip or (own[0][n] != 0 and own[1][n] != 0)]
            found[i, j] = np.mean([own[0][n] != own[1][n] for n in kept]) if kept else np.nan
    return found


@pytest.mark.parametrize("skip", [False, True])
def test_signs_by_loops(skip):
    generator = torch.Generator().manual_seed(0)
    clean = torch.rand(5, 40, generator=generator, dtype=torch.float64)
    change = torch.randint(-1, 2, (5, 40), generator=generator) * torch.rand(5, 40, generator=generator)
    found, zeros = _signs_apart(clean, clean - change, skip)
    np.testing.assert_allclose(found, signs_apart(clean, clean - change, skip))
    assert zeros == pytest.approx(float((change == 0).double().mean()))


def test_what_rounding_changes_is_no_change():
    clean = torch.rand(2, 30) + 1
    found, zeros = _signs_apart(clean, clean * (1 + 2e-7), False)
    assert (found == 0).all()
    assert zeros == 1


def test_the_same_part_changes_alike_and_another_does_not(tmp_path):
    """Three bright photos and three dark ones with a bright part at one place: grey makes it darker in all, what
    surrounds it darker in three and brighter in three."""
    images = torch.full((6, 3, 16, 16), 0.2, dtype=torch.float64)
    images[:3] = 0.8
    images[:, :, 4:8, 4:8] = 0.9
    names = [f"{i}.png" for i in range(6)]
    file = parts(tmp_path, {name: {"spot": [4, 4, 8, 8]} for name in names})
    study = configure("correspondence", {"parts": str(file), "layers": "pixels", "draws": 20, "zeros": "three"})
    found = study.run(album(images, names))
    row = found.table().records()[0]
    assert (row["layer"], row["part"], row["photos"]) == ("pixels", "spot", 6)
    assert row["distance"] == row["low"] == row["high"] == 0.0
    assert row["zeros"] == pytest.approx(1 - 16 / 256)
    assert row["random"] > 0.05
    assert row["difference"] == pytest.approx(row["distance"] - row["random"])
    assert row["difference high"] < 0
    assert "known as the same part" in found.findings[0]
    assert any("94% of pixels" in note for note in found.notes)
    assert found.picture().width > 300
    few = study.run(album(images[:5], names[:5]))
    assert few.table().records()[0]["difference high"] < 0
    assert few.findings[0].endswith("too few photos to say (at least 6)")


def test_the_figure_of_a_part_is_the_mean_over_pairs(tmp_path):
    images = photos(3, 3, 12, 14)
    names = ["a.png", "b.png", "c.png"]
    boxes = {"a.png": [1, 2, 5, 6], "b.png": [3, 3, 9, 8], "c.png": [0, 0, 4, 14]}
    file = parts(tmp_path, {name: {"eye": box} for name, box in boxes.items()})
    for fill, level in (("grey", 0.5), ("black", 0.0)):
        study = configure("correspondence", {"parts": file, "layers": "pixels", "fill": fill, "draws": 1})
        found = study.run(album(images, names))
        hidden = images.clone()
        for row, (top, left, bottom, right) in enumerate(boxes.values()):
            hidden[row, :, top:bottom, left:right] = level
        apart = signs_apart(images.flatten(1), hidden.flatten(1), skip=False)
        assert found.table().records()[0]["distance"] == pytest.approx((apart[0, 1] + apart[0, 2] + apart[1, 2]) / 3)
        assert found.table("pairs").column("distance") == pytest.approx([apart[0, 1], apart[0, 2], apart[1, 2]])


def test_random_boxes_lie_on_no_part_where_there_is_room(tmp_path, monkeypatch):
    images = photos(2, 3, 20, 20)
    told = {"eye": [0, 0, 10, 20], "nose": [10, 0, 12, 4]}
    file = parts(tmp_path, dict.fromkeys(("a", "b"), told))
    seen = []

    def hidden(images, boxes, fill):
        seen.append(boxes)
        return images

    monkeypatch.setattr("convscope.studies.correspondence._hidden", hidden)
    found = configure("correspondence", {"parts": file, "layers": "pixels", "draws": 30}).run(album(images, ["a", "b"]))
    eye, *eyes = seen[:31]
    nose, *noses = seen[31:]
    assert eye == [(0, 0, 10, 20)] * 2
    assert nose == [(10, 0, 12, 4)] * 2
    assert all(bottom - top == 2 and right - left == 4 for boxes in noses for top, left, bottom, right in boxes)
    assert all(top >= 10 and (left >= 4 or top >= 12) for boxes in noses for top, left, _, _ in boxes)
    assert len({tuple(boxes) for boxes in noses}) > 5
    # Ten rows below are no room for an eye of ten beside a nose.
    assert len(eyes) == 30
    assert "60 random boxes lie on a named part: there was no room beside them" in found.notes


def test_a_pair_is_as_far_apart_whatever_photos_are_beside_it():
    clean = torch.rand(3, 50)
    hidden = clean - 1e-4 * torch.randn(3, 50)
    alone, _ = _signs_apart(clean[:2], hidden[:2], False)
    clean[2] *= 1e6
    beside, _ = _signs_apart(clean, hidden, False)
    np.testing.assert_array_equal(alone, beside[:2, :2])
    assert alone[0, 1] > 0.2


def test_a_part_that_is_grey_already_compares_with_nothing(tmp_path):
    images = torch.rand(5, 3, 12, 12, dtype=torch.float64)
    images[2, :, :4, :4] = 0.5
    names = list("abcde")
    file = parts(tmp_path, {name: {"eye": [0, 0, 4, 4]} for name in names})
    study = configure("correspondence", {"parts": file, "layers": "pixels", "zeros": "skip"})
    found = study.run(album(images, names))
    rows = found.table("pairs").records()
    told = [row["distance"] for row in rows if "c" not in (row["photo"], row["other"])]
    assert [row["distance"] for row in rows if "c" in (row["photo"], row["other"])] == [None] * 4
    assert found.table().records()[0]["distance"] == pytest.approx(np.mean(told))
    images[:, :, :4, :4] = 0.5
    assert "there is nothing to compare" in study.run(album(images, names)).findings[0]


def test_the_seed_draws_the_boxes(tmp_path):
    file = parts(tmp_path, {name: {"eye": [0, 0, 3, 3]} for name in ("a", "b")})
    study = configure("correspondence", {"parts": file, "layers": "pixels"})
    own = album(photos(2, 3, 12, 12), ["a", "b"])
    one, again, other = (study.run(own, seed).table().records()[0]["random"] for seed in (1, 1, 2))
    assert one == again != other


@pytest.mark.parametrize(
    ("told", "settings", "words"),
    [
        (None, {}, "correspondence needs the photos' parts: --parts FILE.json"),
        ({"a": {"eye": [0, 0, 3, 3]}}, {}, "no part is seen in two photos"),
        ({"a": {"eye": [0, 0, 3, 3]}, "b": {"nose": [0, 0, 3, 3]}}, {}, "no part is seen in two photos"),
        ({"a": {"eye": [0, 0, 3, 3]}, "b": {"eye": [0, 0, 3, 99]}}, {}, "reaches beyond the photo of 12 rows"),
        ({"a": [[0, 0, 3, 3]]}, {}, "named parts are expected"),
        ({"a": {"eye": [0, 0, 3, 3]}, "b": {"eye": [0, 0, 3, 3]}}, {"draws": 0}, "draws must be at least 1"),
        ({"a": {"eye": [0, 0, 3, 3]}, "b": {"eye": [0, 0, 3, 3]}}, {"layers": "pixel"}, "unknown layer 'pixel'"),
    ],
)
def test_what_cannot_be_meant_is_one_line(tmp_path, told, settings, words):
    given = {} if told is None else {"parts": parts(tmp_path, told)}
    study = configure("correspondence", {"layers": "pixels", **given, **settings})
    with pytest.raises(UsageError, match=words) as error:
        study.run(album(photos(2, 3, 12, 12), ["a", "b"]))
    assert "\n" not in str(error.value)
