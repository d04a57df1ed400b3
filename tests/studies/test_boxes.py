"""Boxes on photos: how a file names photos, where its boxes lie on the canvas, and what is refused."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from convscope.errors import UsageError
from convscope.images.frame import Framing
from convscope.images.given import canvases
from convscope.models.classifier import Classifier
from convscope.studies.boxes import boxes_of, parts_of
from convscope.studies.subject import Album

NET = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 2))


def album_of(folder, photos, framing=None):
    """``photos``: name -> (height, width)."""
    paths = []
    for name, (height, width) in photos.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((height, width, 3), 90, np.uint8)).save(path)
        paths.append(path)
    framing = framing or Framing((32, 32), 40)
    classifier = Classifier(NET, framing=framing)
    images, seen = canvases(paths, framing, 3, "white")
    return Album.of(classifier, images, seen)


@pytest.fixture
def written(tmp_path):
    def write(told):
        file = tmp_path / "boxes.json"
        file.write_text(told if isinstance(told, str) else json.dumps(told), "utf-8")
        return file

    return write


def test_a_box_lies_where_resizing_and_cropping_bring_it(tmp_path, written):
    album = album_of(tmp_path, {"a.png": (80, 160), "b.png": (60, 40)})
    # a: 80x160 -> 40x80, the middle 32x32 begins at row 4, column 24. b: 60x40 -> 60x40, at row 14, column 4.
    found, notes = boxes_of(
        album, written({"a.png": [[20, 60, 40, 100], [0, 0, 80, 160]], "b.png": [[20, 10, 30, 40]]})
    )
    assert found == [((6, 6, 16, 26), (0, 0, 32, 32)), ((6, 6, 16, 32),)]
    assert notes == []


def test_a_box_covers_the_same_pixels_as_on_the_photo(tmp_path, written):
    """A photo that is white in the box alone: its canvas is white there, and nowhere else, to the resize's edges."""
    pixels = np.zeros((90, 120, 3), np.uint8)
    pixels[30:60, 45:75] = 255
    Image.fromarray(pixels).save(tmp_path / "p.png")
    framing = Framing((48, 48), 60)
    images, seen = canvases([tmp_path / "p.png"], framing, 3, "white")
    album = Album.of(Classifier(NET, framing=framing), images, seen)
    (((top, left, bottom, right),),), _ = boxes_of(album, written({"p.png": [[30, 45, 60, 75]]}))
    rows, cols = (images[0, 0] > 0.5).nonzero().unbind(1)
    assert (top, left, bottom, right) == (rows.min(), cols.min(), rows.max() + 1, cols.max() + 1)


def test_one_box_needs_no_list_and_whole_tensors_are_their_own_canvas(written):
    album = Album.of(Classifier(NET), torch.rand(2, 3, 20, 30))
    found, _ = boxes_of(album, written({"image 1": [2, 3, 10, 12.4]}))
    assert found == [(), ((2, 3, 10, 12),)]


def test_parts_by_name(tmp_path, written):
    album = album_of(tmp_path, {"a.png": (40, 40), "b.png": (40, 40)}, Framing((40, 40)))
    found, _ = parts_of(album, written({"b.png": {"right eye": [1, 2, 3, 4], "nose": [5, 6, 7, 8]}}))
    assert found == [{}, {"right eye": (1, 2, 3, 4), "nose": (5, 6, 7, 8)}]
    assert parts_of(album, {"b.png": {"right eye": (1, 2, 3, 4), "nose": [5, 6, 7, 8]}})[0] == found


@pytest.mark.parametrize("name", ["cats/p.png", "cats\\p.png"])
def test_files_called_the_same_are_told_apart_by_their_folders(tmp_path, written, name):
    album = album_of(tmp_path, {"dogs/p.png": (40, 40), "cats/p.png": (40, 40)}, Framing((40, 40)))
    found, _ = boxes_of(album, written({name: [[0, 0, 5, 5]]}))
    assert found == [(), ((0, 0, 5, 5),)]
    with pytest.raises(UsageError, match=r"2 photos are called p\.png: name them with their folders"):
        boxes_of(album, written({"p.png": [[0, 0, 5, 5]]}))
    with pytest.raises(UsageError, match=r"names cats/p\.png twice"):
        boxes_of(album, written({name: [], f"{tmp_path.name}/cats/p.png": []}))


def test_what_is_left_out_is_said(tmp_path, written):
    album = album_of(tmp_path, {"a.png": (80, 160)})
    found, notes = boxes_of(album, written({"a.png": [[0, 0, 80, 20], [20, 60, 40, 100]], "other.png": []}))
    assert found == [((6, 6, 16, 26),)]  # the first lies left of the crop
    assert notes == [
        "boxes.json names photos that are not studied here: other.png",
        "left out, lying outside of what the network sees of its photo: 1 box",
    ]


REFUSED = {
    "no JSON": ("{", r"is not JSON \(line 1\): boxes are written as"),
    "no names": ("[1]", "holds no names of photos"),
    "another photo": ({"b.png": []}, r"names none of the photos: it has b\.png, the photos are a\.png"),
    "nothing": ({}, "it has no name"),
    "twice": ('{"a.png": [], "a.png": []}', r"names a\.png twice"),
    "parts": ({"a.png": {"eye": [1, 1, 2, 2]}}, r"of a\.png a list of boxes is expected"),
    "three numbers": ({"a.png": [[1, 2, 3]]}, r"a box is four numbers, \[top, left, bottom, right\], got \[1, 2, 3\]"),
    "words": ({"a.png": [["a", 2, 3, 4]]}, "a box is four numbers"),
    "truth": ({"a.png": [[True, 2, 3, 4]]}, "a box is four numbers"),
    "not finite": ('{"a.png": [[0, 0, NaN, 4]]}', "a box is four numbers"),
    "inside out": ({"a.png": [[9, 0, 5, 4]]}, "holds nothing"),
    "beyond": ({"a.png": [[0, 0, 40, 81]]}, "reaches beyond the photo of 80 rows and 80 columns"),
    "below zero": ({"a.png": [[-1, 0, 40, 8]]}, "reaches beyond the photo"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused_in_one_line(tmp_path, written, case):
    told, line = REFUSED[case]
    album = album_of(tmp_path, {"a.png": (80, 80)})
    with pytest.raises(UsageError, match=line) as refusal:
        boxes_of(album, written(told))
    assert "\n" not in str(refusal.value)


def test_no_file_and_boxes_where_parts_are_meant(tmp_path, written):
    album = album_of(tmp_path, {"a.png": (80, 80)})
    with pytest.raises(UsageError, match="there is no file of boxes"):
        boxes_of(album, tmp_path / "missing.json")
    with pytest.raises(UsageError, match=r"^the given dict: of a\.png a list of boxes is expected"):
        boxes_of(album, {"a.png": {"nose": (1, 1, 2, 2)}})
    with pytest.raises(UsageError, match=r"^the given dict names none of the photos"):
        boxes_of(album, {"b.png": [(1, 1, 2, 2)]})
    with pytest.raises(UsageError, match="cannot be read"):
        boxes_of(album, tmp_path)
    with pytest.raises(UsageError, match=r"of a\.png named parts are expected"):
        parts_of(album, written({"a.png": [[1, 1, 2, 2]]}))
    with pytest.raises(UsageError, match=r"eye of a\.png: a box is four numbers"):
        parts_of(album, written({"a.png": {"eye": 3}}))
