"""Photos as a layer sees them: dreams stay photos, caricatures point where their photo does."""

import json

import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from sklearn.datasets import load_sample_image
from torch import nn

import convscope as cs
from convscope.errors import Cancelled, ModelError, UsageError
from convscope.instrument.address import parse_address
from convscope.instrument.forward import layer_maps
from convscope.optvis import channel
from convscope.optvis.dream import dream
from tests.nets import photos, seeded
from tests.optvis.small import Small, small

LAYER = "blocks.2.1"


@pytest.fixture(scope="module")
def lite():
    return cs.load("convscope:efficientnet_lite0", size=128, progress=False)


@pytest.fixture(scope="module")
def sights():
    """A temple under a blue sky, and a flower."""
    return [Image.fromarray(load_sample_image(name)) for name in ("china.jpg", "flower.jpg")]


def soft(height=60, width=80):
    """A photo of nothing, of larger structures than single pixels."""
    noise = Image.effect_noise((width // 2, height // 2), 50).convert("RGB")
    return noise.resize((width, height), Image.Resampling.BICUBIC)


def energy(scope, images, layer):
    return float(layer_maps(scope.classifier, images, parse_address(layer)).pow(2).mean())


def alike(one, other):
    return float(torch.corrcoef(torch.stack([one.flatten().double(), other.flatten().double()]))[0, 1])


# --- dreams


def test_a_dream_raises_the_layer_and_leaves_the_photo_to_be_seen(lite, sights):
    found = lite.dream(sights[0], LAYER, steps=8)
    images, _ = lite.images(sights[0])
    before, after = energy(lite, images, LAYER), energy(lite, found.raw, LAYER)
    assert after > 1.5 * before
    assert alike(images, found.raw) > 0.8
    assert float(found.before) == pytest.approx(before, rel=1e-4)
    assert float(found.after) == pytest.approx(after, rel=1e-4)
    assert found.names[0] == "photo 1"
    assert found.title == f"energy of {LAYER} on photo 1"
    assert 0 <= float(found.raw.min()) < float(found.raw.max()) <= 1


def test_a_longer_dream_is_further_from_its_photo(lite, sights):
    images, _ = lite.images(sights[1])
    short, long = (lite.dream(sights[1], LAYER, steps=steps) for steps in (2, 12))
    assert long.after > short.after
    assert alike(images, long.raw) < alike(images, short.raw)


def test_a_dream_begins_at_small_sizes_and_comes_to_the_photos_own(monkeypatch):
    from convscope.optvis import dream as module

    _, scope = small()
    sizes, real = [], module.render
    monkeypatch.setattr(module, "render", lambda *args, **more: sizes.append(args[3][1:]) or real(*args, **more))
    found = dream(scope.classifier, photos(1, height=56, width=84), "act", steps=1)
    assert sizes[:4] == [(20, 31), (29, 43), (40, 60), (56, 84)]
    assert found.raw.shape == (1, 3, 56, 84)


def test_large_structures_come_from_small_sizes():
    _, scope = small()
    image = photos(1, height=56, width=56)
    one, four = (dream(scope.classifier, image, "act", steps=6, octaves=octaves) for octaves in (1, 4))

    def coarse(found):
        """Of what was changed, the share that is left when details are averaged away."""
        change = found.raw - image
        return float(F.avg_pool2d(change, 8).pow(2).mean() / change.pow(2).mean())

    assert coarse(four) > 1.5 * coarse(one)


def test_sizes_that_the_network_does_not_take_are_left_out():
    _, scope = small(fixed=True)
    found = dream(scope.classifier, photos(1, height=24, width=24), channel("head", 1), steps=3)
    assert found.raw.shape[2:] == (24, 24)
    assert found.after > found.before


def test_a_dream_may_be_of_a_unit_a_class_or_an_objective():
    _, scope = small()
    image = photos(1, height=24, width=24)
    for what, title in (
        ("act:3", "act:3"),
        ("act:3@1,2", "act:3@1,2"),
        ("@logits:ant", "ant"),
        (channel("act", 3) - channel("act", 1), "act:3 - act:1"),
        ("@stage:-1", "energy of act"),
        ("@stage:-1:3", "act:3"),
    ):
        found = scope.dream(image, what, steps=2)
        assert found.title == f"{title} on photo"
        assert found.after > found.before
        json.dumps(found.about(), allow_nan=False)


def test_the_longer_side_may_be_chosen():
    _, scope = small()
    assert scope.dream(soft(), "act:3", size=50, steps=1).raw.shape[2:] == (38, 50)
    assert scope.dream(soft(), "act:3", steps=1).raw.shape[2:] == (24, 24)


def test_the_same_seed_is_the_same_dream():
    _, scope = small()
    image = photos(1, height=24, width=24)
    first, again, other = (scope.dream(image, "act", steps=3, seed=seed).raw for seed in (5, 5, 6))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_a_dream_that_nothing_wakes_says_so():
    net, scope = small()
    with torch.no_grad():
        net.two.weight[0], net.two.bias[0] = 0, -1.0
    found = scope.dream(photos(1, height=24, width=24), "act:0", steps=2)
    assert found.verdicts == ("did not start",)
    assert found.notes == ("photo did not start",)


@pytest.mark.parametrize(
    ("what", "options", "words"),
    [
        ("act:3-5", {}, "a dream raises one score, act:3-5 has 3: name one unit, or the layer alone"),
        ("@logits", {}, "a dream raises one score, @logits has 4"),
        ("nolayer", {}, "unknown layer 'nolayer'"),
        ("act:9", {}, "unit 9 is out of range"),
        ("@stages", {}, "selects 2 layers, one is needed"),
        ("@stage:-3", {}, "the network has 2 stages"),
        ("act", {"steps": 0}, "at least 1 step"),
    ],
)
def test_what_cannot_be_dreamt_of_is_refused_in_one_line(what, options, words):
    _, scope = small()
    with pytest.raises(UsageError) as caught:
        scope.dream(photos(1, height=24, width=24), what, **options)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_dream_is_of_one_photo_at_one_size_at_least():
    _, scope = small()
    with pytest.raises(UsageError, match="a dream is of one photo, got 2"):
        scope.dream(photos(2, height=24, width=24), "act")
    with pytest.raises(UsageError, match="at least 1 size, got 0"):
        dream(scope.classifier, photos(1, height=24, width=24), "act", octaves=0)


@pytest.mark.parametrize("layer", ["@last_conv", "@stage:-1"])
def test_a_photo_of_a_size_that_the_network_does_not_take_is_said(layer):
    scope = cs.Scope(seeded(Small(fixed=True)), progress=False)
    image = photos(1, height=30, width=20)
    for work in (scope.dream, scope.caricature):
        with pytest.raises(ModelError, match="Small fails on an input of 30x20") as caught:
            work(image, layer)
        assert "\n" not in str(caught.value)


def test_a_dream_can_be_cancelled():
    _, scope = small()
    with cs.reporting(cancel=lambda: True), pytest.raises(Cancelled):
        scope.dream(photos(1, height=24, width=24), "act")


# --- caricatures


def test_a_caricature_points_where_its_photo_does_more_than_anothers(lite, sights):
    found = lite.caricature(sights, LAYER, steps=40)
    images, _ = lite.images(sights)
    ours, theirs = (
        F.normalize(layer_maps(lite.classifier, x, parse_address(LAYER)).flatten(1), dim=1) for x in (found.raw, images)
    )
    cosines = ours @ theirs.T
    assert float(cosines[0, 0]) > float(cosines[0, 1]) + 0.1
    assert float(cosines[1, 1]) > float(cosines[1, 0]) + 0.1
    assert bool((found.after > 2 * found.before).all())
    assert found.names == ("photo 1", "photo 2")
    assert found.title == f"caricature in {LAYER}"
    json.dumps(found.about(), allow_nan=False)


def test_a_caricature_goes_further_than_its_photo():
    """The product with the photo's activations rises above the photo's own with itself."""
    _, scope = small()
    images = photos(2, height=24, width=24)
    found = scope.caricature(images, "act", steps=80)
    ours, theirs = (layer_maps(scope.classifier, x, parse_address("act")).flatten(1) for x in (found.raw, images))
    assert bool(((ours * theirs).sum(1) > (theirs * theirs).sum(1)).all())


def test_a_photos_caricature_is_the_same_in_any_company():
    _, scope = small()
    images = photos(3, height=24, width=24)
    whole = scope.caricature(images, "act", steps=4)
    assert torch.allclose(scope.caricature(images[1:2], "act", steps=4).raw[0], whole.raw[1], atol=1e-10)
    assert not torch.allclose(whole.raw[0], whole.raw[1], atol=1e-3)


def test_a_layer_of_numbers_has_caricatures_too():
    _, scope = small()
    found = scope.caricature(photos(1, height=24, width=24), "head", steps=30)
    assert found.after > found.before


@pytest.mark.parametrize(
    ("layer", "words"),
    [
        ("act:3", "act:3: a caricature is of a whole layer, leave out the units"),
        ("nolayer", "unknown layer"),
        ("@logits", "@logits is the output, not a layer with maps"),
        ("*", "one is needed"),
    ],
)
def test_what_has_no_caricature_is_refused(layer, words):
    _, scope = small()
    with pytest.raises(UsageError) as caught:
        scope.caricature(photos(1, height=24, width=24), layer)
    assert words in str(caught.value)


def test_a_dead_layer_has_no_caricature():
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    scope = cs.Scope(seeded(net), size=24, progress=False)
    with torch.no_grad():
        net[0].weight.zero_()
        net[0].bias.fill_(-1)
    with pytest.raises(UsageError) as caught:
        scope.caricature(photos(1, height=24, width=24), "1")
    assert "\n" not in str(caught.value)
