"""Patterns of layers: what addresses ask for, the same picture in any company, verdicts, figures beside brute force."""

import json

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import nn

import convscope as cs
from convscope.errors import Cancelled
from convscope.images.frame import Framing
from convscope.instrument.address import parse_address
from convscope.instrument.forward import layer_maps
from convscope.models.classifier import Classifier
from convscope.optvis import channel, spectrum
from convscope.optvis.asked import layers_of, merged
from convscope.optvis.visualize import plan_patterns, visualize
from tests.nets import photos, seeded
from tests.optvis.small import QUICK, small


def maps_of(scope, images, layer):
    return layer_maps(scope.classifier, images, parse_address(layer))


# --- what addresses ask for


ASKED = {
    "act": [f"act:{i}" for i in range(8)],
    "act:2-4": ["act:2", "act:3", "act:4"],
    "act:6,0-1": ["act:6", "act:0", "act:1"],
    "act:1@3,4": ["act:1@3,4"],
    "/relu": [f"/relu:{i}" for i in range(6)],
    "head:3": ["head:3"],
    "@last_conv:0": ["act:0"],
    "@logits": ["cat", "dog", "cow", "ant"],
    "@logits:hound": ["dog"],
    "@logits:dog, hound": ["dog"],
    "@logits:dog, hound,ant": ["dog", "ant"],
    "@logits:ant,1": ["ant", "dog"],
}


@pytest.mark.parametrize(("what", "names"), ASKED.items())
def test_an_address_asks_for_units_neurons_or_classes(what, names):
    _, scope = small()
    assert list(scope.visualize(what, steps=1).names) == names


@pytest.mark.parametrize("units", [[5, 1], (5, 1), iter([5, 1]), np.array([5, 1])])
def test_units_may_be_given_apart(units):
    _, scope = small()
    job = plan_patterns(scope.classifier, "act", units=units)
    assert [job.own.name(row) for row in range(len(job))] == ["act:5", "act:1"]


@pytest.mark.parametrize("unit", [3, np.int64(3), torch.tensor(3)])
def test_a_unit_may_be_any_integer(unit):
    _, scope = small()
    assert plan_patterns(scope.classifier, "act", units=unit).own.names == ("act:3",)
    assert plan_patterns(scope.classifier, "@logits", units=unit).own.names == ("ant",)


def test_classes_may_be_given_apart_by_name_or_index():
    _, scope = small()
    assert scope.visualize("@logits", "hound", steps=1).names == ("dog",)
    assert scope.visualize("@logits", ["cow", 0], steps=1).names == ("cow", "cat")
    assert scope.visualize("@logits", range(1, 3), steps=1).names == ("dog", "cow")


def test_both_ways_to_name_units_make_the_same_pictures():
    _, scope = small()
    assert torch.equal(scope.visualize("act:5,1", **QUICK).raw, scope.visualize("act", [5, 1], **QUICK).raw)
    assert torch.equal(scope.visualize("@logits:cow", **QUICK).raw, scope.visualize("@logits", 2, **QUICK).raw)


def test_an_objective_is_raised_as_it_is():
    _, scope = small()
    found = scope.visualize(channel("act", 3) - 0.5 * channel("act", 1), steps=20)
    assert found.names == ("act:3 - 0.5 act:1",)
    maps = maps_of(scope, found.raw, "act").mean((2, 3))[0]
    assert float(found.after) == pytest.approx(float(maps[3] - 0.5 * maps[1]))
    assert found.after > found.before
    least = scope.visualize(channel("act", 3), negative=True, steps=20)
    assert least.names == ("-act:3",)


def test_layers_of_the_same_maps_are_one_and_units_named_apart_too():
    net = seeded(nn.Sequential(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()), nn.AdaptiveAvgPool2d(1), nn.Flatten()))
    classifier = Classifier(net)
    assert layers_of(classifier, "0*") == ["0.0", "0"]  # the block gives what its ReLU gives
    assert layers_of(classifier, "*:2") == ["0.0:2", "0:2", "1:2"]
    assert merged(["a:0-1", "b", "a:1,5", "b:3", "c:0@1,2", "c:0"]) == ["a:0,1,5", "b", "c:0@1,2", "c:0"]


# --- the same picture in any company


def test_a_units_picture_is_the_same_in_any_company_and_other_units_have_others():
    _, scope = small()
    alone, several, turned = (scope.visualize(what, **QUICK) for what in ("act:3", "act:0-7", "act:7,3"))
    assert torch.equal(alone.raw[0], several.raw[3])
    assert torch.equal(alone.raw[0], turned.raw[1])
    assert not torch.allclose(several.raw[2], several.raw[3])
    assert torch.equal(scope.visualize("act:3", seed=0, **QUICK).raw, alone.raw)
    assert not torch.allclose(scope.visualize("act:3", seed=1, **QUICK).raw, alone.raw)


def test_units_begin_from_noise_of_their_own_and_so_do_layers_and_copies():
    _, scope = small()
    starts = torch.cat(
        [
            scope.visualize("two:0-2", steps=1, size=24).raw,
            scope.visualize("act:0-2", steps=1, size=24).raw,
            scope.visualize("act:0", steps=1, size=24, diversity=3).raw[1:],
        ]
    )
    distances = torch.cdist(starts.flatten(1), starts.flatten(1)) + 100 * torch.eye(len(starts))
    assert float(distances.min()) > 0.3


@pytest.mark.parametrize("recipe", ["fourier", "maco", "classic"])
def test_batches_joined_are_one_batch(recipe):
    _, scope = small()
    options = {"recipe": recipe, "steps": 3, "photos": photos(2, height=24, width=24)}
    budgets = {"fourier": 1.5, "maco": 4, "classic": 1.5}
    whole, parted = scope.visualize("act", **options), scope.visualize("act", budget=budgets[recipe], **options)
    assert plan_patterns(scope.classifier, "act", recipe=recipe, budget=budgets[recipe]).batch < 4
    for name in ("raw", "before", "after", "peaks", "natural"):
        assert torch.equal(getattr(whole, name), getattr(parted, name)), name
    assert (whole.names, whole.verdicts) == (parted.names, parted.verdicts)


def test_several_pictures_of_a_unit_are_less_alike_than_they_would_be():
    _, scope = small()
    options = {"size": 24, "steps": 60}
    several = scope.visualize("act:1", diversity=3, **options)
    assert several.names == ("act:1",) * 3

    def apart(images):
        """One less the mean cosine of their Gram matrices."""
        maps = maps_of(scope, images, "act").flatten(2)
        grams = F.normalize((maps @ maps.transpose(1, 2)).flatten(1), dim=1)
        cosines = grams @ grams.T
        return 1 - float(cosines.sum() - cosines.trace()) / 6

    plain = torch.cat([scope.visualize("act:1", seed=seed, **options).raw for seed in (1, 2, 3)])
    assert apart(several.raw) > 1.4 * apart(plain)
    assert bool((several.after > several.before).all())


def test_copies_are_of_their_own_unit_in_any_company():
    _, scope = small()
    both = scope.visualize("act:1,4", diversity=2, budget=2.0, **QUICK)
    assert both.names == ("act:1", "act:1", "act:4", "act:4")
    assert torch.equal(both.raw[2:], scope.visualize("act:4", diversity=2, **QUICK).raw)
    means = maps_of(scope, both.raw, "act").mean((2, 3))
    assert both.after.tolist() == pytest.approx([float(means[i, unit]) for i, unit in enumerate((1, 1, 4, 4))])


def test_classes_have_several_pictures_by_the_last_maps():
    _, scope = small()
    found = scope.visualize("@logits:cat,cow", diversity=2, steps=30)
    assert found.names == ("cat", "cat", "cow", "cow")
    assert bool((found.after > found.before).all())


# --- what a unit wants least


def test_what_a_rectified_unit_wants_least_is_read_before_its_relu():
    _, scope = small()
    for what, before in (("act:2", "two"), ("/relu:2", "one"), ("two:2", "two")):
        found = scope.visualize(what, negative=True, steps=30)
        assert found.names == (f"-{before}:2",)
        assert found.after > found.before
        assert any("rectified" in note for note in found.notes) == (what != "two:2")
        assert float(maps_of(scope, found.raw, before)[0, 2].mean()) == pytest.approx(-float(found.after))


def test_a_class_and_a_neuron_have_what_they_want_least_too():
    _, scope = small()
    least = scope.visualize("@logits:cow", negative=True, steps=30)
    assert least.names == ("-cow",)
    assert float(scope.classifier(least.raw).detach()[0, 2]) == pytest.approx(-float(least.after))
    assert least.after > least.before
    least = scope.visualize("act:2@5,6", negative=True, steps=30)
    assert least.names == ("-two:2@5,6",)
    assert float(maps_of(scope, least.raw, "two")[0, 2, 5, 6]) == pytest.approx(-float(least.after))


# --- verdicts


def test_dead_units_and_those_that_do_not_start_are_named_and_crossed_out():
    net, scope = small()
    noise, found = (float(scope.visualize("two:2", steps=steps).peaks) for steps in (1, 60))
    with torch.no_grad():
        net.two.weight[0] = 0
        net.two.bias[0] = -1.0  # no picture wakes it
        net.two.bias[1] = -1e4  # no picture that can be had does
        net.two.bias[2] -= 0.7 * noise + 0.3 * found  # silent to noise, not to its picture
    found = scope.visualize("act:0-3", steps=200)
    assert found.verdicts == ("dead", "did not start", "", "")
    assert found.before[2] == 0 < found.after[2]
    assert "act:0 gave 0 at every step, and no way up: dead" in found.notes
    assert "act:1 did not start" in found.notes
    assert "2 did not rise" in repr(found)
    red = np.abs(np.asarray(found.sheet()).astype(int) - np.array([235, 64, 52])).sum(2) < 9
    columns = red.any(0).nonzero()[0]
    assert red.sum() > 500, "the red cross"
    assert columns.max() < red.shape[1] / 2, "on the first two alone"
    assert [row["verdict"] for row in found.rows()] == list(found.verdicts)
    json.dumps(found.about())


def test_dead_units_of_every_batch_are_noted():
    net, scope = small()
    with torch.no_grad():
        for unit in (0, 7):
            net.two.weight[unit], net.two.bias[unit] = 0, -1.0
    found = scope.visualize("act", budget=1.0, steps=3)
    assert [found.names[i] for i, verdict in enumerate(found.verdicts) if verdict == "dead"] == ["act:0", "act:7"]
    assert [note[:5] for note in found.notes if "dead" in note] == ["act:0", "act:7"]


# --- figures


def test_figures_are_those_of_the_pictures_and_of_the_photos():
    _, scope = small()
    images = photos(5, height=24, width=24)
    found = scope.visualize("act:0-3", photos=images, **QUICK)
    ours, theirs = maps_of(scope, found.raw, "act"), maps_of(scope, images, "act")
    for unit in range(4):
        assert float(found.after[unit]) == pytest.approx(float(ours[unit, unit].mean()))
        assert float(found.peaks[unit]) == pytest.approx(float(ours[unit, unit].max()))
        assert float(found.natural[unit]) == pytest.approx(max(float(maps[unit].max()) for maps in theirs))
    assert bool(scope.visualize("act:0", **QUICK).natural.isnan().all())
    logits = scope.visualize("@logits", photos=images, **QUICK)
    assert torch.allclose(logits.natural, scope.classifier(images).amax(0).detach())
    assert torch.allclose(logits.peaks, logits.after)
    apart = scope.visualize("act:6,2", photos=images, diversity=2, **QUICK)
    assert apart.natural.tolist() == pytest.approx([float(theirs[:, unit].max()) for unit in (6, 6, 2, 2)])


def test_photos_are_looked_at_once_for_all_batches(monkeypatch):
    from convscope.optvis import visualize as module

    _, scope = small()
    looks, real = [], module._strongest
    monkeypatch.setattr(module, "_strongest", lambda *args: looks.append(args[2]) or real(*args))
    scope.visualize("act", photos=photos(2, height=24, width=24), budget=1.0, steps=1)
    assert looks == ["act"]


def test_before_is_the_starts_score_and_a_step_is_taken_from_there():
    _, scope = small()
    one, more = (scope.visualize("act:3", steps=steps) for steps in (1, 40))
    assert torch.equal(one.before, more.before)
    assert more.after > one.after > one.before


def test_maco_has_the_spectrum_of_the_users_photos():
    _, scope = small(size=32)
    rows = np.arange(32)
    wave = (128 + 100 * np.sin(rows * 2 * np.pi / 4))[:, None].repeat(32, 1)
    waves = [Image.fromarray(wave.astype(np.uint8))] * 2
    options = {"recipe": "maco", "size": 32, "steps": 4}
    theirs, usual = scope.visualize("act:0", photos=waves, **options), scope.visualize("act:0", **options)

    def share(images):
        """Of the energy that varies, what is in that wave."""
        energy = torch.fft.rfft2(images.logit().mean((0, 1))).abs().pow(2)
        energy[0, 0] = 0
        return float((energy[8, 0] + energy[24, 0]) / energy.sum())

    assert share(theirs.raw) > 0.6
    assert share(usual.raw) < 0.1
    job = plan_patterns(scope.classifier, "act:0", recipe="maco")
    assert job.recipe.how.parameterization.magnitudes is None
    assert spectrum.bundled().shape[0] == 3


def test_it_can_be_cancelled():
    _, scope = small()
    with cs.reporting(cancel=lambda: True), pytest.raises(Cancelled):
        scope.visualize("act:1")


# --- a network that has learned from photos


@pytest.fixture(scope="module")
def lite():
    return cs.load("convscope:efficientnet_lite0", progress=False)


@pytest.mark.parametrize(("what", "factor"), [("blocks.1.1:0-2", 2.0), ("blocks.2.1:1-3", 5.0)])
def test_real_units_rise(lite, what, factor):
    found = visualize(plan_patterns(lite.classifier, what, steps=64, size=48))
    assert bool((found.after > factor * found.before.abs()).all())
    assert not any(found.verdicts)


def test_a_real_class_rises_until_the_network_is_sure(lite):
    found = lite.visualize("@logits:tench", steps=64, size=96)
    assert float(found.after) > 15 + float(found.before)
    images = F.interpolate(found.raw, (224, 224), mode="bilinear")
    assert lite.predict(images.clamp(0, 1)).probabilities[0].argmax() == 0


def test_real_units_answer_more_to_their_pictures_than_to_noise_of_the_same_contrast(lite):
    found = visualize(plan_patterns(lite.classifier, "blocks.2.1:1-3", steps=64, size=48))
    shuffled = found.raw.flatten(2)[:, :, torch.randperm(48 * 48, generator=torch.Generator().manual_seed(0))]
    maps = maps_of(lite, shuffled.view_as(found.raw), "blocks.2.1")
    for i, unit in enumerate((1, 2, 3)):
        assert float(found.after[i]) > 3 * abs(float(maps[i, unit].mean()))


def test_photos_of_any_size_are_framed_as_the_network_takes_them(lite):
    assert isinstance(lite.classifier.framing, Framing)
    wide = Image.effect_noise((300, 200), 60).convert("RGB")
    found = lite.visualize("blocks.0.0:1", photos=[wide, wide.rotate(90, expand=True)], steps=2, size=32)
    assert bool(found.natural.isfinite().all())
