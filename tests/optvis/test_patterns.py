"""One result: its pictures, sheets, files and figures in plain types."""

import io
import json

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file
from torch import nn

import convscope as cs
from convscope.errors import UsageError
from convscope.images.lettering import fitted, font
from convscope.images.sheet import GAP, MARK
from convscope.models.classifier import Classifier
from convscope.optvis.patterns import DEAD, STUCK, Patterns, _label, joined, pattern_sheet, plain
from convscope.optvis.recipes import CLASSIC, FOURIER
from tests.nets import photos, seeded
from tests.optvis.small import QUICK, small


def patterns(count=4, channels=3, side=20, recipe=FOURIER, verdicts=None, natural=float("nan"), title="act"):
    """Some that nobody made: their pixels and figures are told apart."""
    raw = photos(count, channels, side, side)
    figures = torch.arange(count, dtype=torch.float64)
    rest = {"before": figures, "after": figures + 10, "peaks": figures + 20}
    names = tuple(f"{title}:{i}" for i in range(count))
    rest |= {"natural": torch.full((count,), natural, dtype=torch.float64), "verdicts": verdicts or ("",) * count}
    return Patterns(raw, names, recipe, **rest, settings={"steps": 6}, title=title, notes=("a note",))


@pytest.fixture(scope="module")
def found():
    return small()[1].visualize("act:0-3", photos=photos(2, height=24, width=24), **QUICK)


# --- some of them


@pytest.mark.parametrize(
    ("rows", "names"),
    [
        (1, [1]),
        (-1, [3]),
        (-4, [0]),
        (np.int64(2), [2]),
        (torch.tensor(0), [0]),
        (slice(1, 3), [1, 2]),
        (slice(None, None, -1), None),
        (slice(None), [0, 1, 2, 3]),
        (slice(9, None), []),
    ],
)
def test_some_of_them_are_patterns_too(rows, names):
    whole = patterns(verdicts=("", STUCK, DEAD, ""))
    if names is None:
        with pytest.raises(ValueError, match="step must be greater than zero"):
            whole[rows]
        return
    some = whole[rows]
    assert some.names == tuple(f"act:{i}" for i in names)
    assert len(some) == len(names)
    assert some.verdicts == tuple(whole.verdicts[i] for i in names)
    for name in ("raw", "before", "after", "peaks", "natural"):
        one, all_of_them = getattr(some, name), getattr(whole, name)
        assert torch.equal(one.nan_to_num(-1), all_of_them[names].nan_to_num(-1)), name
    assert (some.settings, some.title, some.notes) == (whole.settings, whole.title, whole.notes)


@pytest.mark.parametrize("row", [4, -5])
def test_one_that_is_not_there_is_an_error_and_the_end_of_a_loop(row):
    with pytest.raises(IndexError, match="of 4"):
        patterns()[row]
    assert [one.names for one in patterns()] == [(f"act:{i}",) for i in range(4)]


def test_batches_joined_are_all_of_them_with_each_note_once():
    whole = patterns(verdicts=("", STUCK, "", DEAD))
    again = joined([whole[:1], whole[1:3], whole[3:]])
    assert again.names == whole.names
    assert again.verdicts == whole.verdicts
    assert torch.equal(again.raw, whole.raw)
    assert torch.equal(again.after, whole.after)
    assert again.notes == ("a note",)


# --- pictures


def test_a_picture_is_its_pixels_rounded():
    one = patterns()
    for row in range(4):
        pixels = np.asarray(one.picture(row)).astype(float)
        assert np.abs(pixels - one.raw[row].permute(1, 2, 0).numpy() * 255).max() <= 0.5 + 1e-9


def test_one_channel_is_grey_and_five_stand_side_by_side():
    grey = patterns(channels=1).picture()
    assert grey.size == (20, 20)
    pixels = np.asarray(grey.convert("RGB"))
    assert (pixels == pixels[:, :, :1]).all()
    five = patterns(channels=5)
    beside = np.asarray(five.picture().convert("RGB"))
    assert beside.shape == (20, 100, 3)
    for channel in range(5):
        own = beside[:, 20 * channel : 20 * channel + 20, 0].astype(float)
        assert np.abs(own - five.raw[0, channel].numpy() * 255).max() <= 0.5 + 1e-9


def test_the_classic_recipe_sets_the_contrast():
    one = patterns(recipe=CLASSIC)
    pixels = np.asarray(one.picture()) / 255
    values = one.raw[0].permute(1, 2, 0).numpy()
    wanted = ((values - values.mean()) / values.std() * 0.1 + 0.5).clip(0, 1)
    assert np.abs(pixels - wanted).max() < 0.003
    assert pixels.std() == pytest.approx(0.1, abs=0.002)


@pytest.mark.parametrize("channels", [1, 2, 5])
def test_networks_of_other_numbers_of_channels_have_patterns_too(channels):
    net = seeded(nn.Sequential(nn.Conv2d(channels, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()), 1)
    scope = cs.Scope(Classifier(net, channels=channels), progress=False)
    for recipe in ("fourier", "maco", "classic"):
        found = scope.visualize("0:1", steps=20, size=16, recipe=recipe)
        assert found.raw.shape == (1, channels, 16, 16)
        assert found.after > found.before
        assert found.picture().size == (16 * channels, 16)


# --- sheets


def cells(sheet, columns, side=128):
    """Which tiles of a sheet have the red of a cross, from left to right."""
    marked = (np.asarray(sheet).astype(int) == MARK).all(-1)
    return [bool(marked[:, 12 + i * (side + 6) :][:, :side].any()) for i in range(columns)]


def test_a_sheet_has_every_picture_and_crosses_out_those_that_did_not_start():
    one = patterns(side=128, verdicts=("", STUCK, "", DEAD))
    sheet = one.sheet()
    assert cells(sheet, 4) == [False, True, False, True]
    assert not any(cells(patterns(side=128).sheet(), 4))
    array, (top, left) = np.asarray(sheet), _place(sheet, one.picture(0))
    for i in (0, 2):
        there = array[top : top + 128, left + i * 134 : left + i * 134 + 128]
        assert (there == np.asarray(one.picture(i))).all()


def _place(sheet, picture):
    """Where a picture's first pixels are."""
    array, wanted = np.asarray(sheet), np.asarray(picture)[0, :8]
    for row in range(array.shape[0]):
        if (array[row, 12:20] == wanted).all():
            return row, 12
    raise AssertionError("the picture is not on the sheet")


def test_words_of_verdicts_differ():
    dead, stuck = (patterns(1, side=128, verdicts=(word,)).sheet() for word in (DEAD, STUCK))
    assert dead.size == stuck.size
    assert (np.asarray(dead) != np.asarray(stuck)).any()


@pytest.mark.parametrize("size", [0, 1e-7, 4.56e-4, 0.0123, 0.378, 3.456, 45.67, 99.99, 345.6, 1724.4, 45678, 3e7])
def test_figures_under_the_smallest_picture_are_whole(size):
    """None of them shortened by an ellipsis, and near to what they are."""
    row = {"name": "act:511", "before": -size, "after": -1.1 * size, "peak": -size, "natural": size}
    face = font(15, "x")
    lines = _label(row, "act")
    for line in lines:
        assert fitted(line, face, 128 - GAP) == "".join(line)
    assert "".join(lines[0]) == "511"
    before, after = map(float, "".join(lines[1]).split(" to "))
    assert before == pytest.approx(-size, rel=0.2)
    assert after == pytest.approx(-1.1 * size, rel=0.2)
    assert float("".join(lines[3]).removeprefix("photos ")) == pytest.approx(size, rel=0.2)


def test_photos_add_lines_to_each_label():
    without, against = patterns().sheet(), patterns(natural=3.0).sheet()
    assert against.height > without.height


@pytest.mark.parametrize(("count", "columns"), [(3, 3), (8, 8), (9, 8), (64, 8), (65, 16), (70, 16)])
def test_a_sheet_is_as_wide_as_is_legible(count, columns):
    assert patterns(count, side=4).sheet().width == columns * 134 - 6 + 24
    assert patterns(count, side=4).sheet(columns=2, tile=200).width == 2 * 206 - 6 + 24


def test_names_have_no_prefix_on_a_sheet_and_no_picture_is_no_sheet():
    one = patterns(2)
    pictures = [one.picture(row) for row in range(2)]
    bare = [row | {"name": row["name"].removeprefix("act:")} for row in one.rows()]
    with_prefix = pattern_sheet(pictures, one.rows(), one.heading, prefix="act")
    assert (np.asarray(with_prefix) == np.asarray(pattern_sheet(pictures, bare, one.heading))).all()
    with pytest.raises(UsageError, match="at least one picture"):
        one[2:].sheet()


# --- files


def test_numbers_come_back_as_they_were(tmp_path, found):
    path = found.save(tmp_path / "new" / "p.safetensors")
    tensors = load_file(path)
    assert set(tensors) == {"raw", "before", "after", "peaks", "natural"}
    for name, tensor in tensors.items():
        assert torch.equal(tensor, getattr(found, name)), name
    with safe_open(path, "pt") as opened:
        assert json.loads(opened.metadata()["about"]) == found.about()


@pytest.mark.parametrize("name", ["p.png", "p.PNG", "p.jpg", "p.webp"])
def test_a_picture_file_is_the_sheet(tmp_path, found, name):
    with Image.open(found.save(tmp_path / name)) as opened:
        assert opened.size == found.sheet().size
        if name.lower().endswith("png"):
            assert (np.asarray(opened) == np.asarray(found.sheet())).all()


def test_other_endings_are_refused(tmp_path, found):
    with pytest.raises(UsageError, match=r"p.gif: save as .safetensors"):
        found.save(tmp_path / "p.gif")


def test_each_alone_is_named_after_its_unit(tmp_path, found):
    files = found.save_each(tmp_path / "each")
    assert [file.name for file in files] == [f"act_{i}.png" for i in range(4)]
    for row, file in enumerate(files):
        with Image.open(file) as opened:
            assert (np.asarray(opened.convert("RGB")) == np.asarray(found.picture(row).convert("RGB"))).all()
    twice = joined([found[:1], found[:1]]).save_each(tmp_path / "twice", size=40)
    assert [file.name for file in twice] == ["act_0.png", "act_0-2.png"]
    assert Image.open(twice[1]).size == (40, 40)


# --- for a notebook, and in plain types


def test_what_is_said_of_them_is_json(found):
    about = json.loads(json.dumps(found.about(), allow_nan=False))
    assert about["settings"] == {
        "model": "Small",
        "recipe": "fourier",
        "steps": 6,
        "size": [24, 24],
        "seed": 0,
        "negative": False,
        "transforms": [str(transform) for transform in FOURIER.how.transforms],
    }
    first = about["patterns"][0]
    assert first["name"] == "act:0"
    assert first["after"] == float(found.after[0])
    assert first["natural"] == float(found.natural[0])
    assert patterns().rows()[2] == {
        "name": "act:2",
        "before": 2.0,
        "after": 12.0,
        "peak": 22.0,
        "natural": None,
        "verdict": "",
    }


def test_it_says_in_a_line_what_it_is():
    assert repr(patterns()) == "<Patterns act: fourier, 256 steps, 20x20: 4>"
    assert repr(patterns(verdicts=("", STUCK, DEAD, ""))) == (
        "<Patterns act: fourier, 256 steps, 20x20: 4, 2 did not rise>"
    )


def test_a_notebook_is_shown_the_sheet(found):
    with Image.open(io.BytesIO(found._repr_png_())) as opened:
        assert (np.asarray(opened) == np.asarray(found.sheet())).all()
    figure = found.plot()
    assert [round(side * 100) for side in figure.get_size_inches()] == list(found.sheet().size)


def test_pixels_are_within_their_scale(found):
    assert 0 <= float(found.raw.min()) < float(found.raw.max()) <= 1


def test_pictures_that_are_of_no_unit_have_scores_and_a_verdict():
    from convscope.optvis.render import render

    net, scope = small()
    with torch.no_grad():
        net.two.weight[0], net.two.bias[0] = 0, -1.0
    objective = cs.optvis.channel("act", [0, 1])
    made = render(scope.classifier, objective, FOURIER.with_steps(3).how, (3, 24, 24), [1, 2])
    found = plain(scope.classifier, made, ("one", "two"), FOURIER.with_steps(3), "a title", 7)
    assert found.verdicts == (STUCK, "")
    assert found.notes == ("one did not start",)
    assert bool(found.peaks.isnan().all())
    assert found.settings == {"model": "Small", "recipe": "fourier", "steps": 3, "seed": 7, "size": [24, 24]}
