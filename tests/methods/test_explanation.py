"""Explanations: rows, notes, files and pictures of every kind of result."""

import io
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open

from convscope.errors import UsageError
from convscope.instrument.target import Target
from convscope.methods import METHODS, configure
from convscope.methods.explanation import Explanation
from convscope.methods.registry import Traits
from convscope.models.classifier import Classifier
from tests.nets import QUICK, Skip, classifier_of, photos, seeded

ONE_OF_EACH = ["grad-cam", "occlusion", "rise", "gradient", "vargrad", "activations", "filters"]


def explained(name, images=None, classifier=None):
    images = photos(2) if images is None else images
    target = Target(index=tuple(range(len(images))))
    return configure(name, QUICK.get(name)).run(classifier or classifier_of(Skip()), images, target)


def of(raw, kind="map", sign="signed"):
    return Explanation(raw, "test", Traits(kind, sign), images=torch.zeros(len(raw), 3, *raw.shape[-2:]))


def test_a_row_alone_keeps_what_is_its_own():
    both = explained("grad-cam")
    second = both[1]
    assert torch.equal(second.raw, both.raw[1:])
    assert second.labels == ("class 1",)
    assert float(second.scores) == float(both.scores[1])
    assert second.target.index == (1,)
    assert torch.equal(second.images, both.images[1:])
    assert torch.equal(both[-1].raw, second.raw)
    assert len(both[:1]) == 1
    with pytest.raises(IndexError):
        both[2]


@pytest.mark.parametrize("name", METHODS)
def test_every_result_is_a_picture(name):
    found = explained(name)
    png = Image.open(io.BytesIO(found._repr_png_()))
    assert np.ptp(np.asarray(png.convert("L"))) > 50, "a grey blur"
    assert name in found.title
    assert name in repr(found)


@pytest.mark.parametrize("name", ONE_OF_EACH)
def test_a_picture_of_bfloat16_and_of_one_channel(name):
    net = seeded(Skip(channels=1)).to(torch.bfloat16)
    found = explained(name, photos(1, channels=1).to(torch.bfloat16), Classifier(net))
    assert found.raw.dtype == torch.bfloat16
    assert found.sheet().width > 0


def drawn_as_such(picture):
    return (200, 0, 120) in {colour for _, colour in picture.convert("RGB").getcolors(2**24)}


@pytest.mark.parametrize("name", ONE_OF_EACH)
def test_what_is_not_finite_is_drawn_as_such_and_said(tmp_path, name):
    classifier = classifier_of(Skip())
    for parameter in classifier.parameters():
        parameter.data.fill_(torch.nan)
    found = explained(name, classifier=classifier)
    assert any("not finite" in note for note in found.notes)
    assert drawn_as_such(found.sheet())
    assert all(drawn_as_such(Image.open(file)) for file in found.save_each(tmp_path))
    if found.traits.kind != "weights":
        assert drawn_as_such(found.picture())
    if found.traits.kind == "features":
        assert drawn_as_such(found.merged())


def test_maps_and_pixels_lie_over_the_photo_features_and_weights_do_not():
    assert explained("grad-cam").overlay().size == (30, 24)
    assert explained("gradient").overlay(1).size == (30, 24)
    for name in ("activations", "filters"):
        with pytest.raises(UsageError, match="has no map on the photo"):
            explained(name).overlay()


def test_signed_maps_are_red_and_blue_about_white():
    raw = torch.zeros(1, 8, 8)
    raw[0, 0, 0], raw[0, 7, 7] = 1, -1
    pixels = np.asarray(of(raw).picture()).astype(int)
    red, blue, nothing = pixels[0, 0], pixels[7, 7], pixels[3, 3]
    assert red[0] > red[2] + 50
    assert blue[2] > blue[0] + 50
    assert np.ptp(nothing) < 10


@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
def test_the_numbers_in_a_file(tmp_path, suffix):
    found = explained("grad-cam")
    path = found.save(tmp_path / "deep" / f"cam{suffix}")
    if suffix == ".pt":
        assert torch.equal(torch.load(path, weights_only=True)["raw"], found.raw)
        return
    with safe_open(path, "pt") as file:
        assert torch.equal(file.get_tensor("raw"), found.raw)
        about = json.loads(file.metadata()["about"])
    assert about["method"] == "grad-cam"
    assert about["layer"] == "relu4"
    assert about["targets"] == ["class 0", "class 1"]


@pytest.mark.parametrize("name", METHODS)
def test_what_is_said_of_a_result_is_plain(name):
    found = explained(name)
    assert json.loads(json.dumps(found.about()))["shape"] == list(found.raw.shape)


def test_a_picture_in_a_file_and_what_is_no_format(tmp_path):
    found = explained("grad-cam")
    assert Image.open(found.save(tmp_path / "cam.png")).size == found.sheet().size
    with pytest.raises(UsageError, match=r"cam\.gif: save as"):
        found.save(tmp_path / "cam.gif")


@pytest.mark.parametrize(("name", "count"), [("activations", 5), ("filters", 6), ("grad-cam", 3), ("gradient", 3)])
def test_each_part_in_a_file_of_its_own(tmp_path, name, count):
    found = explained(name)
    files = found.save_each(tmp_path / "one", 0)
    assert len(files) == len({*(tmp_path / "one").iterdir()}) == count
    assert all(Image.open(file).width > 0 for file in files)
    if name != "filters":
        every = found.save_each(tmp_path / "all")
        assert [file.relative_to(tmp_path / "all") for file in every] == [
            Path(f"{row:03d}", file.name) for row in range(len(found)) for file in files
        ]
        assert (tmp_path / "all/000/" / files[0].name).read_bytes() == files[0].read_bytes()


def test_merged_is_for_feature_maps():
    assert explained("activations").merged().size[0] > 0
    with pytest.raises(UsageError, match="merged"):
        explained("grad-cam").merged()


@pytest.mark.parametrize(
    ("raw", "said"),
    [
        (torch.zeros(1, 2, 2), ["the map is zero everywhere: nothing was found for this target"]),
        (torch.stack([torch.zeros(2, 2), torch.ones(2, 2)]), ["zero everywhere, nothing was found: row 0"]),
        (torch.stack([torch.full((2, 2), torch.nan), torch.ones(2, 2)]), ["row 0 is not finite"]),
        (torch.tensor([[[1.0, -torch.inf]]]), ["row 0 is not finite"]),
        (torch.ones(3, 2, 2), []),
    ],
)
def test_faults_are_noted(raw, said):
    from convscope.methods.explanation import faults

    found = faults(raw, Traits("map", "positive"))
    assert len(found) == len(said)
    assert all(note.startswith(start) for note, start in zip(found, said, strict=True))
