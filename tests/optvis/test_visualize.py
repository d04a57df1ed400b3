"""Patterns of layers: what addresses ask for, verdicts, figures beside brute force, folders, dreams and caricatures."""

import json

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import nn

import convscope as cs
from convscope.errors import Cancelled, ConvscopeError, UsageError
from convscope.instrument.address import parse_address
from convscope.instrument.forward import layer_maps
from convscope.models.classifier import Classifier
from convscope.optvis import channel, direction, diversity, neuron, pad, plan
from convscope.optvis.folder import LINES, PatternFolder
from convscope.optvis.recipes import FOURIER
from convscope.optvis.visualize import plan_patterns, visualize
from tests.nets import photos, seeded


class Small(nn.Module):
    """Two convolutions; a head over the mean, or one that takes 24x24 alone."""

    def __init__(self, fixed=False):
        super().__init__()
        self.one, self.two = nn.Conv2d(3, 6, 3, padding=1), nn.Conv2d(6, 8, 3, stride=2, padding=1)
        self.act = nn.ReLU()
        self.head = nn.Linear(8 * 12 * 12 if fixed else 8, 4)
        self.fixed = fixed

    def forward(self, x):
        x = self.act(self.two(F.relu(self.one(x))))
        return self.head(x.flatten(1) if self.fixed else x.mean((2, 3)))


def small(fixed=False, **options):
    net = seeded(Small(fixed), 4)
    return net, cs.Scope(net, classes=["cat", "dog, hound", "cow", "ant"], size=24, progress=False, **options)


QUICK = {"steps": 6}


def test_an_address_asks_for_units_neurons_or_classes():
    _, scope = small()
    cases = {
        "act": [f"act:{i}" for i in range(8)],
        "act:2-4": ["act:2", "act:3", "act:4"],
        "act:1@3,4": ["act:1@3,4"],
        "/relu": [f"/relu:{i}" for i in range(6)],
        "head:3": ["head:3"],
        "@logits": ["cat", "dog", "cow", "ant"],
        "@logits:dog, hound": ["dog"],
        "@logits:ant,1": ["ant", "dog"],
    }
    for what, names in cases.items():
        assert list(scope.visualize(what, steps=1).names) == names
    assert scope.visualize("act", [5, 1], steps=1).names == ("act:5", "act:1")
    assert scope.visualize("@logits", "hound", steps=1).names == ("dog",)


def test_a_units_picture_is_the_same_in_any_company_and_other_units_have_others():
    _, scope = small()
    alone, several, turned = (scope.visualize(what, **QUICK) for what in ("act:3", "act:0-7", "act:7,3"))
    assert torch.equal(alone.raw[0], several.raw[3])
    assert torch.equal(alone.raw[0], turned.raw[1])
    assert not torch.allclose(several.raw[2], several.raw[3])
    assert torch.equal(scope.visualize("act:3", seed=0, **QUICK).raw, alone.raw)
    assert not torch.allclose(scope.visualize("act:3", seed=1, **QUICK).raw, alone.raw)
    parted = scope.visualize("act", budget=1.0, **QUICK)
    assert torch.equal(parted.raw, several.raw)
    assert parted.names == several.names


def test_several_pictures_of_a_unit_are_less_alike_than_they_would_be():
    _, scope = small()
    options = {"size": 24, "steps": 60}
    several = scope.visualize("act:1", diversity=3, **options)
    assert several.names == ("act:1",) * 3
    layer = parse_address("act")

    def alike(images):
        maps = layer_maps(scope.classifier, images, layer).flatten(2)
        grams = F.normalize((maps @ maps.transpose(1, 2)).flatten(1), dim=1)
        cosines = grams @ grams.T
        return float(cosines.sum() - cosines.trace()) / 6

    plain = torch.cat([scope.visualize("act:1", seed=seed, **options).raw for seed in (1, 2, 3)])
    assert alike(several.raw) < alike(plain)
    assert bool((several.after > several.before).all())


def test_what_a_rectified_unit_wants_least_is_read_before_its_relu():
    _, scope = small()
    for what, before in (("act:2", "two"), ("/relu:2", "one"), ("two:2", "two")):
        found = scope.visualize(what, negative=True, steps=30)
        assert found.names == (f"-{before}:2",)
        assert found.after > found.before
        assert any("rectified" in note for note in found.notes) == (what != "two:2")
        maps = layer_maps(scope.classifier, found.raw, parse_address(before))
        assert float(maps[0, 2].mean()) == pytest.approx(-float(found.after))


def test_dead_units_and_those_that_do_not_start_are_named_and_crossed_out(tmp_path):
    net, scope = small()
    with torch.no_grad():
        net.two.weight[0] = 0
        net.two.bias[0] = -1.0  # no picture wakes it
        net.two.bias[1] = -1e4  # no picture that can be had does
        net.two.bias[2] = -abs(net.two.weight[2]).sum() / 3  # silent to noise, not to its picture
    found = scope.visualize("act:0-3", steps=200)
    assert found.verdicts[:2] == ("dead", "did not start")
    assert found.verdicts[3] == ""
    assert any("act:0 gave 0 at every step" in note for note in found.notes)
    assert any("act:1" in note and note.endswith("did not start") for note in found.notes)
    distance = np.abs(np.asarray(found.sheet()).astype(int) - np.array([235, 64, 52])).sum(2)
    assert (distance < 9).sum() > 500, "the red cross"
    assert [row["verdict"] for row in found.rows()] == list(found.verdicts)
    json.dumps(found.about())


def test_figures_are_those_of_the_pictures_and_of_the_photos():
    _, scope = small()
    images = photos(5, height=24, width=24)
    found = scope.visualize("act:0-3", photos=images, **QUICK)
    ours, theirs = (layer_maps(scope.classifier, x, parse_address("act"))[:, :4] for x in (found.raw, images))
    for unit in range(4):
        assert float(found.after[unit]) == pytest.approx(float(ours[unit, unit].mean()))
        assert float(found.peaks[unit]) == pytest.approx(float(ours[unit, unit].max()))
        assert float(found.natural[unit]) == pytest.approx(float(theirs[:, unit].max()))
    assert bool(scope.visualize("act:0", **QUICK).natural.isnan().all())
    logits = scope.visualize("@logits", photos=images, **QUICK)
    assert torch.allclose(logits.natural, scope.classifier(images).amax(0).detach())


def test_the_canvas_is_the_receptive_field_and_a_margin_or_what_the_network_takes():
    net, _ = small()
    free = cs.Scope(net, progress=False)
    assert plan.canvas_for(free.classifier, channel("act", 0).needs) == (54, 54)  # 5 and 48, in steps of 2
    _, fixed = small(fixed=True)
    assert fixed.visualize("head:0", steps=1).raw.shape[2:] == (24, 24)
    assert fixed.visualize("@logits", steps=1).raw.shape[2:] == (24, 24)
    wide = cs.Scope(net, size=(60, 80), progress=False)
    assert wide.visualize("act:0@29,39", steps=1).raw.shape[2:] == (60, 80)
    assert wide.visualize("act:0", size=(20, 30), steps=1).raw.shape[2:] == (20, 30)


@pytest.mark.parametrize(
    ("what", "options", "words"),
    [
        ("nolayer", {}, "unknown layer 'nolayer'"),
        ("act:8", {}, "unit 8 is out of range: act has 8 units"),
        ("act:1@99,2", {}, "position 99,2 is out of range: the maps of act are 12x12"),
        ("head:1@0,0", {}, "head has no rows and columns"),
        ("act:1", {"size": 1}, "one pixel"),
        ("act:1", {"size": 0}, "size"),
        ("act:1", {"steps": 0}, "at least 1 step"),
        ("act:1", {"diversity": 0}, "at least 1"),
        ("act:1", {"recipe": "fouriers"}, "nearest: fourier"),
        ("act:1", {"budget": 0.01}, "does not hold one pattern"),
        ("act:1", {"budget": float("nan")}, "must be positive and finite"),
        ("act:1", {"units": 2}, "names units already"),
        ("act", {"units": "two"}, "units of a layer are numbers"),
        ("@logits:cats", {}, "unknown class 'cats'; nearest: cat"),
        (channel("act", 1), {"units": 2}, "an objective has its units already"),
        (direction("act", torch.ones(3)), {}, "the direction has 3 numbers, act has 8 units"),
        (neuron("head", 1), {}, "head has no rows and columns"),
        (channel("act", 1) + diversity("head", 2), {}, "head has no rows and columns"),
    ],
)
def test_what_cannot_be_meant_is_refused_in_one_line(what, options, words):
    _, scope = small()
    with pytest.raises(UsageError) as caught:
        scope.visualize(what, **options)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_network_of_one_size_refuses_transforms_that_change_it():
    from dataclasses import replace

    _, scope = small(fixed=True)
    padded = replace(FOURIER, how=replace(FOURIER.how, transforms=(pad(0.2),)))
    with pytest.raises(UsageError, match="takes a canvas of 24x24 alone"):
        scope.visualize("@logits", recipe=padded)
    with pytest.raises(UsageError, match="does not run on a canvas of 30x30"):
        scope.visualize("@logits", size=30)


def test_it_can_be_cancelled():
    _, scope = small()
    with cs.reporting(cancel=lambda: True), pytest.raises(Cancelled):
        scope.visualize("act:1")


# the folder


def test_a_folder_is_gone_on_with(tmp_path):
    net, scope = small()

    def job(**options):
        return plan_patterns(scope.classifier, "act", **{**QUICK, "budget": 1.2, **options})

    made = job()
    folder = PatternFolder(tmp_path / "a")
    batches = made.batches()
    for _ in range(2):
        rows, found = next(batches)
        folder.keep(made, rows, found)
    (tmp_path / "a" / LINES).open("a").write('{"layer": "act", "fi')  # as a kill leaves it
    again = PatternFolder(tmp_path / "a")
    done = again.done(made)
    assert 0 < len(done) < 8
    for rows, found in made.batches(done):
        assert not set(rows) & done
        again.keep(made, rows, found)
    whole = PatternFolder(tmp_path / "b")
    for rows, found in made.batches():
        whole.keep(made, rows, found)
    for one in (again, whole):
        one.write_sheet(made)
    for file in (*(f"act/{i:04d}.png" for i in range(8)), "act.png"):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()
    assert [row["name"] for row in PatternFolder(tmp_path / "a").rows(made)] == [f"act:{i}" for i in range(8)]
    (tmp_path / "a" / "act" / "0003.png").unlink()
    fresh = PatternFolder(tmp_path / "a")
    assert fresh.done(made) == set(range(8)) - {3}
    for options in ({"seed": 1}, {"steps": 7}, {"size": 30}, {"recipe": "classic"}):
        assert fresh.done(job(**options)) == set()
    assert fresh.done(job(budget=50.0)) == set(range(8)) - {3}
    with torch.no_grad():
        net.one.weight[0, 0, 0, 0] += 1e-3
    assert fresh.done(job()) == set()


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ConvscopeError, match="cannot write"):
        PatternFolder(tmp_path / "file")


# one result


def test_patterns_are_saved_and_taken_apart(tmp_path):
    _, scope = small()
    found = scope.visualize("act:0-3", **QUICK)
    assert found[1].names == ("act:1",)
    assert torch.equal(found[-1].raw[0], found.raw[3])
    assert len(found[1:3]) == 2
    with pytest.raises(IndexError):
        found[4]
    from safetensors.torch import load_file

    assert torch.equal(load_file(found.save(tmp_path / "p.safetensors"))["raw"], found.raw)
    assert Image.open(found.save(tmp_path / "p.png")).size == found.sheet().size
    assert [file.name for file in found.save_each(tmp_path / "each")] == [f"act_{i}.png" for i in range(4)]
    assert found._repr_png_()[:4] == b"\x89PNG"
    assert "Patterns act: fourier, 6 steps" in repr(found)
    with pytest.raises(UsageError, match="save as"):
        found.save(tmp_path / "p.gif")
    assert found.raw.min() >= 0
    assert found.raw.max() <= 1


@pytest.mark.parametrize("channels", [1, 5])
def test_other_numbers_of_channels_have_patterns_too(channels):
    net = seeded(nn.Sequential(nn.Conv2d(channels, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()), 1)
    scope = cs.Scope(Classifier(net, channels=channels), progress=False)
    found = scope.visualize("0:1", steps=20, size=16)
    assert found.raw.shape == (1, channels, 16, 16)
    assert found.after > found.before
    assert found.picture().size == (16 * (1 if channels == 1 else channels), 16) or found.picture().size == (16, 80)


# photos


def test_a_dream_raises_the_layer_and_leaves_the_photo_to_be_seen():
    _, scope = small()
    photo = Image.effect_noise((40, 30), 50).convert("RGB").resize((80, 60), Image.Resampling.BICUBIC)
    found = scope.dream(photo, "act", steps=5)
    image, _ = scope.images(photo)
    energy = [layer_maps(scope.classifier, x, parse_address("act")).pow(2).mean() for x in (image.double(), found.raw)]
    assert energy[1] > 1.2 * energy[0]
    pair = torch.stack([image.double().flatten(), found.raw.flatten()])
    assert float(torch.corrcoef(pair)[0, 1]) > 0.4
    assert scope.dream(photo, "act:3", size=50, steps=2).raw.shape[2:] == (38, 50)
    with pytest.raises(UsageError, match="name one unit"):
        scope.dream(photo, "act:3-5")
    with pytest.raises(UsageError, match="of one photo"):
        scope.dream(photos(2, height=24, width=24), "act")


def test_a_caricature_points_where_its_photo_does():
    _, scope = small()
    images = photos(2, height=24, width=24)
    found = scope.caricature(images, "act", steps=80)
    ours, theirs = (
        F.normalize(layer_maps(scope.classifier, x, parse_address("act")).flatten(1), dim=1)
        for x in (found.raw, images)
    )
    cosines = ours @ theirs.T
    assert cosines[0, 0] > cosines[0, 1]
    assert cosines[1, 1] > cosines[1, 0]
    with pytest.raises(UsageError, match="leave out the units"):
        scope.caricature(images, "act:3")


def test_real_units_and_a_class_rise():
    net = cs.load("convscope:efficientnet_lite0", progress=False)
    for what, factor in (("blocks.1.1:0-2", 2.0), ("blocks.2.1:1-3", 5.0)):
        found = visualize(plan_patterns(net.classifier, what, steps=48, size=48))
        assert bool((found.after > factor * found.before.abs()).all())
    tench = net.visualize("@logits:tench", steps=24, size=96)
    assert tench.after > 8 + tench.before
