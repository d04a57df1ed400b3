"""The photos of a study: which, of which class, and how boxes on them come to the canvas."""

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from convscope.errors import ImageError, UsageError
from convscope.images.frame import Framing
from convscope.images.given import canvases
from convscope.models.classes import Classes
from convscope.models.classifier import Classifier
from convscope.scope import Scope
from convscope.studies.subject import Album, drawn


class Redder(nn.Module):
    """The logit of class 0 is the mean red, of class 1 the mean green, of class 2 the mean blue."""

    def __init__(self):
        super().__init__()
        self.pixels = nn.Identity()

    def forward(self, x):
        return 10 * self.pixels(x).mean((2, 3))


def model(names=("cat", "dog, hound", "7"), size=(8, 8)):
    return Classifier(Redder(), Classes(tuple(names)), framing=Framing(size, size[0]), channels=3)


def save(path, colour, size=(12, 10)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, colour).save(path)
    return path


def album(classifier, paths, **more):
    images, seen = canvases([str(path) for path in paths], classifier.framing, 3, "white")
    return Album.of(classifier, images, seen, **more)


def test_the_class_is_what_the_folder_is_called_or_the_most_probable(tmp_path):
    paths = [
        save(tmp_path / "hound" / "a.png", "red"),
        save(tmp_path / "holiday" / "a.png", "blue"),
        save(tmp_path / "0" / "b.png", "green"),  # a number is nobody's index
        save(tmp_path / "7" / "c.png", "green"),  # unless a class is called so
    ]
    found = album(model(), paths)
    assert found.known == (1, None, None, 2)
    assert found.labels == (1, 2, 1, 2)
    assert found.target.index == (1, 2, 1, 2)
    assert found.names == ("hound/a.png", "holiday/a.png", "0/b.png", "7/c.png")
    assert found.notes == ["the class of 2 of 4 photos is not known: the most probable one stands for it"]
    assert found.about()["photos"][1] == {"name": "holiday/a.png", "class": "7", "known": False}


def test_a_label_for_all(tmp_path):
    found = album(model(), [save(tmp_path / "dog" / "a.png", "red")], label="cat")
    assert (found.known, found.labels, found.notes) == ((0,), (0,), [])
    with pytest.raises(UsageError, match="unknown class 'cow'"):
        album(model(), [tmp_path / "dog" / "a.png"], label="cow")


def test_tensors_are_named_by_number():
    found = Album.of(model(), torch.zeros(2, 3, 8, 8))
    assert found.names == ("image 0", "image 1")
    assert found.known == (None, None)


def test_probabilities_are_the_classifiers():
    images = torch.rand(20, 3, 8, 8)
    found = Album.of(model(), images)
    torch.testing.assert_close(found.probabilities, (10 * images.mean((2, 3))).softmax(1))


def test_photos_are_drawn_by_the_seed_before_they_are_read(tmp_path):
    for i in range(9):
        save(tmp_path / f"{i}.png", "red")
    (tmp_path / "broken.png").write_bytes(b"no photo")
    rows = drawn(10, 4, seed=1)
    assert len(set(rows.tolist())) == 4
    assert (rows == np.sort(rows)).all()
    assert (rows == drawn(10, 4, seed=1)).all()
    assert drawn(3, 4, 0).tolist() == drawn(3, None, 0).tolist() == [0, 1, 2]
    # The broken photo is the last: a seed that leaves it out does not read it.
    seed = next(seed for seed in range(100) if 9 not in drawn(10, 4, seed))
    scope = Scope(model(), progress=False)
    found = scope.study("invariance", str(tmp_path), sample=4, seed=seed, layers="pixels", steps=2)
    assert len(found.of["photos"]) == 4
    assert found.notes[0] == f"4 of 10 photos, drawn at random (seed {seed})"


@pytest.mark.parametrize(
    ("photo", "canvas", "box", "wanted"),
    [
        ((10, 10), (10, 10), (2, 3, 5, 9), (2, 3, 5, 9)),
        ((20, 20), (10, 10), (4, 6, 10, 18), (2, 3, 5, 9)),
        # Of 40 columns the middle 20 are seen, halved.
        ((20, 40), (10, 10), (0, 10, 20, 30), (0, 0, 10, 10)),
        ((20, 40), (10, 10), (4, 0, 8, 14), (2, 0, 4, 2)),
        ((20, 40), (10, 10), (4, 0, 8, 9), None),
    ],
)
def test_a_box_on_the_photo_comes_to_the_canvas(photo, canvas, box, wanted):
    placement = Framing(canvas, canvas[0]).place(*photo)
    assert placement.on_canvas(box) == wanted


def test_a_study_of_photos_is_written_where_it_is_asked(tmp_path):
    scope = Scope(model(), progress=False)
    settings = {"layers": "pixels", "transforms": "shift", "steps": 3}
    found = scope.study("invariance", torch.rand(2, 3, 8, 8), out=tmp_path / "out", **settings)
    assert (tmp_path / "out" / "summary.csv").read_text() == found.table("summary").csv()
    with pytest.raises(UsageError, match="a seed is 0 or more, got -1"):
        scope.study("invariance", torch.rand(2, 3, 8, 8), seed=-1, **settings)


def test_files_of_ones_own_are_not_replaced(tmp_path):
    (tmp_path / "photos.csv").write_text("mine")
    settings = {"layers": "pixels", "transforms": "shift", "steps": 3}
    with pytest.raises(UsageError, match=r"holds files of yours, such as photos\.csv: choose another folder"):
        Scope(model(), progress=False).study("invariance", torch.rand(2, 3, 8, 8), out=tmp_path, **settings)
    assert (tmp_path / "photos.csv").read_text() == "mine"


def test_a_broken_photo_is_left_out_and_said(tmp_path):
    good = [save(tmp_path / f"{i}.png", "red") for i in range(2)]
    (tmp_path / "broken.png").write_bytes(good[0].read_bytes()[:50])
    settings = {"layers": "pixels", "transforms": "shift", "steps": 3}
    found = Scope(model(), progress=False).study("invariance", tmp_path, **settings)
    assert [photo["name"] for photo in found.of["photos"]] == ["0.png", "1.png"]
    assert any(note.startswith("left out: ") and "broken.png" in note for note in found.notes)
    with pytest.raises(ImageError, match=r"broken\.png"):
        Scope(model(), progress=False).study("invariance", tmp_path / "broken.png", **settings)
    mixed = [good[0], tmp_path / "broken.png", Image.new("RGB", (8, 8))]
    found = Scope(model(), progress=False).study("invariance", mixed, **settings)
    assert [photo["name"] for photo in found.of["photos"]] == ["0.png", "photo 3"]
    boxes = {"parts": {name: {"nose": [0, 0, 2, 2]} for name in ("0.png", "broken.png")}}
    with pytest.raises(UsageError, match=r"give at least 2, got 1; .*broken\.png"):
        Scope(model(), progress=False).study("correspondence", [good[0], tmp_path / "broken.png"], **boxes)
    for file in good:
        file.write_bytes(b"no")
    with pytest.raises(ImageError, match=r"0\.png"):
        Scope(model(), progress=False).study("invariance", tmp_path, **settings)


@pytest.mark.parametrize(
    ("name", "given", "said"),
    [
        ("invariance", {"workers": 2}, "invariance is a study of photos, which takes no workers"),
        ("agreement", {"workers": 2, "options": {"copies": True}}, "which takes no options and no workers"),
        ("probes", {"label": "cat"}, "probes is a study of a data set, which takes no label"),
        ("transfer", {"sample": 5}, "transfer is a study of a data set, which takes no sample"),
        ("transfer", {"label": 0}, "transfer is a study of a data set, which takes no label"),
        ("invariance", {"workers": 0}, "invariance is a study of photos, which takes no workers"),
        ("invariance", {"sample": -1}, "sample is at least 1, got -1"),
        ("invariance", {"shift": 0.01}, "0.01 of 8 pixels is less than one pixel"),
    ],
)
def test_what_means_nothing_to_a_study_is_refused(name, given, said):
    with pytest.raises(UsageError, match=said):
        Scope(model(), progress=False).study(name, torch.rand(2, 3, 8, 8), **given)
